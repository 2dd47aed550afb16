"""The feature store on disk: names, records and tables. Knows neither torch nor HDF5.

    features/<dataset>/<backbone>-<cfg8>/
      index.json      config and its sha256, shards with bytes and sha256, sha256 of both tables, totals
      videos.csv      one row per video (`VideoRecord`)
      failures.csv    the rows whose status is not ok
      shard-00000.h5  per video one contiguous float16 dataset (frames, width); the root carries the config
      SHA256SUMS      for `sha256sum -c`

Everything here may have been written by somebody else: types, ranges and sizes are checked.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.errors import StoreError, first_of
from extract.plain import read_plain

FORMAT = 2
STORED = ("ok", "damaged")
"""The statuses of videos that have features."""
STATUSES = (*STORED, "missing", "failed", "pending")
INDEX, VIDEOS, FAILURES, SUMS = "index.json", "videos.csv", "failures.csv", "SHA256SUMS"
LARGEST = {INDEX: 64_000_000, SUMS: 64_000_000, VIDEOS: 1_000_000_000, FAILURES: 1_000_000_000}
"""Bytes of a table beyond which it is not read: 46,624 videos of Kinetics take 15 MB."""
_DEPTH = 32
"""Levels of nesting that the index may have."""
_INTEGERS = range(-(2**63), 2**63)
_ERROR_LETTERS = 2000
_SHARD_NAME = re.compile(r"shard-\d{5}\.h5", re.ASCII)
_STORE_NAME = re.compile(r".+-([0-9a-f]{8})")
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
_RECORD_TYPES = {
    field.name: {"str": str, "int": int, "float": float}[str(field.type)]
    for field in dataclasses.fields(VideoRecord)
}
_INDEX_FIELDS = {
    **{"dataset": str, "config": dict, "config_sha256": str, "width": int, "shards": list},
    **{"tables": dict, "totals": dict, "complete": bool, "run": dict},
}
_SHARD_FIELDS = {"file": str, "bytes": int, "sha256": str, "videos": int, "frames": int}
_TABLES_FIELDS = {VIDEOS: str, FAILURES: str}
_TOTALS_FIELDS = dict.fromkeys(
    ("listed", "stored", "damaged", "missing", "failed", "pending", "frames"), int
)


def canonical(config: Mapping[str, Any]) -> str:
    """The one JSON text of a config: sorted keys, no spaces."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hex sha256 of the canonical JSON of a config: sorted keys, no spaces."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()


def config_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """What differs between two configs, for a message: `stride: 1 or 2, weights: ...`."""
    keys = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return ", ".join(f"{key}: {_short(a.get(key))} or {_short(b.get(key))}" for key in keys)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:8]}..."


def store_folder(features: Path, dataset: str, config: Mapping[str, Any]) -> Path:
    """`features/<dataset>/<backbone>-<first 8 hex digits of the config's sha256>`."""
    return features / dataset / f"{config['backbone']}-{config_sha256(config)[:8]}"


def renamed(name: str, index: Mapping[str, Any]) -> str:
    """What is wrong with the name of a store's folder, empty if it ends as the index's config does."""
    named, config = _STORE_NAME.fullmatch(name), str(index["config_sha256"])[:8]
    if named is None or named[1] == config:
        return ""
    return f"the folder's name says config {named[1]}, the index {config}"


def is_store_name(name: str) -> bool:
    """Whether a folder is called as a store is."""
    return _STORE_NAME.fullmatch(name) is not None


def is_shard_name(name: str) -> bool:
    """Whether a file's name is that of a finished shard."""
    return _SHARD_NAME.fullmatch(name) is not None


def shards_in(folder: Path) -> list[Path]:
    """The finished shards of a folder, by number."""
    return sorted(path for path in folder.glob("shard-*.h5") if is_shard_name(path.name))


def shard_numbers(folder: Path) -> set[int]:
    """The numbers of the finished shards of a folder."""
    return {int(path.stem.removeprefix("shard-")) for path in shards_in(folder)}


