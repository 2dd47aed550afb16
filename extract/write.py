"""The writing side of a store: shards that are being filled, and the index over the finished ones."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import pandas as pd

from extract.errors import StoreError
from extract.files import folder_lock, lock, sha256_of, sync_folder, write_text
from extract.store import (
    FAILURES,
    FORMAT,
    INDEX,
    RECORD_FIELDS,
    STATUSES,
    STORED,
    SUMS,
    VIDEOS,
    VideoRecord,
    canonical,
    config_sha256,
    has_config,
    names_in,
    open_shard,
    plain_dataset,
    read_index,
    read_records,
    record_of,
    shards_in,
)

log = logging.getLogger(__name__)
_PER_VIDEO, _PER_SHARD = 4096, 1 << 16
"""Bytes of HDF5's own that are reserved: about 1 kB a video is used (measured)."""
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class ShardWriter:
    """Fills one shard under a temporary name; leaving `with` gives it its final name.

    Videos may be filled side by side: `begin`, `append` in order, `complete` or `discard`. What was not
    completed is left out; a shard without a video leaves nothing.

    Raises:
        StoreError: another process is filling the same shard, or the disk refuses.
    """

    def __init__(self, folder: Path, number: int, config: Mapping[str, Any]) -> None:
        self.path = folder / f"shard-{number:05d}.h5"
        self.records: dict[str, VideoRecord] = {}
        self._config = canonical(config)
        self._open: dict[str, tuple[h5py.Dataset, int, int]] = {}
        """Per video its dataset, the rows filled and their crc32."""
        self._reserved = 0
        self._stack = ExitStack()

    def __enter__(self) -> ShardWriter:
        self._temporary = self._stack.enter_context(claiming(self.path))
        with explained(self.path):
            # Our own lock is on the file already, and HDF5's would be refused because of it.
            self._file = h5py.File(self._temporary, "w", locking=False)
            self._file.attrs["config"] = self._config
            self._reserve(_PER_SHARD)
        return self

    def _reserve(self, size: int) -> None:
        """Take disk space before HDF5 needs it: HDF5 can crash the process when a write fails."""
        self._reserved += size
        if hasattr(os, "posix_fallocate"):
            with self._temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._reserved)

    def begin(self, video: str, frames: int, width: int) -> None:
        """Make room for features (frames, width).

        Raises:
            StoreError: the disk has no room for them.
        """
        with explained(self.path):
            self._reserve(2 * frames * width + _PER_VIDEO)
            dataset = self._file.create_dataset(video, (frames, width), np.float16)
        self._open[video] = (dataset, 0, 0)

    def append(self, video: str, features: np.ndarray) -> None:
        """Write the next rows (F, width) of a begun video.

        Raises:
            StoreError: a value that float16 cannot hold or that is not finite, or too many rows.
        """
        dataset, filled, crc32 = self._open[video]
        largest = float(np.abs(features).max())
        if not largest <= _FLOAT16_MAX:  # true for NaN as well
            raise StoreError(
                f"the largest feature is {largest}; float16 holds finite values up to "
                f"{_FLOAT16_MAX:.0f}. The weights do not suit this backbone or precision."
            )
        stored = np.ascontiguousarray(features, dtype=np.float16)
        end = filled + len(stored)
        if end > len(dataset):
            raise StoreError(f"{end} frames or more, {len(dataset)} were announced")
        with explained(self.path):
            dataset[filled:end] = stored
        self._open[video] = (dataset, end, zlib.crc32(stored.data, crc32))

    def complete(self, record: VideoRecord) -> VideoRecord:
        """Attach the record, completed with shard, frames and crc32.

        Raises:
            StoreError: rows are missing; the video stays open.
        """
        dataset, filled, crc32 = self._open[record.video]
        if filled < len(dataset):
            raise StoreError(f"{filled} frames came of {len(dataset)} that were announced")
        record = dataclasses.replace(
            record, shard=self.path.name, frames=filled, crc32=f"{crc32:08x}"
        )
        with explained(self.path):
            dataset.attrs["record"] = json.dumps(dataclasses.asdict(record), ensure_ascii=False)
        del self._open[record.video]
        self.records[record.video] = record
        return record

    def discard(self, video: str) -> None:
        """Forget a begun video."""
        del self._open[video]
        with explained(self.path):
            del self._file[video]

    def add(self, record: VideoRecord, features: np.ndarray) -> VideoRecord:
        """Store a whole video's features (frames, width); returns the completed record.

        Raises:
            StoreError: not a non-empty matrix, or as `append`.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise StoreError(
                f"{record.video}: features of shape {features.shape}, expected frames x width."
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
                    os.truncate(self._temporary, size)  # what was reserved and not used
                    with self._temporary.open("rb") as file:
                        os.fsync(file.fileno())
                    os.replace(self._temporary, self.path)
                    sync_folder(self.path.parent)


def write_index(
    folder: Path,
    *,
    dataset: str,
    config: Mapping[str, Any],
    width: int,
    records: Iterable[VideoRecord],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Write videos.csv, failures.csv, index.json and SHA256SUMS over the finished shards; returns the index.

    `records` has one entry for every listed video, stored or not. `run` says who made it, on what:
    it is kept beside the config and is not part of its hash.
    """
    table = pd.DataFrame(
        [dataclasses.asdict(r) for r in sorted(records, key=lambda r: r.video)],
        columns=list(RECORD_FIELDS),
    )
    ok = table.status == "ok"
    stored = table.status.isin(STORED)
    known = _known_shards(folder)
    indexed = (folder / INDEX).stat().st_mtime_ns if known else 0
    shards = []
    for path in shards_in(folder):
        inside = table[stored & (table.shard == path.name)]
        size = path.stat().st_size
        old = known.get(path.name, {})
        kept = old.get("bytes") == size and path.stat().st_mtime_ns < indexed
        shards.append(
            {
                "file": path.name,
                "bytes": size,
                # A shard never changes, so a hash taken once stays true (`store verify` finds rot);
                # but one that was deleted may have been made again since.
                "sha256": old["sha256"] if kept else sha256_of(path),
                "videos": len(inside),
                "frames": int(inside.frames.sum()),
            }
        )
    index = {
        "format": FORMAT,
        "dataset": dataset,
        "config": dict(config),
        "config_sha256": config_sha256(config),
        "width": width,
        "shards": shards,
        "totals": {
            "listed": len(table),
            "stored": int(stored.sum()),
            **{s: int((table.status == s).sum()) for s in STATUSES if s != "ok"},
            "frames": int(table[stored].frames.sum()),
        },
        "complete": bool(stored.all()),
        "run": dict(run),
    }
    for name, rows in ((VIDEOS, table), (FAILURES, table[~ok])):
        write_text(folder / name, rows.to_csv(index=False, lineterminator="\n"))
    write_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    sums = [(shard["sha256"], shard["file"]) for shard in shards]
    sums += [(sha256_of(folder / name), name) for name in (INDEX, VIDEOS, FAILURES)]
    write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for digest, name in sums))
    return index


