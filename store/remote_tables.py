"""The tables of a store that lies elsewhere: reading them as a stranger's, and merging ours into them."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store.errors import StoreError, counted, first_of
from store.format import (
    FAILURES,
    INDEX,
    LARGEST,
    SUMS,
    VIDEOS,
    config_differences,
    parse_index,
    read_table,
)
from store.ids import is_plain_name
from store.records import REBUILD, REMAKE, VideoRecord, parse_records
from store.remote import Remote
from store.tables import make_tables

_TRIES, _PAUSE_SECONDS = 5, 1.0
PUSH_AGAIN = "Check that the URL is that of a store; if it is, push the store again with --replace."
"""What to do about a damaged table elsewhere."""
_MEND = "Run store verify where the store was made, and push it again with --replace."


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The index of a store and its rows, which fit each other."""

    index: dict[str, Any]
    rows: Sequence[VideoRecord]
    raw: Mapping[str, bytes] = field(default_factory=dict)
    """The tables as they were read: index.json, videos.csv and failures.csv; empty if they were made."""

    @property
    def shards(self) -> dict[str, dict[str, Any]]:
        """The index's entries by the names of the shards."""
        return {entry["file"]: entry for entry in self.index["shards"]}

    def written(self) -> dict[str, bytes]:
        """Return all tables as they are written, by name in the order of writing.

        Those that were read stay as they are; SHA256SUMS is always made.
        """
        index = self.index
        _, texts = make_tables(
            dataset=index["dataset"],
            config=index["config"],
            width=index["width"],
            rows=self.rows,
            run=index["run"],
            shards=index["shards"],
        )
        made = {name: text.encode("utf-8", "surrogateescape") for name, text in texts.items()}
        found = {name: self.raw.get(name, made[name]) for name in (VIDEOS, FAILURES, INDEX)}
        digests = [(entry["sha256"], entry["file"]) for entry in index["shards"]]
        digests += [(hashlib.sha256(found[n]).hexdigest(), n) for n in (INDEX, VIDEOS, FAILURES)]
        found[SUMS] = "".join(f"{digest}  {name}\n" for digest, name in digests).encode()
        return found


def tables_here(folder: Path) -> Tables:
    """Read the tables of a store on this machine.

    Raises:
        StoreError: there is no store, or its tables do not fit each other.
    """
    for _ in range(_TRIES):
        raw = {name: read_table(folder / name) for name in (INDEX, VIDEOS, FAILURES)}
        index = parse_index(raw[INDEX], folder / INDEX)
        if _fits(index, raw):
            break
        time.sleep(_PAUSE_SECONDS / 5)
    else:
        raise StoreError(
            f"{folder}: {INDEX} and {VIDEOS} are not of one state. Let an extraction that runs there end, "
            f"or {REMAKE}: it writes both anew."
        )
    return _checked(index, raw, folder, REBUILD)


def tables_at(remote: Remote, *, interrupted: bool = False) -> Tables | None:
    """Read the tables of a store elsewhere; None if there is none.

    Args:
        interrupted: whether to accept what a push that was killed between two tables leaves: rows of
            shards that are not in the index yet become pending.

    Raises:
        StoreError: they are damaged, too large, or not of one state, even after waiting for others.
        UnreachableError: the server does not answer.
    """
    shown = str(remote.url)
    for left in reversed(range(_TRIES)):
        data = remote.table(INDEX, LARGEST[INDEX])
        if data is None:
            return None
        index = parse_index(data, f"{shown}/{INDEX}", PUSH_AGAIN)
        raw = {INDEX: data}
        for name in (VIDEOS, FAILURES):
            found = remote.table(name, LARGEST[name])
            if found is None:
                raise StoreError(f"{shown} has no {name}, though it has {INDEX}. {PUSH_AGAIN}")
            raw[name] = found
        if _fits(index, raw):
            return _checked(index, raw, shown, PUSH_AGAIN)
        if left:
            time.sleep(_PAUSE_SECONDS)
    if not interrupted:
        raise StoreError(
            f"{remote.url}: {INDEX} and {VIDEOS} are not of one state: a push was stopped there, or is still "
            "running. Push the store again, which completes it, or try again later."
        )
    listed = {entry["file"] for entry in index["shards"]}
    rows = [
        row
        if not row.stored or row.shard in listed
        else VideoRecord(video=row.video, status="pending", error="its push was interrupted")
        for row in parse_records(raw[VIDEOS], f"{shown}/{VIDEOS}", PUSH_AGAIN)
    ]
    check_counts(index, rows, shown)
    return Tables(index=index, rows=rows)


