"""Writing the shards of a store."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import random
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from store import files
from store.errors import StoreError, counted
from store.files import sync_folder
from store.format import canonical, stored_dtype
from store.locks import is_held, lock, remove_leftovers, temporary
from store.records import ERROR_LETTERS, VideoRecord
from store.shards import records_in

log = logging.getLogger(__name__)
PER_SHARD = 1 << 16
"""Bytes of a shard that are reserved for HDF5 itself, beside those of its videos."""
_LAST_NUMBER = 99_999
_CLAIMS, _PAUSE_SECONDS = 5, 0.3
"""How often to ask for a shard that another process holds, and the longest pause in between."""


def overhead_of(video: str) -> int:
    """Return the bytes that are reserved for HDF5 itself for a video, by its id.

    It uses about 1 kB for the video and 1 kB for each folder that the id alone is in (measured).
    """
    return 4096 + 2048 * video.count("/")


class ShardWriter:
    """Fills a shard under a temporary name; the shard gets its final name when `with` is left.

    Several videos may be filled at the same time: `begin`, then `append` in order, then `complete` or
    `discard`. Videos that were not completed are left out, and a shard without videos is not kept. If
    another process has finished the same shard in the meantime, which only locks prevent, its shard is
    kept and this one is dropped.

    Raises:
        StoreError: another process is filling the same shard, it cannot be written, or its number has more
            than five digits.
    """

    def __init__(self, folder: Path, number: int, config: Mapping[str, Any]) -> None:
        if number > _LAST_NUMBER:
            raise StoreError(
                f"{folder} was rewritten so often that no shard number is left. Delete the folder and run "
                "extract again."
            )
        self.path = folder / f"shard-{number:05d}.h5"
        self.records: dict[str, VideoRecord] = {}
        self._config = canonical(config)
        self._dtype = stored_dtype(config)
        self._open: dict[str, tuple[h5py.Dataset, int, int]] = {}
        """Video -> its dataset, how many rows are filled, and their crc32."""
        self._reserved = 0
        self._stack = ExitStack()

    def __enter__(self) -> ShardWriter:
        self._temporary = self._stack.enter_context(claiming(self.path))
        with explained(self.path):
            # Our own lock is on the file already, and HDF5's would be refused because of it.
            self._file = h5py.File(self._temporary, "w", locking=False)
            self._file.attrs["config"] = self._config
            self._reserve(PER_SHARD)
        return self

    def _reserve(self, size: int) -> None:
        """Reserve disk space before HDF5 needs it, because HDF5 can crash the process if a write fails."""
        self._reserved += size
        if hasattr(os, "posix_fallocate"):
            with self._temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._reserved)

    def begin(self, video: str, frames: int, width: int) -> None:
        """Make room for the features of a video, (frames, width).

        Raises:
            StoreError: the disk has no room for them.
        """
        with explained(self.path):
            self._reserve(self._dtype.itemsize * frames * width + overhead_of(video))
            dataset = self._file.create_dataset(video, (frames, width), self._dtype)
        self._open[video] = (dataset, 0, 0)

    def append(self, video: str, features: np.ndarray) -> None:
        """Write the next rows (F, width) of a video that was begun.

        Raises:
            StoreError: a value is not finite or too large for the stored type, or there are too many rows.
        """
        dataset, filled, crc32 = self._open[video]
        largest = float(np.abs(features).max())
        limit = float(np.finfo(self._dtype).max)
        if not largest <= limit:  # true for NaN as well
            raise StoreError(
                f"the largest feature is {largest}; {self._dtype.name} holds finite values up to "
                f"{limit:.6g}. The weights do not suit this backbone or precision."
            )
        stored = np.ascontiguousarray(features, dtype=self._dtype)
        end = filled + len(stored)
        if end > len(dataset):
            raise StoreError(f"{end} frames or more came, but {len(dataset)} were announced")
        with explained(self.path):
            dataset[filled:end] = stored
        self._open[video] = (dataset, end, zlib.crc32(stored.data, crc32))

    def complete(self, record: VideoRecord) -> VideoRecord:
        """Write the record of a video with its shard, frames and crc32, and return it.

        Raises:
            StoreError: rows are missing. The video stays open.
        """
        dataset, filled, crc32 = self._open[record.video]
        if filled < len(dataset):
            raise StoreError(f"only {filled} of the {len(dataset)} frames that were announced came")
        record = dataclasses.replace(
            record,
            shard=self.path.name,
            frames=filled,
            crc32=f"{crc32:08x}",
            error=record.error[:ERROR_LETTERS],
            fps=record.fps if math.isfinite(record.fps) else 0.0,
            seconds=record.seconds if math.isfinite(record.seconds) else 0.0,
        )
        with explained(self.path):
            dataset.attrs["record"] = json.dumps(dataclasses.asdict(record))
        del self._open[record.video]
        self.records[record.video] = record
        return record

    def discard(self, video: str) -> None:
        """Remove a video that was begun."""
        del self._open[video]
        with explained(self.path):
            del self._file[video]

    def add(self, record: VideoRecord, features: np.ndarray) -> VideoRecord:
        """Store all features of a video, (frames, width), and return its record.

        Raises:
            StoreError: the features are no matrix or are empty, or as `append`.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise StoreError(
                f"{record.video}: the features have shape {features.shape}, expected (frames, width)."
            )
        self.begin(record.video, *features.shape)
        try:
            self.append(record.video, features)
        except StoreError as error:
            self.discard(record.video)
            raise StoreError(f"{record.video}: {error}") from error
        return self.complete(record)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            if kind is not None:
                with contextlib.suppress(Exception):  # the error on its way is the one to show
                    self._file.close()
                return
            for video in list(self._open):
                self.discard(video)
            with explained(self.path):
                self._file.flush()
                size = self._file.id.get_filesize()
                self._file.close()
                if self.records:
                    os.truncate(self._temporary, size)  # gives back what was reserved and not used
                    with self._temporary.open("rb") as file:
                        os.fsync(file.fileno())
                    self._put_in_place()

    def _put_in_place(self) -> None:
        """Give the shard its final name, unless another shard has it already."""
        try:
            os.link(self._temporary, self.path)
        except OSError:  # the name is taken, or the file system has no links
            if not self.path.exists():
                os.replace(self._temporary, self.path)
        if self._temporary.exists() and not self.path.samefile(self._temporary):
            lost = self.records.keys() - records_in(self.path, json.loads(self._config)).keys()
            has = len(self.records) - len(lost)
            log.warning(
                f"Another extraction has finished {self.path} in the meantime; its shard is kept, with "
                f"{counted(has, 'video', of=len(self.records))} of ours. "
                f"{'Run again for the others.' if lost else ''}"
            )
        sync_folder(self.path.parent)


