"""Checks that name everything in a store that is not what was written. They need no GPU.

A check is a function from a `Contents` to its problems; a caller may add its own to those of `verify`. A
shard is opened only if its sha256 is in index.json or SHA256SUMS: HDF5 may hang on damaged metadata.
Above 250 lines because the checks are read with the loop that runs them.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store.contents import TABLES, Contents, Kind, Problem
from store.errors import StoreError, counted
from store.format import FAILURES, INDEX, SUMS, VIDEOS, is_shard_name, renamed
from store.locks import writers
from store.records import STATUSES, VideoRecord
from store.shards import (
    UNREADABLE,
    config_in,
    has_config,
    names_in,
    open_shard,
    plain_dataset,
    reason_of,
    record_of,
    values_of,
)

_LOOKS, _PAUSE_SECONDS = 4, 0.25
_LASTING = (Kind.UNREADABLE, Kind.LINK, Kind.FOREIGN, Kind.SHARD, Kind.SOURCE)
"""Kinds of problems that a writing extraction does not cause, so they count if every look finds them."""
_UNREADABLE = (StoreError, *UNREADABLE)

Check = Callable[[Contents], Iterable[Problem]]


def verify(
    folder: Path, checks: Sequence[Check], on_bytes: Callable[[int], None] = lambda count: None
) -> Iterator[Problem]:
    """Yield every problem of the store in `folder`. If an extraction is writing, look again a few times.
    Every shard is read twice, as a file and as features; `on_bytes`: see `Contents`.

    Raises:
        OSError: the folder itself cannot be listed.
    """
    known: dict[tuple[Any, ...], str] = {}
    lasting: list[Problem] | None = None
    before = _state(folder)
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE_SECONDS)
        begin = _state(folder)
        contents = Contents(folder, known, on_bytes)
        problems = contents.problems + [p for check in checks for p in check(contents)]
        writing = bool(writers(folder)) or _state(folder) != before
        # After a shard is finished and before its index is written, a writer cannot be seen: look twice.
        maybe = look == 0 and any(problem.kind not in _LASTING for problem in problems)
        if not problems or not (writing or maybe):
            yield from problems
            return
        before = begin
        lasting = [p for p in (problems if lasting is None else lasting) if p in problems]
    yield from (problem for problem in lasting or () if problem.kind in _LASTING)
    text = "its files did not fit each other in any look"
    yield Problem(kind=Kind.WRITING, where=folder.name, found=text)


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Return the name, inode and time of the last change of every visible file in a folder."""
    found = []
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):
                stat = path.lstat()
                found.append((path.name, stat.st_ino, stat.st_mtime_ns))
    return found


def hashes(contents: Contents) -> Iterator[Problem]:
    """Compare the sizes and sha256 of all files with index.json and SHA256SUMS."""
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
            yield Problem(
                kind=Kind.CONTRADICTION,
                where=name,
                found=f"the tables disagree about its sha256: {says}",
            )
    for name, shard in contents.shards.items():
        if name in contents.digests:
            size = contents.sizes[name]
            if size != shard["bytes"]:
                text = f"{size:,} bytes, the index says {shard['bytes']:,}"
                yield Problem(kind=Kind.SHARD, where=name, found=text)
        elif not os.path.lexists(contents.folder / name):
            yield Problem(
                kind=Kind.ABSENT, where=name, found="it is not there, but the index lists it"
            )


def tables(contents: Contents) -> Iterator[Problem]:
    """Compare index.json, videos.csv and failures.csv with each other and with the files in the folder."""
    for where, found in _table_problems(contents):
        yield Problem(kind=Kind.CONTRADICTION, where=where, found=found)


def _table_problems(contents: Contents) -> Iterator[tuple[str, str]]:
    index, rows, failures = contents.index, contents.rows, contents.failures
    if index:
        wrong = renamed(contents.folder.resolve().name, index)
        if wrong:
            yield INDEX, wrong
        for name in sorted(filter(is_shard_name, contents.digests.keys() - contents.shards.keys())):
            yield name, "it is not in the index, because its run was stopped before it ended"
    if rows is None:
        return
    for video, count in Counter(row.video for row in rows).items():
        if count > 1:
            yield VIDEOS, f"{counted(count, 'row')} for {video}"
    for row in rows:
        wrong = _wrong_row(row, contents.shards if index else None)
        if wrong:
            yield VIDEOS, f"{row.video} {wrong}"
    if failures is not None and failures != [row for row in rows if row.status != "ok"]:
        yield FAILURES, f"its rows are not those of {VIDEOS} whose status is not ok"
    if index:
        yield from _count_problems(contents, index, rows)