@contextmanager
def claiming(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file that this process alone is making; it goes if it is still there.

    The temporary file has a fixed name and is locked, so what a killed process left is taken over, and
    two processes cannot fill the same shard. Where a file system has no locks, nothing is locked.

    Raises:
        StoreError: another process holds it, or has just finished it.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with explained(path):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        mine = lock(descriptor, wait=False)
        mine = (
            mine
            and temporary.exists()
            and os.path.samestat(os.stat(temporary), os.fstat(descriptor))
        )
        if not mine or path.exists():
            raise StoreError(
                f"Another extraction is filling {path}. Let it finish, or stop it, and run again: "
                "what is finished is kept. To share the work on purpose, see --rank and --world."
            )
        try:
            yield temporary
        finally:
            if temporary.exists():
                temporary.unlink()
    finally:
        os.close(descriptor)


class StoreIndex:
    """Keeps a store's index true to its shards while they are being finished, by one process or several.

    Attributes:
        stored: records of all videos in finished shards, this process's or others', as last read.
    """

    def __init__(self, folder: Path, dataset: str, config: Mapping[str, Any], width: int) -> None:
        self.folder, self.dataset, self.config, self.width = folder, dataset, config, width
        self._by_shard: dict[str, dict[str, VideoRecord]] = {}
        self.stored: dict[str, VideoRecord] = {}
        self.read_shards()

    def read_shards(self) -> None:
        """Read the records of shards that are new since the last time.

        Raises:
            StoreError: a shard is unreadable or was made with another config.
        """
        for path in shards_in(self.folder):
            if path.name not in self._by_shard:
                self._by_shard[path.name] = self._records(path)
                self.stored |= self._by_shard[path.name]

    def write(
        self,
        listed: Mapping[str, object],
        failures: Mapping[str, VideoRecord],
        run: Mapping[str, Any],
    ) -> tuple[dict[str, Any], dict[str, VideoRecord]]:
        """Write the index over all finished shards; returns it and the records of all listed videos.

        Args:
            listed: ids of all videos of the data set.
            failures: what this process knows of videos that it did not store. Of other videos, what the
                last index said stays, or they are pending.
        """
        with folder_lock(self.folder, wait=True):
            for name in (INDEX, VIDEOS, FAILURES, SUMS):  # of a writer that was killed
                for left in self.folder.glob(f".{name}.*.partial"):
                    left.unlink(missing_ok=True)
            self.read_shards()
            records = {
                v: VideoRecord(video=v, status="pending", error="not extracted yet") for v in listed
            }
            records |= _known_failures(self.folder)
            records |= {
                v: r for v, r in failures.items() if r.status != "pending" or v not in records
            }
            records |= self.stored
            with explained(self.folder):
                index = write_index(
                    self.folder,
                    dataset=self.dataset,
                    config=self.config,
                    width=self.width,
                    records=records.values(),
                    run=run,
                )
        return index, records

    def _records(self, path: Path) -> dict[str, VideoRecord]:
        with open_shard(path) as file:
            if not has_config(file, self.config):
                raise StoreError(
                    f"{path} was made with another config. Move it away, then run again."
                )
            records = [record_of(plain_dataset(file, name, path)) for name in names_in(file)]
        return {record.video: record for record in records}


def _known_shards(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        return {shard["file"]: shard for shard in read_index(folder)["shards"]}
    except StoreError:  # none yet, or damaged: it is made anew
        return {}


def _known_failures(folder: Path) -> dict[str, VideoRecord]:
    try:
        return {record.video: record for record in read_records(folder / FAILURES)}
    except StoreError:  # none yet, or damaged: those videos are tried again
        return {}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say what a disk that is full or read-only means."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise StoreError(
            f"Cannot write {path}: {reason}. Finished shards are kept. Make room or choose another "
            "--features, then run the same command again."
        ) from error
