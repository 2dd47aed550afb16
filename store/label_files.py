"""Labels that stand beside features in others' files: arrays of .npz files, and pickled pandas frames.

A frame's pickle asks for classes of pandas. None of them is used: each means something here that only keeps
what it is given, and a frame's columns are taken from that.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from store.errors import ManifestError, StoreError, printable, shortened
from store.npy_file import Archive, parse_texts, read_file, texts_of
from store.safe_pickle import ADMITTED, SafeUnpickler, array_of, items_of, unpickled

SUFFIXES = (".npz", ".pkl")
_EPIC = ("verb_class", "noun_class")
_IDS = "narration_id"


class Kept:
    """What a pickle gives to a class or function of pandas: arguments and state."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Frame(Kept):
    """A pandas frame."""


class _Index(Kept):
    """The names of columns or of rows."""


def _index(_: Any, content: Any) -> _Index:
    index = _Index()
    index.__setstate__(content)
    return index


class _FrameUnpickler(SafeUnpickler):
    """Admits what pandas 1.1 to 3 write of frames with numbers and texts."""

    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {
        **ADMITTED,
        ("builtins", "slice"): slice,
        ("__builtin__", "slice"): slice,
        **dict.fromkeys((("pandas", "DataFrame"), ("pandas.core.frame", "DataFrame")), _Frame),
        **dict.fromkeys(
            (
                ("pandas.core.internals.managers", "BlockManager"),
                ("pandas._libs.internals", "_unpickle_block"),
                ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"),
                *(("pandas.arrays", "StringArray"), ("pandas", "StringDtype")),
                ("pandas.core.arrays.string_", "StringArray"),
                ("pandas.core.arrays.string_", "StringDtype"),
                *(("pandas", "Index"), ("pandas.core.indexes.base", "Index")),
                *(("pandas", "RangeIndex"), ("pandas.core.indexes.range", "RangeIndex")),
                ("pandas.core.indexes.numeric", "Int64Index"),
            ),
            Kept,
        ),
        ("pandas.core.indexes.base", "_new_Index"): _index,
    }


def labels_in(path: Path, column: str | None) -> list[tuple[str, int]]:
    """Return the ids and labels of a .npz file (arrays `video` and `label`) or of a pickled frame.

    A frame's ids are its column `narration_id`, or else the names of its rows.

    Args:
        column: the array or column of the labels; None takes `label` of a .npz file, and of a frame the
            only one of `verb_class` and `noun_class`.

    Raises:
        ManifestError: it has no such ids or labels, or the choice is not clear.
        StoreError: it cannot be read, or asks for something that is not admitted.
    """
    name = printable(path.name)
    if path.suffix == ".npz":
        archive = Archive(path)
        _check_there(column or "label", archive.names, name)
        _check_there("video", archive.names, name)
        ids = parse_texts(archive.bytes_of("video"), f"{name}: video")
        labels = archive.array(column or "label")
    else:
        columns, rows = _columns_of(path, name)
        known = [one for one in _EPIC if one in columns]
        if column is None and len(known) != 1:
            raise ManifestError(
                f"{name} has the columns {printable(', '.join(columns)) or 'none'}. Say which has the "
                "labels: --label COLUMN"
            )
        column = column or known[0]
        _check_there(column, columns, name)
        found = columns[column]
        labels = found if isinstance(found, np.ndarray) else array_of(found, f"{name}: {column}")
        rows = columns.get(_IDS, rows)
        if rows is None:
            raise ManifestError(
                f"{name} has no column {_IDS}, and its rows are numbered. Name the rows, or add the column."
            )
        if isinstance(rows, np.ndarray):
            rows = rows.tolist()
        ids = texts_of(items_of(rows, name), f"{name}: {_IDS}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels.size and labels.min() < 0):
        raise ManifestError(f"The labels of {name} are no whole numbers from 0 on, one a video.")
    if len(ids) != len(labels):
        raise ManifestError(f"{name} has {len(ids):,} names and {len(labels):,} labels.")
    return list(zip(ids, labels.tolist()))


def _check_there(wanted: str, names: Any, name: str) -> None:
    if wanted not in names:
        there = printable(", ".join(list(map(str, names))[:20])) or "nothing"
        raise ManifestError(f"{name} has no {shortened(wanted)}. It has {there}. --label NAME")


def _columns_of(path: Path, name: str) -> tuple[dict[str, Any], Any]:
    """Return the columns of a pickled frame by name, and the names of its rows, None if they are numbers."""
    found = unpickled(_FrameUnpickler(io.BytesIO(read_file(path)), encoding="latin1"), name)
    try:
        return _parts_of(found)
    except Exception as error:  # what it holds may be anything
        raise StoreError(f"{name} holds no pandas frame that can be read.") from error


def _parts_of(found: Any) -> tuple[dict[str, Any], Any]:
    if not isinstance(found, _Frame) or not isinstance(found.state, dict):
        raise ValueError("no frame")
    manager = found.state.get("_mgr", found.state.get("_data"))
    if not isinstance(manager, Kept):
        raise ValueError("no columns")
    if (
        manager.state is not None
    ):  # pandas before 1.3: axes, values, names, {version: the same by number}
        content = manager.state[3]["0.14.1"]
        axes, blocks = content["axes"], [(b["values"], b["mgr_locs"]) for b in content["blocks"]]
    else:
        axes, blocks = manager.given[1], [block.given[:2] for block in manager.given[0]]
    names = texts_of(items_of(_content(axes[0]), "columns"), "columns")
    columns: dict[str, Any] = {}
    for values, places in blocks:
        numbers = (
            range(len(names))[places]
            if isinstance(places, slice)
            else array_of(places, "").tolist()
        )
        rows = [_content(values)] if isinstance(values, Kept) else _rows(values, len(numbers))
        columns |= {names[number]: row for number, row in zip(numbers, rows, strict=True)}
    return columns, _content(axes[1])


def _rows(values: Any, count: int) -> list[Any]:
    """Return the rows of a block (columns, rows) of numbers, or of objects, a list of all."""
    items = values.state[4]
    if not isinstance(items, list):
        return list(array_of(values, "a block"))
    length = len(items) // count
    if length * count != len(items):
        raise ValueError("a block of another shape")
    return [items[number * length : (number + 1) * length] for number in range(count)]


def _content(value: Any) -> Any:
    """Return what an index or a column of texts holds."""
    if isinstance(value, _Index):
        content = value.state
        return _content(content["data"]) if "data" in content else None
    if isinstance(value, Kept):  # StringArray: its state has its array of objects
        arrays = [
            part for part in value.state if hasattr(part, "state") and not isinstance(part, Kept)
        ]
        return arrays[0]
    return value
