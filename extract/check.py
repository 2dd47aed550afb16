"""Is a store what it says it is? Checks that name every problem, in plain files and without a GPU.

A check is a function from a `Contents` to its problems; `verify` runs a list of them, so a caller may
add its own. Shards are opened only where index.json or SHA256SUMS vouches for their bytes: HDF5 can
crash or hang on damaged metadata.
"""

from __future__ import annotations

import enum
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from extract.errors import StoreError
from extract.files import sha256_of
from extract.store import (
    FAILURES,
    INDEX,
    STATUSES,
    SUMS,
    VIDEOS,
    VideoRecord,
    crc32_of,
    has_config,
    is_shard_name,
    names_in,
    open_shard,
    plain_dataset,
    read_index,
    read_records,
    record_of,
)

TABLES = (INDEX, VIDEOS, FAILURES)
_LEFTOVER = re.compile(r"\..+\.partial")
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_STORE_NAME = re.compile(r".+-([0-9a-f]{8})")
_ROWS = 4096
"""Rows looked at in one go, so that a long video does not take several times its size in memory."""

_UNREADABLE = (StoreError, OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises on a file that is damaged."""

T = TypeVar("T")


class Kind(enum.Enum):
    """What can be wrong, and what to do then."""

    ABSENT = ("absent file", "Run extract again: tables are rebuilt, lost shards made anew.")
    UNREADABLE = ("unreadable file", "Check its permissions and the disk.")
    LINK = ("not a plain file", "Put the file itself there.")
    LEFTOVER = ("leftover of a killed run", "Delete it, unless an extraction runs there now.")
    FOREIGN = ("foreign file", "Move it out of the store.")
    SUMS = ("damaged SHA256SUMS", "Delete it and run extract again.")
    TABLE = ("damaged table", "Delete it and run extract again: it is made anew from the shards.")
    SHARD = ("damaged shard", "Delete it, then run extract again.")
    CONTRADICTION = ("contradiction", "Delete index.json and run extract again.")
    SOURCE = ("source that is not the one extracted", "Restore it, or extract it again.")

    def __init__(self, label: str, advice: str) -> None:
        self.label = label
        self.advice = advice


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: its kind, the file or video, and what was found."""

    kind: Kind
    where: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found}"


class Contents:
    """What lies in a store's folder, hashed and parsed. What cannot be read is None and a problem."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[Problem] = []
        self.digests: dict[str, str] = {}
        """sha256 of every file whose name belongs in a store."""
        for path in sorted(folder.iterdir()):
            self._look_at(path)
        for name in (*TABLES, SUMS):
            if name not in self.digests and not os.path.lexists(folder / name):
                self._add(Kind.ABSENT, name, "not there")
        self.index: dict[str, Any] | None = self._parse(INDEX, lambda path: read_index(path.parent))
        self.rows = self._parse(VIDEOS, read_records)
        self.failures = self._parse(FAILURES, read_records)
        self.sums: dict[str, str] = self._parse(SUMS, self._read_sums) or {}
        self.shards = {shard["file"]: shard for shard in (self.index or {}).get("shards", ())}
        self.by_shard: dict[str, dict[str, VideoRecord]] = defaultdict(dict)
        for row in self.rows or ():
            if row.stored:
                self.by_shard[row.shard][row.video] = row

    def recorded(self, name: str) -> dict[str, str]:
        """The sha256 of a file as written down: in which table -> hex digits."""
        places = {SUMS: self.sums.get(name), INDEX: self.shards.get(name, {}).get("sha256")}
        return {where: digest for where, digest in places.items() if digest is not None}

    def _look_at(self, path: Path) -> None:
        name = path.name
        if _LEFTOVER.fullmatch(name):
            self._add(Kind.LEFTOVER, name, f"{path.lstat().st_size:,} bytes")
        elif name not in (*TABLES, SUMS) and not is_shard_name(name):
            self._add(Kind.FOREIGN, name, "no file of a store")
        elif path.is_symlink() or not path.is_file():
            self._add(Kind.LINK, name, "a link" if path.is_symlink() else "no file")
        else:
            try:
                self.digests[name] = sha256_of(path)
            except OSError as error:
                self._add(Kind.UNREADABLE, name, error.strerror or str(error))

    def _parse(self, name: str, read: Callable[[Path], T]) -> T | None:
        if name not in self.digests:
            return None
        try:
            return read(self.folder / name)
        except StoreError as error:
            self._add(Kind.TABLE, name, str(error))
            return None

    def _read_sums(self, path: Path) -> dict[str, str]:
        *lines, last = path.read_bytes().decode("utf-8", errors="replace").split("\n")
        matches = [_SUM_LINE.fullmatch(line) for line in lines]
        bad = [line for line, match in zip(lines, matches) if not match] + [last] * bool(last)
        sums = {match[2]: match[1] for match in matches if match}
        if bad or len(sums) < len(matches):
            self._add(Kind.SUMS, SUMS, f"a line is malformed or there twice: {(bad or lines)[0]!r}")
        return sums

    def _add(self, kind: Kind, where: str, found: str) -> None:
        self.problems.append(Problem(kind=kind, where=where, found=found))


Check = Callable[[Contents], Iterable[Problem]]


def verify(folder: Path, checks: Sequence[Check]) -> Iterator[Problem]:
    """Every problem of the store in `folder`.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    contents = Contents(folder)
    yield from contents.problems
    for check in checks:
        yield from check(contents)