@contextmanager
def claiming(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file that only this process is making; remove it at the end.

    Each process locks a temporary file of its own and then looks for others that are locked. Two that
    come at the same moment both withdraw, and try again after a random pause. Without locks both may
    fill the file, and the one that is finished first is kept.

    Raises:
        StoreError: another process holds it, or has just finished it.
    """
    for attempt in range(_CLAIMS):
        if attempt:
            time.sleep(random.uniform(0, _PAUSE_SECONDS))
        with contextlib.ExitStack() as stack:
            with explained(path):
                remove_leftovers(path.parent)
                partial = stack.enter_context(temporary(path))
                descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            stack.callback(os.close, descriptor)
            lock(descriptor, wait=True)
            if path.exists():
                raise StoreError(
                    f"Another extraction has finished {path} in the meantime. Run again: what is "
                    "finished is kept. To share the work on purpose, see --rank and --world."
                )
            others = [p for p in path.parent.glob(f".{path.name}.*.partial") if p != partial]
            if not any(map(is_held, others)):
                yield partial
                return
    raise StoreError(
        f"Another extraction is filling {path}. Let it finish, or stop it, and run again: "
        "what is finished is kept. To share the work on purpose, see --rank and --world."
    )


def explained(path: Path) -> contextlib.AbstractContextManager[None]:
    """Say what a disk that is full or read-only means to an extraction."""
    return files.explained(
        path,
        StoreError,
        "Finished shards are kept. Make room or choose another folder, then run the same command again.",
    )
