"""Copying the features of videos from shards to a new shard, byte for byte, in a store that is locked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from store import checksums
from store.errors import StoreError, counted, first_of
from store.format import shard_numbers, stored_dtype
from store.index import StoreIndex
from store.locks import folder_lock, is_live, remove_leftovers
from store.records import REMAKE, VideoRecord
from store.shards import open_shard, plain_dataset, readable
from store.write import ShardWriter, explained

FIRST_NUMBER = 50_000
"""The lowest number of a shard that is added to a standing store. An extraction, which counts up from 0
(`plan.shard_number`), does not get there: Kinetics has 183 shards. So the two never choose one number."""
_ROWS = 4096


@dataclass(frozen=True)
class Part:
    """A video on its way to a new shard."""

    record: VideoRecord
    path: Path
    """The shard that its features lie in now."""

    def bytes(self, index: StoreIndex) -> int:
        """Return the bytes of its features, (frames, width) of the store's number type."""
        return stored_dtype(index.config).itemsize * self.record.frames * index.width


@dataclass(frozen=True)
class Moved:
    """How far a command that moves videos has come."""

    videos: int
    of_videos: int
    bytes: int
    of_bytes: int


Report = Callable[[Moved], None]


class Mover:
    """Writes new shards of parts, and counts.

    Args:
        parts: all that are going to be moved, to know how much is left.
        sums: the sha256 of shards that an index names; each is checked before it is opened.
    """

    def __init__(
        self,
        index: StoreIndex,
        parts: Iterable[Part],
        sums: Mapping[Path, str],
        on_progress: Report,
    ) -> None:
        self._index, self._sums, self._on_progress = index, sums, on_progress
        sizes = [part.bytes(index) for part in parts]
        self._videos = self._bytes = 0
        self._of_videos, self._of_bytes = len(sizes), sum(sizes)

    def write(self, number: int, parts: Sequence[Part]) -> None:
        """Write one shard with the features of some videos, byte for byte.

        Raises:
            StoreError: a shard that they lie in is damaged, or no shard number or no room is left.
        """
        folder = self._index.folder
        paths = {part.path for part in parts}
        checksums.check({path: self._sums[path] for path in sorted(paths) if path in self._sums})
        with ExitStack() as opened, ShardWriter(folder, number, self._index.config) as writer:
            files = {path: opened.enter_context(open_shard(path)) for path in sorted(paths)}
            for part in parts:
                self._copy(writer, files[part.path], part)

    def _copy(self, writer: ShardWriter, file: h5py.File, part: Part) -> None:
        record = part.record
        with readable(part.path):
            dataset = plain_dataset(file, record.video, part.path, self._index.config)
            writer.begin(record.video, *dataset.shape)
            for begin in range(0, len(dataset), _ROWS):
                writer.append(record.video, dataset[begin : begin + _ROWS])
        if writer.complete(record).crc32 != record.crc32:
            raise StoreError(
                f"{part.path}: the features of {record.video} were damaged after they were written. "
                f"Delete that shard and {REMAKE}."
            )
        self._videos += 1
        self._bytes += part.bytes(self._index)
        self._on_progress(Moved(self._videos, self._of_videos, self._bytes, self._of_bytes))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the lock of a store in which nobody fills a shard.

    Raises:
        StoreError: another process is filling shards there.
    """
    with explained(folder), folder_lock(folder, wait=True):
        refuse_filling(
            folder,
            "Let it finish, or stop it, and run this again; if it is dead on another machine, delete them.",
        )
        yield


def refuse_filling(folder: Path, remedy: str) -> None:
    """Remove what dead processes left in a store whose lock is held, and refuse one that is being filled.

    Raises:
        StoreError: another process is filling shards there; `remedy` says what to do then.
    """
    remove_leftovers(folder)
    filling = sorted(path.name for path in folder.glob(".shard-*.partial") if is_live(path))
    if filling:
        raise StoreError(
            f"An extraction is filling {counted(len(filling), 'shard')} in {folder} "
            f"{first_of(filling)}. {remedy}"
        )


def next_number(folder: Path, *, least: int = FIRST_NUMBER) -> int:
    """Return a shard number above all that are taken, `least` or more."""
    return max(least, 1 + max(shard_numbers(folder), default=-1))