def hashes(contents: Contents) -> Iterator[Problem]:
    """Sizes and sha256 of all files against index.json and SHA256SUMS."""
    expected = {*TABLES, *(contents.shards if contents.index else contents.digests)} - {SUMS}
    for name in sorted(set(contents.sums) - expected) if SUMS in contents.digests else ():
        yield Problem(
            kind=Kind.SUMS, where=SUMS, found=f"lists {name!r}, which is not in the index"
        )
    for name in sorted(expected - set(contents.sums)) if SUMS in contents.digests else ():
        yield Problem(kind=Kind.SUMS, where=SUMS, found=f"does not list {name}")
    for name, found in contents.digests.items():
        recorded = contents.recorded(name)
        says = ", ".join(f"{where} says {digest[:8]}..." for where, digest in recorded.items())
        if recorded and found not in recorded.values():
            kind = Kind.SHARD if is_shard_name(name) else Kind.TABLE
            yield Problem(kind=kind, where=name, found=f"its sha256 is {found[:8]}..., {says}")
        elif len(set(recorded.values())) > 1:
            yield Problem(kind=Kind.CONTRADICTION, where=name, found=f"of its sha256 {says}")
    for name, shard in contents.shards.items():
        if name in contents.digests:
            size = (contents.folder / name).stat().st_size
            if size != shard["bytes"]:
                text = f"{size:,} bytes, the index says {shard['bytes']:,}"
                yield Problem(kind=Kind.SHARD, where=name, found=text)
        elif not os.path.lexists(contents.folder / name):
            yield Problem(kind=Kind.ABSENT, where=name, found="not there, but in the index")


def tables(contents: Contents) -> Iterator[Problem]:
    """index.json, videos.csv and failures.csv against each other and against the files there."""
    for where, found in _table_problems(contents):
        yield Problem(kind=Kind.CONTRADICTION, where=where, found=found)


def _table_problems(contents: Contents) -> Iterator[tuple[str, str]]:
    index, rows, failures = contents.index, contents.rows, contents.failures
    if index:
        named = _STORE_NAME.fullmatch(contents.folder.resolve().name)
        if named and named[1] != index["config_sha256"][:8]:
            config = index["config_sha256"][:8]
            yield INDEX, f"the folder's name says config {named[1]}, the index {config}"
        for name in sorted(filter(is_shard_name, contents.digests.keys() - contents.shards.keys())):
            yield name, "not in the index: its run was stopped before it ended"
    if rows is None:
        return
    for video, count in Counter(row.video for row in rows).items():
        if count > 1:
            yield VIDEOS, f"{count} rows for {video}"
    for row in rows:
        wrong = _wrong_row(row, contents.shards if index else None)
        if wrong:
            yield VIDEOS, f"{row.video} {wrong}"
    if failures is not None and failures != [row for row in rows if row.status != "ok"]:
        yield FAILURES, f"not the rows of {VIDEOS} whose status is not ok"
    if index:
        yield from _count_problems(contents, index, rows)


