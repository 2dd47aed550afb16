"""Reading a feature store, whose format `docs/store.md` describes. Needs neither torch nor decord."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store import checksums
from store.errors import StoreError, UnknownVideoError, first_of, printable
from store.format import INDEX, VIDEOS, read_index, renamed, stored_dtype
from store.ids import near_ids
from store.locks import writers
from store.plain import size_of
from store.records import REMAKE, VideoRecord
from store.shards import crc32_of, open_shard, plain_dataset, readable
from store.snapshot import PAUSE_SECONDS, WRITING_SECONDS, read_tables

log = logging.getLogger(__name__)


class FeatureStore:
    """The features of one store, by video id. `docs/store.md` shows how to use it.

    `store["v_Archery_g01_c01"]` is an array (frames, width) of `dtype`; `in`, `len` and iteration are over
    the ids of the videos that have features, in the order of videos.csv. Nothing is read before it is
    asked for. Shards are opened once per process, so an instance may be used after a fork, be pickled, and
    be given to the workers of a DataLoader. An extraction, a merge or a repack may go on meanwhile: the
    features of a video that is moved to another shard are found there.

    Attributes:
        index: index.json.
        config: what decides the numbers; its sha256 names the folder.
        width: the number of features of a frame.
        records: rows of videos.csv with features, by id.
        absent: rows of listed videos without features, by id: missing, failed or not extracted yet.

    Raises:
        StoreError: the index is absent, damaged or of another format, or contradicts videos.csv.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files: dict[str, h5py.File] = {}
        self._process = os.getpid()
        self._take_tables()

    def _take_tables(self) -> None:
        self.index, rows = read_tables(self.folder)
        self.config: dict[str, Any] = self.index["config"]
        self.width = int(self.index["width"])
        self.dtype = stored_dtype(self.config)
        self.records = {record.video: record for record in rows if record.stored}
        self.absent = {record.video: record for record in rows if not record.stored}
        self._shards = {shard["file"]: shard for shard in self.index["shards"]}
        foreign = sorted({record.shard for record in self.records.values()} - set(self._shards))
        if foreign:
            raise StoreError(
                f"{self.folder}: videos.csv names shards that the index lacks {first_of(foreign)}. "
                f"{REMAKE.capitalize()}: it writes both anew."
            )

    def __contains__(self, video: object) -> bool:
        return video in self.records

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def __getitem__(self, video: str) -> np.ndarray:
        """Return the features of a video; see `read`."""
        return self.read(video)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def read(self, video: str) -> np.ndarray:
        """Return the features of a video, (frames, width) of `dtype`, after checking their crc32.

        Raises:
            UnknownVideoError: the video is not in the store.
            StoreError: its bytes are not those that were written, or another command has replaced them since
                the tables were read.
        """
        dataset, path = self._dataset(video)
        with readable(path):
            features: np.ndarray = dataset[()]
        if crc32_of(features) != self.records[video].crc32:
            if self._is_changed():
                raise self._changed(video)
            raise StoreError(
                f"{path}: the features of {video} were damaged after they were written. "
                f"Delete that shard and {REMAKE}."
            )
        return features

    def check_shards(self, videos: Collection[str]) -> None:
        """Compare the sha256 of every shard that holds one of the videos with the index.

        Nothing else checks the bytes of a memory map. The result is remembered until the file changes;
        see `store/checksums.py`.

        Raises:
            StoreError: a video is not in the store, or a shard is absent, cut or damaged.
        """
        for video in videos:
            self._settled(video)
        names = sorted({self.records[video].shard for video in videos})
        try:
            checksums.check({self.folder / name: self._shards[name]["sha256"] for name in names})
        except StoreError:
            if self._is_changed():
                raise self._changed(names[0]) from None
            raise

    def location(self, video: str) -> tuple[Path, int]:
        """Return the shard and the byte offset of a video's rows, of `dtype`, for memory maps.

        The bytes are not checked here; see `check_shards`.

        Raises:
            StoreError: the video is not in the store, or its dataset is not as the index says.
        """
        dataset, path = self._dataset(video)
        return path, int(dataset.id.get_offset())

    def _record(self, video: str) -> VideoRecord:
        if video not in self.records:
            why = self._why_absent(video)
            raise UnknownVideoError(f"{self.folder} has no features of {printable(video)}{why}")
        return self.records[video]

    def _why_absent(self, video: str) -> str:
        """Return the end of a sentence: the recorded reason, or ids that are spelled nearly alike."""
        row = self.absent.get(video)
        if row is not None:
            return f": {row.status}{f' ({printable(row.error)})' if row.error else ''}."
        return f", which no row of {VIDEOS} names.{near_ids(video, self.records)}"

    def _settled(self, video: str) -> VideoRecord:
        """Return a video's record after making sure that its shard is there, as large as it should be.

        If another command has moved the video to another shard since the tables were read, they are read
        again. A command that removes shards writes the index first.
        """
        record = self._record(video)
        if self._is_there(record.shard):
            return record
        if self._is_changed():
            before = (self.index["config_sha256"], record.crc32)
            self.close()
            self._take_tables()
            record = self.records.get(video, VideoRecord(video=video))
            if (self.index["config_sha256"], record.crc32) != before:
                raise self._changed(video)
        self._check_size(record.shard)
        return record

    def _changed(self, what: str) -> StoreError:
        return StoreError(
            f"{self.folder} was changed by another command while it was read: "
            f"{printable(what)} has other features now, or none. Run this one again."
        )

    def _is_changed(self) -> bool:
        """Return whether the index is another one now; while another command is writing, wait for it."""
        begin = time.monotonic()
        while read_index(self.folder) == self.index:
            if not writers(self.folder) or time.monotonic() - begin > WRITING_SECONDS:
                return False
            time.sleep(PAUSE_SECONDS)
        return True

    def _is_there(self, shard: str) -> bool:
        return shard in self._open_files() or (
            size_of(self.folder / shard) == self._shards[shard]["bytes"]
        )

    def _dataset(self, video: str) -> tuple[h5py.Dataset, Path]:
        record = self._settled(video)
        path = self.folder / record.shard
        with readable(path):
            dataset = plain_dataset(self._open(record.shard), video, path, self.config)
        if dataset.shape != (record.frames, self.width):
            raise StoreError(
                f"{path}: {video} has shape {dataset.shape}, the index says {(record.frames, self.width)}."
            )
        return dataset, path

    def close(self) -> None:
        """Close the shards that this process has opened."""
        while self._open_files():
            self._files.popitem()[1].close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_files(self) -> dict[str, h5py.File]:
        """Return the shards that this process has opened. Those of a parent share its file positions."""
        if self._process != os.getpid():
            self._files, self._process = {}, os.getpid()
        return self._files

    def _open(self, shard: str) -> h5py.File:
        files = self._open_files()
        if shard not in files:
            files[shard] = open_shard(self.folder / shard)
        return files[shard]

    def _check_size(self, shard: str) -> None:
        path, expected = self.folder / shard, self._shards[shard]["bytes"]
        if (size := size_of(path)) != expected:
            found = "absent" if size is None else f"{size} bytes long"
            raise StoreError(
                f"{path} is {found}, the index says {expected} bytes. "
                f"Delete what is left of it and {REMAKE}."
            )


def find_stores(features: Path, dataset: str, chosen: str | None = None) -> dict[str, FeatureStore]:
    """Return the usable stores of a data set: folder name -> store.

    Stores that cannot be used are logged and left out. Folders without an index are unfinished, and are
    left out without a word.

    Args:
        chosen: the beginning of a folder name. If it fits any folder, only those are looked at.

    Raises:
        StoreError: there are stores, but none of them can be used.
    """
    root = features / dataset
    folders = sorted(path.parent for path in root.glob(f"*/{INDEX}")) if root.is_dir() else []
    fitting = [folder for folder in folders if folder.name.startswith(chosen or "")]
    stores: dict[str, FeatureStore] = {}
    reasons: list[str] = []
    for folder in fitting or folders:
        try:
            store = FeatureStore(folder)
            wrong = renamed(folder.name, store.index)
            if wrong:
                raise StoreError(f"{folder}: {wrong}. Give the folder its name back.")
            stores[folder.name] = store
        except StoreError as error:
            reasons.append(str(error))
    if reasons and not stores:
        more = f"\n{len(reasons) - 1} more cannot be used either." if len(reasons) > 1 else ""
        raise StoreError(reasons[0] + more)
    for reason in reasons:
        log.warning("Left out: %s", reason)
    return stores