def _fits(index: Mapping[str, Any], raw: Mapping[str, bytes]) -> bool:
    return all(
        hashlib.sha256(raw[name]).hexdigest() == index["tables"][name]
        for name in (VIDEOS, FAILURES)
    )


def _checked(
    index: dict[str, Any], raw: Mapping[str, bytes], where: Path | str, remedy: str
) -> Tables:
    """Check what a reader of a stranger's store relies on."""
    if not is_plain_name(index["dataset"]):
        raise StoreError(
            f"{where}/{INDEX} names the data set {index['dataset'][:60]!r}, which is no name of a folder. "
            "It is refused."
        )
    twice = [name for name, n in Counter(e["file"] for e in index["shards"]).items() if n > 1]
    if twice:
        raise StoreError(
            f"{where}/{INDEX} lists {counted(len(twice), 'shard')} twice {first_of(twice)}. {remedy}"
        )
    rows = parse_records(raw[VIDEOS], f"{where}/{VIDEOS}", remedy)
    check_counts(index, rows, where)
    return Tables(index=index, rows=rows, raw=raw)


def check_counts(index: Mapping[str, Any], rows: Sequence[VideoRecord], where: Path | str) -> None:
    """Make sure that the rows have every video once, and as many in every shard as the index says.

    Raises:
        StoreError: they have not.
    """
    twice = [name for name, n in Counter(row.video for row in rows).items() if n > 1]
    if twice:
        raise StoreError(
            f"{where}: {VIDEOS} names {counted(len(twice), 'video')} twice {first_of(twice)}. {_MEND}"
        )
    videos: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    for row in rows:
        if row.stored:
            videos[row.shard] += 1
            frames[row.shard] += row.frames
    said = {entry["file"]: (entry["videos"], entry["frames"]) for entry in index["shards"]}
    found = {name: (videos[name], frames[name]) for name in {*said, *videos}}
    wrong = sorted(name for name in found if found[name] != said.get(name))
    if wrong:
        raise StoreError(
            f"{where}: {INDEX} and {VIDEOS} contradict each other in {counted(len(wrong), 'shard')} "
            f"{first_of(wrong)}. {_MEND}"
        )


def check_same_config(ours: Tables, theirs: Tables, where: object) -> None:
    """Make sure that both stores were made in the same way, of the same data set.

    Raises:
        StoreError: they were not.
    """
    a, b = ours.index, theirs.index
    if a["config_sha256"] != b["config_sha256"]:
        raise StoreError(
            f"{where} has another store under the same name: they differ in "
            f"{config_differences(a['config'], b['config'])}. Rename one of the folders back."
        )
    for name in ("dataset", "width"):
        if a[name] != b[name]:
            raise StoreError(
                f"{where} has a store of another {name} under the same name: {b[name]!r}, here it is "
                f"{a[name]!r}. Choose another place."
            )


def merged(ours: Tables, theirs: Tables, where: object) -> Tables:
    """Return the tables of a store with the shards of both.

    Args:
        theirs: what is there already.
        where: its URL, for messages.

    Raises:
        StoreError: both have a shard of one name with other bytes, or one video in two shards.
    """
    check_same_config(ours, theirs, where)
    a, b = ours.shards, theirs.shards
    unlike = sorted(name for name in a.keys() & b.keys() if a[name]["sha256"] != b[name]["sha256"])
    other = {row.video: row for row in theirs.rows}
    twice = sorted(
        row.video
        for row in ours.rows
        if row.stored
        and (there := other.get(row.video)) is not None
        and there.stored
        and there.shard != row.shard
    )
    if unlike or twice:
        found = (
            f"{counted(len(unlike), 'shard')} of the same name with other contents {first_of(unlike)}"
            if unlike
            else f"{len(twice)} of the same videos in other shards {first_of(twice)}"
        )
        raise StoreError(
            f"{where} has {found}. Both were made separately, so they are not mixed: see what differs with "
            "store compare, then push to another place, or give --replace to put yours in place of those."
        )
    rows = dict(other)
    for row in ours.rows:
        there = rows.get(row.video)
        if there is None or row.stored or (not there.stored and row.status != "pending"):
            rows[row.video] = row
    index = {**theirs.index, "shards": [{**b, **a}[name] for name in sorted({*a, *b})]}
    return Tables(index=index, rows=[rows[video] for video in sorted(rows)])
