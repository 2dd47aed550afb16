"""The feature store on disk: its format and its readers. Knows neither torch nor decord.

    features/<dataset>/<backbone>-<cfg8>/
      index.json      config and its sha256, shards with bytes and sha256, totals, complete: true|false
      videos.csv      one row per video (`VideoRecord`)
      failures.csv    the rows whose status is not ok
      shard-00000.h5  per video one contiguous float16 dataset (frames, width); the root carries the config
      SHA256SUMS      for `sha256sum -c`

A shard has its final name only when it is whole, and never changes after that. It describes itself, so
the index can always be built again from the shards alone.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from extract.errors import StoreError, first_of

FORMAT = 2
STORED = ("ok", "damaged")
"""The statuses of videos that have features."""
STATUSES = (*STORED, "missing", "failed", "pending")
INDEX, VIDEOS, FAILURES, SUMS = "index.json", "videos.csv", "failures.csv", "SHA256SUMS"
_SHARD_NAME = re.compile(r"shard-\d{5}\.h5")
_REBUILD = "Delete it and run extract again: it is made anew from the shards."


@dataclass(frozen=True, kw_only=True)
class VideoRecord:
    """What is known of one video; a row of videos.csv. Zeros and empty texts where it has no features."""

    video: str
    shard: str = ""
    frames: int = 0
    """Stored frames: every `stride`-th decoded one."""
    decoded_frames: int = 0
    container_frames: int = 0
    """What the container claims."""
    fps: float = 0.0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    source: str = ""
    """Path below the folder of videos."""
    source_bytes: int = 0
    source_mtime_ns: int = 0
    """Time of the source's last change in nanoseconds since 1970; of the newest image of a folder."""
    source_sha256: str = ""
    decoder: str = ""
    """What read the frames: decord, pyav or images."""
    missing_frames: int = 0
    """Frames that are known to be missing or damaged, at least; stored are only whole ones."""
    crc32: str = ""
    """Of the stored float16 bytes, eight hex digits."""
    status: str = "ok"
    """ok; damaged (stored as far as it is whole, see `error`); or not stored: missing (no file),
    failed (file unreadable or damaged), pending (not yet its turn)."""
    error: str = ""

    @property
    def stored(self) -> bool:
        """Whether the store has features of this video."""
        return self.status in STORED


RECORD_FIELDS = tuple(field.name for field in dataclasses.fields(VideoRecord))
_FROM_TEXT: dict[Any, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": lambda text: float(text or "nan"),
}
_INDEX_FIELDS = {
    **{"dataset": str, "config": dict, "config_sha256": str, "width": int, "shards": list},
    **{"totals": dict, "complete": bool, "run": dict},
}
_SHARD_FIELDS = {"file": str, "bytes": int, "sha256": str, "videos": int, "frames": int}
_TOTALS_FIELDS = dict.fromkeys(
    ("listed", "stored", "damaged", "missing", "failed", "pending", "frames"), int
)


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hex sha256 of the canonical JSON of a config: sorted keys, no spaces."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()


def crc32_of(features: np.ndarray) -> str:
    """crc32 of an array's bytes, eight hex digits."""
    return f"{zlib.crc32(np.ascontiguousarray(features).data):08x}"


def store_folder(features: Path, dataset: str, config: Mapping[str, Any]) -> Path:
    """`features/<dataset>/<backbone>-<first 8 hex digits of the config's sha256>`."""
    return features / dataset / f"{config['backbone']}-{config_sha256(config)[:8]}"


