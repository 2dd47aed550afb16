"""The feature store on disk: its names and its tables. Nothing here needs torch or HDF5.

    features/<dataset>/<backbone>-<cfg8>/
      index.json      config and its sha256, shards with bytes and sha256, sha256 of both CSVs, totals
      videos.csv      one row per video (`VideoRecord`)
      failures.csv    the rows whose status is not ok
      shard-00000.h5  per video one contiguous dataset (frames, width), float16 or, where the config's
                      `stored_dtype` says so, float32; the root carries the config
      SHA256SUMS      for `sha256sum -c`
      README.md       only where the store was pushed to: what it is, for people

A store may come from somebody else, so types, ranges and sizes are checked on reading.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import FormatError, StoreError, counted, first_of, shortened
from store.ids import why_no_name
from store.plain import read_plain
from store.records import LARGEST_INTEGER, REBUILD, REMAKE, VideoRecord, load_json, parse_records

FORMAT = 2
INDEX, VIDEOS, FAILURES, SUMS = "index.json", "videos.csv", "failures.csv", "SHA256SUMS"
CARD = "README.md"
LARGEST = {INDEX: 64_000_000, SUMS: 64_000_000, VIDEOS: 1_000_000_000, FAILURES: 1_000_000_000}
"""The largest size in bytes at which a table is read. The 46,624 videos of Kinetics take 15 MB."""
STORED_DTYPES = ("float16", "float32")
_SHARD_NAME = re.compile(r"shard-\d{5}\.h5", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_STORE_NAME = re.compile(r".+-([0-9a-f]{8})")
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
    """Return the canonical JSON of a config: sorted keys, no spaces, ASCII only."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def config_sha256(config: Mapping[str, Any]) -> str:
    """Return the hex sha256 of the canonical JSON of a config."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()


def config_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Return what differs between two configs, for a message: `stride: 1 or 2, weights: ...`."""
    keys = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return ", ".join(f"{key}: {_short(a.get(key))} or {_short(b.get(key))}" for key in keys)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:8]}..."


def stored_dtype(config: Mapping[str, Any]) -> np.dtype[Any]:
    """Return the number type of a store's features: float16, unless its config says float32.

    Raises:
        StoreError: the config names another type.
    """
    name = config.get("stored_dtype", STORED_DTYPES[0])
    if name not in STORED_DTYPES:
        raise StoreError(
            f"The store's config has the number type {shortened(str(name))}; this version reads "
            f"{' and '.join(STORED_DTYPES)}."
        )
    return np.dtype(name).newbyteorder("<")


def store_folder(features: Path, dataset: str, config: Mapping[str, Any]) -> Path:
    """Return `features/<dataset>/<backbone>-<first 8 hex digits of the config's sha256>`.

    Raises:
        StoreError: the data set or the backbone, which may be a stranger's, has a name that no folder can
            have or that leads elsewhere.
    """
    name = store_name(config)
    for what, text in (("data set", dataset), ("backbone", name)):
        if reason := why_no_name(text):
            raise StoreError(f"The store's index names a {what} that is refused: {reason}")
    return features / dataset / name


def store_name(config: Mapping[str, Any]) -> str:
    """Return how the folder of a store with this config is called; `why_no_name` says if none can be."""
    return f"{folder_stem(str(config.get('backbone', '')))}-{config_sha256(config)[:8]}"


def folder_stem(backbone: str) -> str:
    """Return how the folders of a backbone's stores begin: its name, where rsync reads no host in it."""
    return backbone.replace(":", "-")


def renamed(name: str, index: Mapping[str, Any]) -> str:
    """Return how a store folder's name contradicts the config in its index; empty if it does not."""
    named, config = _STORE_NAME.fullmatch(name), str(index["config_sha256"])[:8]
    if named is None or named[1] == config:
        return ""
    return f"the folder's name says config {named[1]}, the index {config}"


def is_store_name(name: str) -> bool:
    """Return whether a folder has the name of a store: `<backbone>-<8 hex digits>`."""
    return _STORE_NAME.fullmatch(name) is not None


def is_shard_name(name: str) -> bool:
    """Return whether a file has the name of a finished shard: `shard-<5 digits>.h5`."""
    return _SHARD_NAME.fullmatch(name) is not None


