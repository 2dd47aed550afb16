"""Predictions as text: a CSV with a header, or one JSON object a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FORMATS = ("csv", "jsonl")
_RANKS = (
    ("class", "probability"),
    ("second", "second_probability"),
    ("third", "third_probability"),
)
_DIGITS = 6


@dataclass(frozen=True)
class Labelled:
    """What a model says of one video."""

    video: str
    """The id in the manifest, or the path of the file."""
    probabilities_N: np.ndarray
    """Of every class; they sum to 1."""
    split: str | None = None
    """train or eval; None for a file."""


def labels_text(
    rows: Sequence[Labelled], classes: Sequence[str], *, everything: bool, form: str
) -> str:
    """Return a table of the three most probable classes of every video.

    Args:
        everything: add the probabilities of all classes: columns `p(<class>)`, or the object
            `probabilities`.
        form: one of `FORMATS`.
    """
    tables = [_row(row, classes, everything) for row in rows]
    if form == "jsonl":
        # ASCII only: a name of a file need not be valid Unicode, and a terminal shows nothing else.
        return "".join(json.dumps(table) + "\n" for table in tables)
    for table in tables:
        for name, value in table.pop("probabilities", {}).items():
            table[f"p({name})"] = value
    text = io.StringIO()
    writers = {
        # The csv module leaves a carriage return unquoted, and does not read it back.
        strange: csv.writer(
            text, lineterminator="\n", quoting=csv.QUOTE_ALL if strange else csv.QUOTE_MINIMAL
        )
        for strange in (False, True)
    }
    for cells in ([list(tables[0])] if tables else []) + [list(t.values()) for t in tables]:
        writers[any("\r" in str(cell) for cell in cells)].writerow(map(_cell, cells))
    return text.getvalue()


def _row(row: Labelled, classes: Sequence[str], everything: bool) -> dict[str, Any]:
    best = np.argsort(-row.probabilities_N, kind="stable")[: len(_RANKS)].tolist()
    table: dict[str, Any] = {"video": row.video}
    if row.split is not None:
        table["split"] = row.split
    for rank, (name, probability) in enumerate(_RANKS):
        known = rank < len(best)  # there may be fewer classes
        table[name] = classes[best[rank]] if known else None
        table[probability] = _rounded(row.probabilities_N[best[rank]]) if known else None
    if everything:
        table["probabilities"] = {c: _rounded(p) for c, p in zip(classes, row.probabilities_N)}
    return table


def _rounded(probability: float) -> float:
    return round(float(probability), _DIGITS)


def _cell(value: object) -> object:
    return f"{value:.{_DIGITS}f}" if isinstance(value, float) else value