class FeatureStore:
    """Reads one store. Files are opened on first use; the object may be used in one process only.

    Raises:
        StoreError: no index, a newer format, an index that contradicts itself or names a foreign file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder)
        self.config: dict[str, Any] = self.index["config"]
        self.width = int(self.index["width"])
        rows = read_records(folder / VIDEOS)
        self.records = {record.video: record for record in rows if record.stored}
        self._bytes = {shard["file"]: shard["bytes"] for shard in self.index["shards"]}
        foreign = sorted({record.shard for record in self.records.values()} - set(self._bytes))
        if foreign:
            raise StoreError(
                f"{folder}: videos.csv names shards that the index lacks {first_of(foreign)}."
            )
        self._files: dict[str, h5py.File] = {}

    def __contains__(self, video: object) -> bool:
        return video in self.records

    def read(self, video: str) -> np.ndarray:
        """Features of a video, float16 (frames, width), checked against its crc32.

        Raises:
            StoreError: not in the store, or the bytes are not those that were written.
        """
        dataset, path = self._dataset(video)
        with _readable(path):
            features: np.ndarray = dataset[()]
        if crc32_of(features) != self.records[video].crc32:
            raise StoreError(
                f"{path}: the features of {video} were damaged after they were written. "
                "Delete that shard and run extract again."
            )
        return features

    def location(self, video: str) -> tuple[Path, int]:
        """Shard and byte offset of a video's float16 rows, for memory maps; the crc32 is not checked.

        Raises:
            StoreError: as `read`, but for damaged bytes.
        """
        dataset, path = self._dataset(video)
        return path, int(dataset.id.get_offset())

    def _dataset(self, video: str) -> tuple[h5py.Dataset, Path]:
        record = self.records.get(video)
        if record is None:
            raise StoreError(f"{self.folder} has no features of {video}.")
        path = self.folder / record.shard
        with _readable(path):
            dataset = plain_dataset(self._open(record.shard), video, path)
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
            path = self.folder / shard
            size = path.stat().st_size if path.is_file() else None
            if size != self._bytes[shard]:
                found = "absent" if size is None else f"{size} bytes long"
                raise StoreError(
                    f"{path} is {found}, the index says {self._bytes[shard]} bytes. "
                    "Delete what is left of it and run extract again."
                )
            self._files[shard] = open_shard(path)
        return self._files[shard]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """HDF5 names damaged metadata in many ways."""
    try:
        yield
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise StoreError(
            f"{path} is damaged ({str(error).splitlines()[0]}). Delete it and run extract again."
        ) from error


def find_stores(features: Path, dataset: str) -> dict[str, FeatureStore]:
    """All readable stores of a data set: folder name -> store (folders without an index are unfinished)."""
    root = features / dataset
    folders = sorted(path.parent for path in root.glob(f"*/{INDEX}")) if root.is_dir() else []
    return {folder.name: FeatureStore(folder) for folder in folders}


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a store, every field of the right type and every shard's name a shard's name.

    Raises:
        StoreError: no index, another format, damaged, or naming foreign files.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(
            f"{folder} has no {INDEX}: no store, or its extraction has not finished a shard."
        ) from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged ({error}). {_REBUILD}") from error
    found = index.get("format") if isinstance(index, dict) else None
    if found != FORMAT:
        raise StoreError(f"{path} has format {found!r}, this version reads {FORMAT}.")
    wrong = _wrong_fields(index, _INDEX_FIELDS)
    if not wrong:
        wrong = _wrong_fields(index["totals"], _TOTALS_FIELDS)
        for shard in index["shards"]:
            wrong += _wrong_fields(shard, _SHARD_FIELDS)
    if wrong:
        raise StoreError(f"{path} is damaged (no valid {', '.join(wrong[:3])}). {_REBUILD}")
    if config_sha256(index["config"]) != index["config_sha256"]:
        raise StoreError(f"{path}: the config does not have the sha256 written beside it.")
    names = [shard["file"] for shard in index["shards"]]
    foreign = [name for name in names if not is_shard_name(name)]
    if foreign:
        raise StoreError(f"{path} names files that are no shards {first_of(foreign)}.")
    return index


def read_records(path: Path) -> list[VideoRecord]:
    """The rows of videos.csv or failures.csv.

    Raises:
        StoreError: absent, damaged, or with other columns.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
        if tuple(header) != RECORD_FIELDS or any(len(row) != len(RECORD_FIELDS) for row in rows):
            raise ValueError("unexpected columns")
        kinds = [_FROM_TEXT[field.type] for field in dataclasses.fields(VideoRecord)]
        values = [[kind(text) for kind, text in zip(kinds, row)] for row in rows]
    except FileNotFoundError:
        raise StoreError(f"There is no {path}. {_REBUILD}") from None
    except (ValueError, csv.Error) as error:
        raise StoreError(f"{path} is damaged ({error}). {_REBUILD}") from error
    return [VideoRecord(**dict(zip(RECORD_FIELDS, row))) for row in values]


