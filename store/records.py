"""The record of a video: a row of videos.csv, and JSON beside its features in the shard.

A record may come from somebody else, so types, ranges and sizes are checked on reading.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import StoreError

STORED = ("ok", "damaged")
"""The statuses of videos that have features."""
STATUSES = (*STORED, "missing", "failed", "pending")
REMAKE = "run extract again, or what else made the store (store import, store pull)"
"""What mends a store once what is damaged was deleted: only what is missing is made."""
REBUILD = f"Delete it and {REMAKE}: it is made anew from the shards."
LARGEST_INTEGER = 2**63 - 1
_INTEGERS = range(-LARGEST_INTEGER - 1, LARGEST_INTEGER + 1)
ERROR_LETTERS = 2000
"""Longer texts are cut, in videos.csv and beside the features alike."""
_DEPTH = 32
"""How many levels of nesting a JSON text may have."""


@dataclass(frozen=True, kw_only=True)
class VideoRecord:
    """What is known about one video. What is unknown is 0 or an empty text."""

    video: str
    shard: str = ""
    frames: int = 0
    """Stored frames: every `stride`-th decoded one."""
    decoded_frames: int = 0
    container_frames: int = 0
    """Number of frames that the container claims to have."""
    fps: float = 0.0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    source: str = ""
    """Path of the source below the folder of videos."""
    source_bytes: int = 0
    source_mtime_ns: int = 0
    """Time of the source's last change, in nanoseconds since 1970. Of a folder, that of its newest image."""
    source_sha256: str = ""
    decoder: str = ""
    """What decoded the frames: decord, pyav or images."""
    missing_frames: int = 0
    """How many frames are missing or damaged, at least. Only whole frames are stored."""
    crc32: str = ""
    """crc32 of the stored bytes, eight hex digits."""
    status: str = "ok"
    """`ok`; `damaged`: only the whole frames are stored, and `error` says why; or not stored at all:
    `missing` (there is no file), `failed` (it is unreadable or damaged), `pending` (not extracted yet)."""
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


def load_json(text: str) -> Any:
    """Parse JSON that can be written again and shown.

    Raises:
        ValueError: it is no JSON, has a number that is not finite, is nested too deeply, or is not
            valid Unicode.
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


def record_from(values: Mapping[str, Any]) -> VideoRecord:
    """Make a record of named values; fields that are not given have their defaults.

    Raises:
        ValueError: a field is unknown, of the wrong type or out of range, or `video` is empty.
    """
    if not isinstance(values, Mapping):
        raise ValueError("it is no JSON object")
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
        raise ValueError("it names no video")
    return VideoRecord(**known)


def parse_records(data: bytes, path: Path | str, remedy: str = REBUILD) -> list[VideoRecord]:
    """Parse the rows of videos.csv or failures.csv.

    Args:
        path: where `data` was read, for messages.
        remedy: the sentence that says what to do about a damaged table there.

    Raises:
        StoreError: the table is damaged or has other columns.
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
        raise StoreError(f"{path} is damaged ({why}). {remedy}") from error


def records_text(records: Iterable[VideoRecord]) -> str:
    """Return the CSV of records that `parse_records` reads. An error text is cut to 2,000 characters."""
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
        cells = dataclasses.astuple(dataclasses.replace(record, error=record.error[:ERROR_LETTERS]))
        writers[any(type(cell) is str and "\r" in cell for cell in cells)](cells)
    return text.getvalue()