def shards_in(folder: Path) -> list[Path]:
    """Return the finished shards of a folder, sorted by number."""
    return sorted(path for path in folder.glob("shard-*.h5") if is_shard_name(path.name))


def shard_numbers(folder: Path) -> set[int]:
    """Return the numbers of the finished shards of a folder."""
    return {int(path.stem.removeprefix("shard-")) for path in shards_in(folder)}


def read_table(path: Path) -> bytes:
    """Return the bytes of index.json, videos.csv, failures.csv or SHA256SUMS.

    Raises:
        StoreError: the file is absent, too large, unreadable, or not a plain file of the folder.
    """
    try:
        return read_plain(path, LARGEST[path.name])
    except FileNotFoundError:
        if path.name == INDEX:
            raise StoreError(
                f"{path.parent} has no {INDEX}: it is no store, or its extraction has not finished a shard."
            ) from None
        raise StoreError(f"There is no {path}. {REMAKE.capitalize()}: it is made anew.") from None


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a store; see `parse_index`."""
    return parse_index(read_table(folder / INDEX), folder / INDEX)


def standing_index(folder: Path) -> dict[str, Any] | None:
    """Return the index that is about to be written again; None if there is none, or a damaged one.

    Raises:
        FormatError: it is of another format, and would be lost.
    """
    try:
        return read_index(folder)
    except FormatError:
        raise
    except StoreError:
        return None


def standing_failures(folder: Path) -> dict[str, VideoRecord]:
    """Return the rows of videos without features in failures.csv before it is written again, by video.

    None if it is damaged: the videos that it named are tried again. A `damaged` video has features, so what
    is known of it stands in its shard, and nothing is known once that shard is gone.
    """
    try:
        rows = read_records(folder / FAILURES)
    except StoreError:
        return {}
    return {row.video: row for row in rows if not row.stored}


def parse_index(data: bytes, path: Path | str, remedy: str = REBUILD) -> dict[str, Any]:
    """Return the index of a store, with all fields and names of shards checked.

    Args:
        path: where `data` was read, for messages.
        remedy: the sentence that says what to do about a damaged index there.

    Raises:
        FormatError: it is of another format.
        StoreError: it is damaged, or names foreign files.
    """
    try:
        index = load_json(data.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}). {remedy}") from error
    found = index.get("format") if isinstance(index, dict) else None
    if type(found) is not int:
        raise StoreError(f"{path} is damaged (no valid format). {remedy}")
    if found != FORMAT:
        remedy = "Update this program" if found > FORMAT else "Use the version that wrote it"
        raise FormatError(
            f"{path} has format {_short(repr(found))}, this version reads {FORMAT}. {remedy}, or choose "
            "another folder."
        )
    wrong = _wrong_fields(index, _INDEX_FIELDS)
    if not wrong:
        wrong = _wrong_fields(index["totals"], _TOTALS_FIELDS)
        wrong += _wrong_fields(index["tables"], _TABLES_FIELDS)
        for shard in index["shards"]:
            wrong += _wrong_fields(shard, _SHARD_FIELDS)
    if not wrong and not all(_SHA256.fullmatch(shard["sha256"]) for shard in index["shards"]):
        wrong.append("sha256")
    if wrong:
        raise StoreError(f"{path} is damaged (no valid {', '.join(wrong[:3])}). {remedy}")
    if config_sha256(index["config"]) != index["config_sha256"]:
        raise StoreError(f"{path} is damaged (config_sha256 is not that of its config). {remedy}")
    stored_dtype(index["config"])
    names = [shard["file"] for shard in index["shards"]]
    foreign = [name for name in names if not is_shard_name(name)]
    if foreign:
        raise StoreError(
            f"{path} names {counted(len(foreign), 'file')} among its shards that cannot be one "
            f"{first_of(foreign)}. {remedy}"
        )
    return dict(index)


def _wrong_fields(found: object, expected: Mapping[str, type]) -> list[str]:
    values = found if isinstance(found, dict) else {}
    return [
        name
        for name, kind in expected.items()
        if type(values.get(name)) is not kind
        or (kind is int and not 0 <= values[name] <= LARGEST_INTEGER)
    ]


def read_records(path: Path) -> list[VideoRecord]:
    """Read the rows of videos.csv or failures.csv; see `parse_records`."""
    return parse_records(read_table(path), path)
