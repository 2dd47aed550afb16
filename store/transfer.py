"""Downloading the shards of a store: ranges in parallel, written in order, checked, renamed at the end.

A shard that is being downloaded is a part file beside its place, `.{shard}.{sha256}.partial`. It grows
only at its end, so after a kill the download goes on where it stopped. It gets the shard's name only when
it has the size and the sha256 that the index says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from store.errors import StoreError, UnreachableError
from store.files import explained, sync_folder
from store.remote import Remote, read_range
from store.remote_http import HttpRemote, RangesIgnored

BLOCK = 8 << 20
"""Bytes of a range."""
_PIECE = 1 << 20
_STREAM_TRIES = 4
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_MARGIN_BYTES = 50_000_000

Tick = Callable[[int], None]
"""Is told how many bytes more are done."""


class _Part:
    """The part file of one shard: what it has, and the sha256 of that."""

    def __init__(self, folder: Path, entry: Mapping[str, Any]) -> None:
        self.name, self.size, self.sha256 = entry["file"], entry["bytes"], entry["sha256"]
        self.path = part_of(folder, entry)
        self.target = folder / self.name
        self._file = os.fdopen(os.open(self.path, _FLAGS, 0o666), "r+b")
        self._digest = hashlib.sha256()
        self.done = 0
        while block := self._file.read(_PIECE):
            self._digest.update(block)
            self.done += len(block)
        if self.done > self.size:
            self.restart()

    def restart(self) -> None:
        """Forget what is there."""
        self._file.seek(0)
        self._file.truncate()
        self._digest, self.done = hashlib.sha256(), 0

    def append(self, data: bytes) -> None:
        """Write more at the end."""
        self._file.write(data)
        self._digest.update(data)
        self.done += len(data)

    def close(self) -> None:
        """Close the file and keep what it has."""
        self._file.close()

    def finish(self) -> bool:
        """Give the shard its name if it is whole; else remove the part file and return False."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if (self.done, self._digest.hexdigest()) != (self.size, self.sha256):
            self.path.unlink(missing_ok=True)
            return False
        os.replace(self.path, self.target)
        sync_folder(self.target.parent)
        return True


def part_of(folder: Path, entry: Mapping[str, Any]) -> Path:
    """Return the path of a shard's part file."""
    return folder / f".{entry['file']}.{entry['sha256'][:16]}.partial"


