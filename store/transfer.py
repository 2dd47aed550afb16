"""Downloading the shards of a store: ranges in parallel, written in order, checked, renamed at the end.

A shard that is being downloaded is a part file beside its place, `.{shard}.{sha256}.partial`. It grows
only at its end, so after a kill the download goes on where it stopped. It gets the shard's name only when
it has the size and the sha256 that the index says.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from typing import Any, TypeGuard

from store.errors import StoreError, UnreachableError, counted
from store.files import explained, sync_folder
from store.remote import Remote, read_range
from store.remote_http import HttpRemote, RangesIgnored

BLOCK = 16 << 20
"""Bytes of a range. Some servers read a whole file to answer for a part of it."""
SHARDS_AT_A_TIME = 4
"""How many shards are downloaded side by side."""
_PIECE = 1 << 20
_STREAM_TRIES = 4
_GLANCE_SECONDS = 0.2
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
            f"{counted(len(entries), 'shard', 'is', where=f'with {needed / 1e9:,.2f} GB')} to be "
            f"written to {folder}, and the disk "
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
            f"{counted(len(wrong), 'shard', 'does', where=f'of {remote.url}')} not have the "
            "sha256 that its index says (first: "
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
        if _streams(remote):
            entry = left.pop(0)
            if not _stream(remote, folder, entry, tick):
                wrong.append(entry)
        else:
            ended = _Ranges(remote, folder, tick).download(left)
            wrong += [entry for entry, good in zip(left, ended) if good is False]
            left = [entry for entry, good in zip(left, ended) if good is None]
    return wrong


def _streams(remote: Remote) -> TypeGuard[HttpRemote]:
    return isinstance(remote, HttpRemote) and remote.streams


class _Ranges:
    """Downloads shards by ranges: some shards side by side, each of them in order.

    So one shard's sha256 is computed and its file synced while others are still being read.
    """

    def __init__(self, remote: Remote, folder: Path, tick: Tick) -> None:
        self._remote, self._folder, self._tick = remote, folder, tick
        # Its threads do not keep a process from ending: one may wait long for a server that stalls.
        self._readers = ThreadPool(remote.workers)
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self._open = 0

    def download(self, entries: Sequence[Mapping[str, Any]]) -> list[bool | None]:
        """Download shards; say of each whether it is as the index says, None if ranges were ignored."""
        count = min(SHARDS_AT_A_TIME, self._remote.workers, len(entries))
        writers = ThreadPoolExecutor(count, thread_name_prefix="shard")
        try:
            jobs = [writers.submit(self._shard, entry) for entry in entries]
            for job in as_completed(jobs):
                job.result()  # the first error ends all
            return [job.result() for job in jobs]
        finally:
            self._stopped.set()
            self._readers.terminate()
            # They hold part files, which the next command may open. None waits for the server any more.
            writers.shutdown(wait=True, cancel_futures=True)

    def _shard(self, entry: Mapping[str, Any]) -> bool | None:
        if _streams(self._remote):
            return None
        place = self._folder / entry["file"]
        with explained(place, StoreError, "Make room, then run the same command again."):
            part = _Part(self._folder, entry)
            self._count(shards=1, done=part.done)
            try:
                for data in self._in_order(part):
                    part.append(data)
                    self._count(done=len(data))
                return part.finish()
            except RangesIgnored:
                self._count(done=-part.done)
                return None
            finally:
                self._count(shards=-1)
                part.close()

    def _in_order(self, part: _Part) -> Iterator[bytes]:
        """Yield the ranges that a part file lacks, while its share of the readers read the next ones."""
        begins = deque(range(part.done, part.size, BLOCK))
        waiting: deque[AsyncResult[bytes]] = deque()
        while begins or waiting:
            share = max(1, self._remote.workers // max(1, self._open))
            while begins and len(waiting) < share:
                begin = begins.popleft()
                end = min(begin + BLOCK, part.size)
                what = (self._remote, part.name, begin, end, part.size)
                waiting.append(self._readers.apply_async(read_range, what))
            yield self._result(waiting.popleft())

    def _result(self, job: AsyncResult[bytes]) -> bytes:
        while not self._stopped.is_set():
            job.wait(_GLANCE_SECONDS)
            if job.ready():
                return job.get()
        raise CancelledError

    def _count(self, *, shards: int = 0, done: int = 0) -> None:
        with self._counting:
            self._open += shards
            if done:
                self._tick(done)


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