def read_table(path: Path) -> bytes:
    """The bytes of index.json, videos.csv, failures.csv or SHA256SUMS.

    Raises:
        StoreError: absent, not a plain file of the folder, too large, or unreadable.
    """
    try:
        return read_plain(path, LARGEST[path.name])
    except FileNotFoundError:
        if path.name == INDEX:
            raise StoreError(
                f"{path.parent} has no {INDEX}: no store, or its extraction has not finished a shard."
            ) from None
        raise StoreError(f"There is no {path}. {_REBUILD}") from None


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a store; see `parse_index`."""
    return parse_index(read_table(folder / INDEX), folder / INDEX)


def parse_index(data: bytes, path: Path) -> dict[str, Any]:
    """The index of a store, every field of the right type and every shard's name a shard's name.

    Raises:
        StoreError: no index, another format, damaged, or naming foreign files.
    """
    try:
        index = load_json(data.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}). {_REBUILD}") from error
    found = index.get("format") if isinstance(index, dict) else None
    if type(found) is not int or found != FORMAT:
        raise StoreError(f"{path} has format {_short(repr(found))}, this version reads {FORMAT}.")
    wrong = _wrong_fields(index, _INDEX_FIELDS)
    if not wrong:
        wrong = _wrong_fields(index["totals"], _TOTALS_FIELDS)
        wrong += _wrong_fields(index["tables"], _TABLES_FIELDS)
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
    return dict(index)


def load_json(text: str) -> Any:
    """JSON that can be written again and shown: of finite numbers, not deep, in valid Unicode.

    Raises:
        ValueError: it is not.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except (RecursionError, MemoryError) as error:
        raise ValueError("nested too deeply") from error
    level: list[Any] = [value]
    for _ in range(_DEPTH):
        if not level:
            return value
        texts = (t for v in level for t in (v if isinstance(v, dict) else [v]) if type(t) is str)
        for part in texts:
            part.encode("utf-8", "surrogateescape")
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise ValueError(f"nested more than {_DEPTH} levels deep")
    return value


def _inside(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _wrong_fields(found: object, expected: Mapping[str, type]) -> list[str]:
    values = found if isinstance(found, dict) else {}
    return [
        name
        for name, kind in expected.items()
        if type(values.get(name)) is not kind
        or (kind is int and not 0 <= values[name] <= _INTEGERS[-1])
    ]


def record_from(values: Mapping[str, Any]) -> VideoRecord:
    """A record of named values; fields that are not there have their defaults.

    Raises:
        ValueError: an unknown field, one of the wrong type or out of range, or no video.
    """
    known = dict(values)
    for name, value in known.items():
        kind = _RECORD_TYPES.get(name)
        if kind is float and type(value) is int and value in _INTEGERS:
            known[name] = value = float(value)
        good = type(value) is kind
        if kind is str and good:
            value.encode("utf-8", "surrogateescape")
        elif kind is float and good:
            good = math.isfinite(value)
        elif kind is int and good:
            good = value in _INTEGERS and (name != "frames" or value >= 0)
        if not good:
            raise ValueError(f"no valid {str(name)[:40]}")
    if not known.get("video"):
        raise ValueError("no video")
    return VideoRecord(**known)


def read_records(path: Path) -> list[VideoRecord]:
    """The rows of videos.csv or failures.csv; see `parse_records`."""
    return parse_records(read_table(path), path)


def parse_records(data: bytes, path: Path) -> list[VideoRecord]:
    """The rows of videos.csv or failures.csv.

    Raises:
        StoreError: damaged, or with other columns.
    """
    try:
        text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
        header, *rows = csv.reader(text, strict=True)
        if tuple(header) != RECORD_FIELDS or any(len(row) != len(RECORD_FIELDS) for row in rows):
            raise ValueError("unexpected columns")
        kinds = list(_RECORD_TYPES.items())
        return [record_from({n: kind(t) for (n, kind), t in zip(kinds, row)}) for row in rows]
    except (ValueError, csv.Error, MemoryError) as error:
        why = error if str(error) else "not enough memory"
        raise StoreError(f"{path} is damaged ({why}). {_REBUILD}") from error


def records_text(records: Iterable[VideoRecord]) -> str:
    """The CSV of some records, as `parse_records` reads it; an error text is cut to 2,000 letters."""
    text = io.StringIO()
    writers: dict[bool, Callable[[Iterable[Any]], Any]] = {
        # The csv module leaves a carriage return unquoted, and does not read it back.
        strange: csv.writer(
            text, lineterminator="\n", quoting=csv.QUOTE_ALL if strange else csv.QUOTE_MINIMAL
        ).writerow
        for strange in (False, True)
    }
    writers[False](RECORD_FIELDS)
    for record in records:
        cells = dataclasses.astuple(
            dataclasses.replace(record, error=record.error[:_ERROR_LETTERS])
        )
        writers[any(type(cell) is str and "\r" in cell for cell in cells)](cells)
    return text.getvalue()