def _wrong_row(row: VideoRecord, shards: dict[str, Any] | None) -> str:
    if row.status not in STATUSES:
        return f"has status {row.status!r}, expected one of {', '.join(STATUSES)}"
    if not row.stored:
        return f"is {row.status}, but has a shard" if row.shard else ""
    if row.frames < 1:
        return f"is stored with {row.frames} frames"
    return "" if shards is None or row.shard in shards else f"is in {row.shard!r}: not in the index"


def _count_problems(
    contents: Contents, index: dict[str, Any], rows: list[VideoRecord]
) -> Iterator[tuple[str, str]]:
    stored = [row for row in rows if row.stored]
    statuses = Counter(row.status for row in rows)
    totals = {
        **{"listed": len(rows), "stored": len(stored), "frames": sum(r.frames for r in stored)},
        **{status: statuses[status] for status in STATUSES[1:]},
    }
    for name, count in totals.items():
        if index["totals"][name] != count:
            yield INDEX, f"totals.{name} is {index['totals'][name]}, {VIDEOS} has {count}"
    if index["complete"] is not (len(stored) == len(rows)):
        yield INDEX, f"complete is {index['complete']}, {len(stored)} of {len(rows)} are stored"
    for shard in index["shards"]:
        inside = contents.by_shard.get(shard["file"], {})
        counted = (len(inside), sum(row.frames for row in inside.values()))
        if counted != (shard["videos"], shard["frames"]):
            said = f"{shard['videos']} videos and {shard['frames']} frames"
            rows_say = f"{VIDEOS} has {counted[0]} and {counted[1]}"
            yield INDEX, f"{shard['file']} with {said}, {rows_say}"


def features(contents: Contents) -> Iterator[Problem]:
    """Inside the shards: config, names, records against videos.csv, shapes, crc32, finite values."""
    for name, digest in contents.digests.items():
        if is_shard_name(name) and digest in contents.recorded(name).values():
            try:
                with open_shard(contents.folder / name) as file:
                    for found in _shard_problems(contents, file, name):
                        yield Problem(kind=Kind.SHARD, where=name, found=found)
            except _UNREADABLE as error:
                yield Problem(kind=Kind.SHARD, where=name, found=str(error))


def _shard_problems(contents: Contents, file: h5py.File, shard: str) -> Iterator[str]:
    if contents.index and not has_config(file, contents.index["config"]):
        yield "made with another config than the index says"
    rows = contents.by_shard.get(shard, {})
    names = set(names_in(file))
    if contents.rows is not None:
        for video in sorted(rows.keys() - names):
            yield f"{video} is not in it, though {VIDEOS} says so"
        for video in sorted(names - rows.keys()):
            yield f"{video} is in it, though {VIDEOS} does not say so"
    for video in sorted(names):
        try:
            yield from _video_problems(contents, file, shard, video)
        except _UNREADABLE as error:
            yield f"{video} cannot be read ({error})"


def _video_problems(contents: Contents, file: h5py.File, shard: str, video: str) -> Iterator[str]:
    dataset = plain_dataset(file, video, contents.folder / shard)
    record = record_of(dataset)
    row = contents.by_shard.get(shard, {}).get(video)
    if row and record != row:
        yield f"the record beside {video} is not its row in {VIDEOS}"
    width = (contents.index["width"],) if contents.index else dataset.shape[1:]
    if dataset.shape != (record.frames, *width):
        yield f"{video} has shape {dataset.shape}, expected {(record.frames, *width)}"
        return
    values: np.ndarray = dataset[()]
    if crc32_of(values) != record.crc32:
        yield f"the features of {video} do not have their crc32"
    if not all(np.isfinite(values[i : i + _ROWS]).all() for i in range(0, len(values), _ROWS)):
        yield f"the features of {video} are not finite"


CHECKS: tuple[Check, ...] = (hashes, tables, features)
