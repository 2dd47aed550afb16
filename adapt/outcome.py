"""What finished runs said of their evaluation videos, read without torch, to compare runs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.overview import Run, but_seed, find_runs, grouped
from store.errors import RunError, first_of, printable
from store.format import config_differences


@dataclass(frozen=True)
class Outcome:
    """What the finished runs of one or several seeds said of the same evaluation videos."""

    videos: Sequence[tuple[str, str]]
    """Ids and true classes."""
    correct_V: Sequence[float]
    """Of each video the share of runs that have it right."""
    runs: Sequence[Run]


def outcome(folder: Path) -> Outcome:
    """Read the predictions of a run, or of all runs of a folder of seeds.

    Raises:
        RunError: there is no run, one has not finished or is damaged, the runs differ in more than
            their seeds, or a video has no label.
    """
    groups = grouped(find_runs(folder))
    if len(groups) != 1:
        raise RunError(
            f"{printable(folder)} holds {len(groups)} runs that are not seeds of one another"
            f"{' ' + first_of([g.folder for g in groups]) if groups else ''}. Name a run's folder, or one "
            "of seeds."
        )
    runs = groups[0].runs
    for run in runs:
        if not run.finished:
            raise RunError(f"{printable(run.folder)} is {run.state}. Finish it, or remove it.")
    tables = [_right(run.folder) for run in runs]
    videos = list(tables[0])
    unlike = [run.folder for run, table in zip(runs, tables) if table.keys() != tables[0].keys()]
    if unlike:
        raise RunError(
            f"{len(unlike)} of {len(runs)} runs in {printable(folder)} were evaluated on other videos "
            f"than the first {first_of(unlike)}."
        )
    shares = [sum(table[v] for table in tables) / len(tables) for v in videos]
    return Outcome(videos, shares, runs)


def differences(a: Run, b: Run) -> str:
    """What differs in options and features; empty where nothing but the seed does."""
    return config_differences(_described(a), _described(b))


def _described(run: Run) -> dict[str, Any]:
    recipe = (run.data.get("recipe") or {}).get("config") or {}
    features = {f"features' {name}": value for name, value in recipe.items()}
    features = features or {"features": run.data.get("feature_config_sha256")}
    return {**but_seed(run), "selection": run.selection, **features}


def _right(folder: Path) -> dict[tuple[str, str], bool]:
    """Whether each video, by id and true class, is predicted rightly."""
    path = folder / "predictions.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        unlabelled = [row["video"] for row in rows if not row["class"]]
        table = {(r["video"], r["class"]): r["class"] == r["predicted"] for r in rows}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise RunError(f"{printable(path)} is damaged: {error}. Train again.") from error
    if unlabelled or not table:
        raise RunError(f"{printable(folder)} was not evaluated on videos with labels.")
    return table
