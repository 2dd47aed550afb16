"""The feature store on disk: shards, index, readers. Knows neither torch nor decord.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import pandas as pd

from extract.errors import StoreError, first_of
from extract.files import replacing, sha256_of, write_text

FORMAT = 1
INDEX, VIDEOS, FAILURES, SUMS = "index.json", "videos.csv", "failures.csv", "SHA256SUMS"
_SHARD_NAME = re.compile(r"shard-\d{5}\.h5")
_REBUILD = "Delete it and run extract again: it is made anew from the shards."
_FLOAT16_MAX = float(np.finfo(np.float16).max)


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
    source_sha256: str = ""
    crc32: str = ""
    """Of the stored float16 bytes, eight hex digits."""
    status: str = "ok"
    """ok, missing (no file), failed (file unreadable) or pending (not yet its turn)."""
    error: str = ""


_FIELDS = tuple(field.name for field in dataclasses.fields(VideoRecord))
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
_TOTALS_FIELDS = dict.fromkeys(("listed", "stored", "missing", "failed", "pending", "frames"), int)


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hex sha256 of the canonical JSON of a config: sorted keys, no spaces."""
    return hashlib.sha256(_canonical(config).encode()).hexdigest()


def crc32_of(features: np.ndarray) -> str:
    """crc32 of an array's bytes, eight hex digits."""
    return f"{zlib.crc32(np.ascontiguousarray(features).data):08x}"


def store_folder(features: Path, dataset: str, config: Mapping[str, Any]) -> Path:
    """`features/<dataset>/<backbone>-<first 8 hex digits of the config's sha256>`."""
    return features / dataset / f"{config['backbone']}-{config_sha256(config)[:8]}"


class ShardWriter:
    """Writes one shard under a temporary name; `with` gives it its final name, an exception removes it."""

    def __init__(self, folder: Path, number: int, config: Mapping[str, Any]) -> None:
        self.name = f"shard-{number:05d}.h5"
        self.videos = 0
        self._replacing = replacing(folder / self.name)
        self._config = _canonical(config)

    def __enter__(self) -> ShardWriter:
        self._file = h5py.File(self._replacing.__enter__(), "w")
        self._file.attrs["config"] = self._config
        return self

    def add(self, record: VideoRecord, features: np.ndarray) -> VideoRecord:
        """Store features (frames, width); returns the record completed with shard, frames and crc32.

        Raises:
            StoreError: not a non-empty matrix, or a value that float16 cannot hold or that is not finite.
        """
        if features.ndim != 2 or 0 in features.shape:
            raise StoreError(
                f"{record.video}: features of shape {features.shape}, expected frames x width."
            )
        largest = float(np.abs(features).max())
        if not largest <= _FLOAT16_MAX:  # true for NaN as well
            raise StoreError(
                f"{record.video}: the largest feature is {largest}; float16 holds finite values up to "
                f"{_FLOAT16_MAX:.0f}. The weights do not suit this backbone or precision."
            )
        stored = np.ascontiguousarray(features, dtype=np.float16)
        record = dataclasses.replace(
            record, shard=self.name, frames=len(stored), crc32=crc32_of(stored)
        )
        dataset = self._file.create_dataset(record.video, data=stored)
        dataset.attrs["record"] = json.dumps(dataclasses.asdict(record), ensure_ascii=False)
        self.videos += 1
        return record

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._replacing.__exit__(kind, error, trace)


def stored_records(folder: Path, config: Mapping[str, Any]) -> dict[str, VideoRecord]:
    """Records of all videos in the finished shards of a folder, read from the shards themselves.

    Raises:
        StoreError: a shard is unreadable or was made with another config.
    """
    records: dict[str, VideoRecord] = {}
    for path in _shards(folder):
        with open_shard(path) as file:
            if not has_config(file, config):
                raise StoreError(
                    f"{path} was made with another config. Move it away, then run again."
                )
            for name in names_in(file):
                record = record_of(plain_dataset(file, name, path))
                records[record.video] = record
    return records


def next_shard_number(folder: Path) -> int:
    """One more than the highest shard number standing."""
    return max((int(path.stem.split("-")[1]) + 1 for path in _shards(folder)), default=0)


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
        columns=list(_FIELDS),
    )
    ok = table.status == "ok"
    known = _known_shards(folder)
    shards = []
    for path in _shards(folder):
        inside = table[ok & (table.shard == path.name)]
        size = path.stat().st_size
        old = known.get(path.name, {})
        shards.append(
            {
                "file": path.name,
                "bytes": size,
                # Shards never change, so a hash taken once stays true; `sha256sum -c` finds rot.
                "sha256": old["sha256"] if old.get("bytes") == size else sha256_of(path),
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
            "stored": int(ok.sum()),
            **{s: int((table.status == s).sum()) for s in ("missing", "failed", "pending")},
            "frames": int(table[ok].frames.sum()),
        },
        "complete": bool(ok.all()),
        "run": dict(run),
    }
    for name, rows in ((VIDEOS, table), (FAILURES, table[~ok])):
        write_text(folder / name, rows.to_csv(index=False, lineterminator="\n"))
    write_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    sums = [(shard["sha256"], shard["file"]) for shard in shards]
    sums += [(sha256_of(folder / name), name) for name in (INDEX, VIDEOS, FAILURES)]
    write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for digest, name in sums))
    return index


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
        self.records = {record.video: record for record in rows if record.status == "ok"}
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
        if tuple(header) != _FIELDS or any(len(row) != len(_FIELDS) for row in rows):
            raise ValueError("unexpected columns")
        kinds = [_FROM_TEXT[field.type] for field in dataclasses.fields(VideoRecord)]
        values = [[kind(text) for kind, text in zip(kinds, row)] for row in rows]
    except FileNotFoundError:
        raise StoreError(f"There is no {path}. {_REBUILD}") from None
    except (ValueError, csv.Error) as error:
        raise StoreError(f"{path} is damaged ({error}). {_REBUILD}") from error
    return [VideoRecord(**dict(zip(_FIELDS, row))) for row in values]


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
    return bool(file.attrs.get("config") == _canonical(config))


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


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("shard-*.h5") if _SHARD_NAME.fullmatch(path.name))


def _known_shards(folder: Path) -> dict[str, dict[str, Any]]:
    if not (folder / INDEX).is_file():
        return {}
    return {shard["file"]: shard for shard in read_index(folder)["shards"]}


def _wrong_fields(found: object, expected: Mapping[str, type]) -> list[str]:
    values = found if isinstance(found, dict) else {}
    return [name for name, kind in expected.items() if type(values.get(name)) is not kind]