def is_shard_name(name: str) -> bool:
    """Whether a file's name is that of a finished shard."""
    return _SHARD_NAME.fullmatch(name) is not None


def open_shard(path: Path) -> h5py.File:
    """A shard for reading.

    Raises:
        StoreError: unreadable, or a link to another folder.
    """
    if path.is_symlink() and path.resolve().parent != path.parent.resolve():
        raise StoreError(f"{path} is a link to another folder; shards are plain files.")
    try:
        # Shards never change, so no lock is needed, and NFS without locks works.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise StoreError(
            f"{path} is no readable shard ({error}). Delete it and run extract again."
        ) from error


def has_config(file: h5py.File, config: Mapping[str, Any]) -> bool:
    """Whether a shard was made with this config."""
    return bool(file.attrs.get("config") == canonical(config))


def names_in(file: h5py.File) -> Iterator[str]:
    """Every name in a shard that is no group: data sets, and links, which `plain_dataset` refuses."""
    groups: list[tuple[str, h5py.Group]] = [("", file)]
    seen = {file["/"]}  # a group may contain itself
    while groups:
        prefix, group = groups.pop()
        for name in group:
            inner = isinstance(group.get(name, getlink=True), h5py.HardLink)
            if inner and group.get(name, getclass=True) is h5py.Group:
                if group[name] not in seen:
                    seen.add(group[name])
                    groups.append((f"{prefix}{name}/", group[name]))
            else:
                yield prefix + name


def plain_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The contiguous float16 dataset `name`.

    Raises:
        StoreError: not there, of another type, or anything by which HDF5 can reach outside the file.
    """
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:end]), getlink=True)
        if link is None:
            raise StoreError(f"{path} does not contain {name}, which the index places there.")
        if not isinstance(link, h5py.HardLink):
            raise StoreError(
                f"{path}: {name} is a link, refused: features must lie in the shard itself."
            )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise StoreError(f"{path}: {name} is not a plain dataset, refused.")
    if dataset.dtype != np.float16:
        raise StoreError(f"{path}: {name} has type {dataset.dtype}, expected float16.")
    # A chunked or never written dataset can claim any size: a few bytes could fill the memory.
    if dataset.id.get_offset() is None:
        raise StoreError(f"{path}: {name} is not stored in one piece, refused.")
    return dataset


def record_of(dataset: h5py.Dataset) -> VideoRecord:
    """What was written beside a video's features.

    Raises:
        StoreError: no record, or one that this version does not know.
    """
    try:
        return VideoRecord(**json.loads(dataset.attrs["record"]))
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"{dataset.file.filename}: {dataset.name} has no valid record ({error}). "
            "Delete that shard and run extract again."
        ) from error


def config_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """What differs between two configs, for a message: `stride: 1 or 2, weights: ...`."""
    keys = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return ", ".join(f"{key}: {_short(a.get(key))} or {_short(b.get(key))}" for key in keys)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:8]}..."


def canonical(config: Mapping[str, Any]) -> str:
    """The one JSON text of a config: sorted keys, no spaces."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def shards_in(folder: Path) -> list[Path]:
    """The finished shards of a folder, by number."""
    return sorted(path for path in folder.glob("shard-*.h5") if is_shard_name(path.name))


def shard_numbers(folder: Path) -> set[int]:
    """The numbers of the finished shards of a folder."""
    return {int(path.stem.removeprefix("shard-")) for path in shards_in(folder)}


def _wrong_fields(found: object, expected: Mapping[str, type]) -> list[str]:
    values = found if isinstance(found, dict) else {}
    return [name for name, kind in expected.items() if type(values.get(name)) is not kind]
