"""Reading a feature store, whose format `store/format.py` describes. Needs neither torch nor decord.

An extraction may write while a store is read. It replaces the tables one after the other, and the index
after both CSVs. The index has the sha256 of the CSVs, so a reader sees whether all are of one state.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store import checksums
from store.errors import StoreError, first_of
from store.format import INDEX, VIDEOS, read_index, read_table, renamed, stored_dtype
from store.locks import writers
from store.plain import size_of
from store.records import VideoRecord, parse_records
from store.shards import crc32_of, open_shard, plain_dataset, readable, records_in

log = logging.getLogger(__name__)

_TRIES, _PAUSE_SECONDS = 5, 0.1
"""How often tables that do not fit each other are read again if nobody is writing: an NFS client may
see one of them late."""
_WRITING_SECONDS = 10.0
"""For how long they are read again if somebody is writing."""


class FeatureStore:
    """Reads one store. Shards are opened on first use, so an instance belongs to one process.

    Raises:
        StoreError: the index is absent, damaged or of another format, or contradicts videos.csv.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder = Path(folder)
        self.index, rows = _read_tables(folder)
        self.config: dict[str, Any] = self.index["config"]
        self.width = int(self.index["width"])
        self.dtype = stored_dtype(self.config)
        self.records = {record.video: record for record in rows if record.stored}
        self._shards = {shard["file"]: shard for shard in self.index["shards"]}
        foreign = sorted({record.shard for record in self.records.values()} - set(self._shards))
        if foreign:
            raise StoreError(
                f"{folder}: videos.csv names shards that the index lacks {first_of(foreign)}."
            )
        self._files: dict[str, h5py.File] = {}

    def __contains__(self, video: object) -> bool:
        return video in self.records

    def read(self, video: str) -> np.ndarray:
        """Return the features of a video, (frames, width) of `dtype`, after checking their crc32.

        Raises:
            StoreError: the video is not in the store, or its bytes are not those that were written.
        """
        dataset, path = self._dataset(video)
        with readable(path):
            features: np.ndarray = dataset[()]
        if crc32_of(features) != self.records[video].crc32:
            raise StoreError(
                f"{path}: the features of {video} were damaged after they were written. "
                "Delete that shard and run extract again."
            )
        return features

    def check_shards(self, videos: Collection[str]) -> None:
        """Compare the sha256 of every shard that holds one of the videos with the index.

        Nothing else checks the bytes of a memory map. The result is remembered until the file changes;
        see `store/checksums.py`.

        Raises:
            StoreError: a video is not in the store, or a shard is absent, cut or damaged.
        """
        names = sorted({self._record(video).shard for video in videos})
        for name in names:
            self._check_size(name)
        checksums.check({self.folder / name: self._shards[name]["sha256"] for name in names})

    def location(self, video: str) -> tuple[Path, int]:
        """Return the shard and the byte offset of a video's rows, of `dtype`, for memory maps.

        The bytes are not checked here; see `check_shards`.

        Raises:
            StoreError: the video is not in the store, or its dataset is not as the index says.
        """
        dataset, path = self._dataset(video)
        return path, int(dataset.id.get_offset())

    def _record(self, video: str) -> VideoRecord:
        record = self.records.get(video)
        if record is None:
            raise StoreError(f"{self.folder} has no features of {video}.")
        return record

    def _dataset(self, video: str) -> tuple[h5py.Dataset, Path]:
        record = self._record(video)
        path = self.folder / record.shard
        with readable(path):
            dataset = plain_dataset(self._open(record.shard), video, path, self.config)
        if dataset.shape != (record.frames, self.width):
            raise StoreError(
                f"{path}: {video} has shape {dataset.shape}, the index says {(record.frames, self.width)}."
            )
        return dataset, path

    def close(self) -> None:
        """Close the shards that were opened."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, shard: str) -> h5py.File:
        if shard not in self._files:
            self._check_size(shard)
            self._files[shard] = open_shard(self.folder / shard)
        return self._files[shard]

    def _check_size(self, shard: str) -> None:
        path, expected = self.folder / shard, self._shards[shard]["bytes"]
        size = size_of(path)
        if size == expected:
            return
        if read_index(self.folder) != self.index:
            raise StoreError(
                f"{self.folder} was changed by another command while it was read. Run this one again."
            )
        found = "absent" if size is None else f"{size} bytes long"
        raise StoreError(
            f"{path} is {found}, the index says {expected} bytes. "
            "Delete what is left of it and run extract again."
        )


def _read_tables(folder: Path) -> tuple[dict[str, Any], list[VideoRecord]]:
    """Read the index and the rows of videos.csv, both of one state.

    If a writer was killed between the two, the records are read from the shards instead.

    Raises:
        StoreError: a table is absent or damaged, and so is what could replace it.
    """
    begin, tries = time.monotonic(), 0
    while True:
        index, table = read_index(folder), read_table(folder / VIDEOS)
        if hashlib.sha256(table).hexdigest() == index["tables"][VIDEOS]:
            return index, parse_records(table, folder / VIDEOS)
        tries += 1
        waited = time.monotonic() - begin
        if waited > _WRITING_SECONDS or (tries > _TRIES and not writers(folder)):
            break
        time.sleep(_PAUSE_SECONDS)
    # A killed writer leaves a whole table, only of another state.
    parse_records(table, folder / VIDEOS)
    log.warning(
        f"{folder}: {INDEX} and {VIDEOS} are not of one state, so the records are read from the "
        "shards. Run extract again: it writes both anew."
    )
    records: list[VideoRecord] = []
    for shard in index["shards"]:
        path = folder / shard["file"]
        if size_of(path) != shard["bytes"]:
            raise StoreError(
                f"{folder / VIDEOS} is damaged: it is not the one that {INDEX} names, and {path}, which "
                "could replace it, is absent or cut. Delete both and run extract again."
            )
        records += records_in(path, index["config"]).values()
    return index, records


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