def check_room(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that the disk has room for what is still to be downloaded.

    Raises:
        StoreError: it has not.
    """
    parts = [part_of(folder, entry) for entry in entries]
    there = sum(path.stat().st_size for path in parts if path.is_file())
    needed = sum(entry["bytes"] for entry in entries) - there
    free = shutil.disk_usage(folder).free
    if needed > free - _MARGIN_BYTES:
        raise StoreError(
            f"{len(entries)} shards with {needed / 1e9:,.2f} GB are to be written to {folder}, and the disk "
            f"has {free / 1e9:,.2f} GB free. Make room, or choose another folder."
        )


def download(
    remote: Remote, folder: Path, entries: Sequence[Mapping[str, Any]], tick: Tick
) -> None:
    """Download shards into a folder that nobody else is writing in.

    Args:
        entries: the index's entries of the shards; their names must have been checked.
        tick: is told of what part files had before, too.

    Raises:
        UnreachableError: the server does not answer any more. What came is kept for the next time.
        StoreError: a shard is not the one of the index even when it is downloaded anew, or the disk
            refuses.
    """
    wrong = _download(remote, folder, entries, tick)
    if wrong:  # a part file may have been damaged since it was written
        for entry in wrong:
            tick(-entry["bytes"])
        wrong = _download(remote, folder, wrong, tick)
    if wrong:
        raise StoreError(
            f"{len(wrong)} shards of {remote.url} do not have the sha256 that its index says (first: "
            f"{wrong[0]['file']}), so they were not kept. The store was changed or damaged there: run the "
            "same command again, and if that does not help, push the store again."
        )


def _download(
    remote: Remote, folder: Path, entries: Sequence[Mapping[str, Any]], tick: Tick
) -> list[Mapping[str, Any]]:
    """Download shards; return those that were not as the index says, whose part files are removed."""
    wrong: list[Mapping[str, Any]] = []
    left = list(entries)
    while left:
        if isinstance(remote, HttpRemote) and remote.streams:
            entry = left.pop(0)
            if not _stream(remote, folder, entry, tick):
                wrong.append(entry)
        else:
            finished = _in_blocks(remote, folder, left, tick)
            wrong += [entry for entry, good in finished if not good]
            left = left[len(finished) :]
    return wrong


def _blocks(
    remote: Remote, folder: Path, entries: Sequence[Mapping[str, Any]], tick: Tick
) -> Iterator[tuple[_Part, int, int]]:
    """Yield each shard's part file with the ranges that it lacks, in order; at least one of each shard."""
    for entry in entries:
        part = _Part(folder, entry)
        tick(part.done)
        begins = list(range(part.done, part.size, BLOCK)) or [part.size]
        for begin in begins:
            yield part, begin, min(begin + BLOCK, part.size)


def _in_blocks(
    remote: Remote, folder: Path, entries: Sequence[Mapping[str, Any]], tick: Tick
) -> list[tuple[Mapping[str, Any], bool]]:
    """Download shards by ranges until a server ignores them; return which ended, and whether well."""
    ended: list[Future[bool]] = []
    opened: list[_Part] = []
    readers = ThreadPoolExecutor(remote.workers, thread_name_prefix="download")
    place = folder / entries[0]["file"]
    try:
        with (
            explained(place, StoreError, "Make room, then run the same command again."),
            # The disk takes its time to sync a shard; meanwhile the next one comes.
            ThreadPoolExecutor(1, thread_name_prefix="finish") as finisher,
        ):
            todo = _blocks(remote, folder, entries, tick)
            for part, end, data in _in_order(remote, readers, todo, opened):
                part.append(data)
                tick(len(data))
                if end == part.size:
                    ended.append(finisher.submit(part.finish))
            return [(entry, end.result()) for entry, end in zip(entries, ended)]
    except RangesIgnored:
        for begun in opened[len(ended) :]:
            tick(-begun.done)
        return [(entry, end.result()) for entry, end in zip(entries, ended)]
    finally:
        readers.shutdown(wait=False, cancel_futures=True)
        for part in opened:
            part.close()


def _in_order(
    remote: Remote,
    readers: ThreadPoolExecutor,
    todo: Iterator[tuple[_Part, int, int]],
    opened: list[_Part],
) -> Iterator[tuple[_Part, int, bytes]]:
    """Yield each range's part file, end and bytes in order, while the next ranges are being read.

    Args:
        opened: the part files that were opened are added to it.
    """
    waiting: deque[tuple[_Part, int, Future[bytes]]] = deque()
    while True:
        while len(waiting) < remote.workers and (block := next(todo, None)):
            part, begin, end = block
            opened += [part] if part not in opened[-1:] else []
            job = readers.submit(read_range, remote, part.name, begin, end, part.size)
            waiting.append((part, end, job))
        if not waiting:
            return
        part, end, job = waiting.popleft()
        yield part, end, job.result()


def _stream(remote: HttpRemote, folder: Path, entry: Mapping[str, Any], tick: Tick) -> bool:
    """Download one shard from its beginning, for a server that ignores ranges."""
    place = folder / entry["file"]
    with explained(place, StoreError, "Make room, then run the same command again."):
        part = _Part(folder, entry)
        try:
            for left in reversed(range(_STREAM_TRIES)):
                part.restart()
                try:
                    for data in remote.stream(part.name, part.size):
                        part.append(data)
                        tick(len(data))
                    return part.finish()
                except UnreachableError:
                    tick(-part.done)
                    if not left:
                        raise
            raise AssertionError("unreachable")
        finally:
            part.close()