def _wrong_row(row: VideoRecord, shards: dict[str, Any] | None) -> str:
    if row.status not in STATUSES:
        return f"has status {row.status!r}, expected one of {', '.join(STATUSES)}"
    if not row.stored:
        return f"is {row.status}, but has a shard" if row.shard else ""
    if row.frames < 1:
        return f"is stored with {counted(row.frames, 'frame')}"
    if shards is not None and row.shard not in shards:
        return f"is in {row.shard!r}, which is not in the index"
    return ""


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
        yield (
            INDEX,
            f"complete is {index['complete']}, {counted(len(stored), 'row', 'is', of=len(rows))} stored",
        )
    for shard in index["shards"]:
        inside = contents.by_shard.get(shard["file"], {})
        found = (len(inside), sum(row.frames for row in inside.values()))
        if found != (shard["videos"], shard["frames"]):
            said = f"{counted(shard['videos'], 'video')} and {counted(shard['frames'], 'frame')}"
            rows_say = f"{VIDEOS} has {found[0]} and {found[1]}"
            yield INDEX, f"{shard['file']} with {said}, {rows_say}"


def features(contents: Contents) -> Iterator[Problem]:
    """Check what is inside the shards: config, names, records, shapes, crc32 and finite values."""
    for name, digest in contents.digests.items():
        if is_shard_name(name) and digest in contents.recorded(name).values():
            try:
                with open_shard(contents.folder / name) as file:
                    for kind, found in _shard_problems(contents, file, name):
                        yield Problem(kind=kind, where=name, found=found)
            except _UNREADABLE as error:
                yield Problem(kind=Kind.SHARD, where=name, found=reason_of(error))


def _shard_problems(contents: Contents, file: h5py.File, shard: str) -> Iterator[tuple[Kind, str]]:
    if contents.index and not has_config(file, contents.index["config"]):
        yield Kind.SHARD, "it was made with another config than the index says"
    rows = contents.by_shard.get(shard, {})
    names = set(names_in(file))
    if contents.rows is not None:
        for video in sorted(rows.keys() - names):
            yield Kind.SHARD, f"{video} is not in it, though {VIDEOS} says so"
        for video in sorted(names - rows.keys()):
            yield from _unlisted_problems(contents, file, shard, video)
    for video in sorted(names):
        try:
            for found in _video_problems(contents, file, shard, video):
                yield Kind.SHARD, found
        except _UNREADABLE as error:
            yield Kind.SHARD, f"{video} cannot be read ({reason_of(error)})"


def _unlisted_problems(
    contents: Contents, file: h5py.File, shard: str, video: str
) -> Iterator[tuple[Kind, str]]:
    """Look at a video that no row has in this shard.

    A stopped rewrite leaves the same features in a shard of a higher number, which is no problem; a stopped
    `extract --redo` leaves newer ones there.
    """
    row = contents.by_video.get(video)
    if row is None or row.shard <= shard:
        yield Kind.SHARD, f"{video} is in it, though {VIDEOS} does not say so"
        return
    with contextlib.suppress(*_UNREADABLE):  # reported where every video is read
        if _read(contents, file, shard, video)[1].crc32 != row.crc32:
            yield Kind.REPLACED, f"{video} is in it, and with newer features in {row.shard}"


def _video_problems(contents: Contents, file: h5py.File, shard: str, video: str) -> Iterator[str]:
    dataset, record = _read(contents, file, shard, video)
    row = contents.by_shard.get(shard, {}).get(video)
    if row and record != row:
        yield f"the record beside {video} is not its row in {VIDEOS}"
    width = (contents.index["width"],) if contents.index else dataset.shape[1:]
    if dataset.shape != (record.frames, *width):
        yield f"{video} has shape {dataset.shape}, expected {(record.frames, *width)}"
        return
    crc32, finite = 0, True
    for values in values_of(dataset, contents.folder / shard):
        contents.on_bytes(values.nbytes)
        crc32 = zlib.crc32(values.data, crc32)
        finite = finite and bool(np.isfinite(values).all())
    if f"{crc32:08x}" != record.crc32:
        yield f"the features of {video} do not have their crc32"
    if not finite:
        yield f"the features of {video} are not finite"


def _read(
    contents: Contents, file: h5py.File, shard: str, video: str
) -> tuple[h5py.Dataset, VideoRecord]:
    config = contents.index["config"] if contents.index else config_in(file)
    dataset = plain_dataset(file, video, contents.folder / shard, config)
    return dataset, record_of(dataset, contents.folder / shard)


CHECKS: tuple[Check, ...] = (hashes, tables, features)
