"""What run folders hold, read without torch, so that hundreds are listed at once. Nothing is changed."""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.accuracy import Accuracy
from adapt.run_files import read_json
from store.errors import RunError, printable

_MARKS = frozenset(("config.json", "metrics.jsonl", "checkpoint.pt", "done.json"))
"""A folder with any of these is a run, whole or not."""
_SEED = re.compile(r"seed(\d+)")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's folder."""

    folder: Path
    state: str
    """`finished`, or `unfinished: ...` or `damaged: ...`, which says how."""
    config: Mapping[str, Any]
    """The options; empty where config.json is damaged."""
    data: Mapping[str, Any]
    """Which features it was trained on; empty likewise."""
    result: Accuracy | None = None
    """None unless finished on a target with labels."""
    selection: str = ""
    """The rule that chose the epoch."""
    date: str = ""
    """When it ended, or when its folder last changed; local time."""

    @property
    def finished(self) -> bool:
        """Whether it ended and nothing of it is missing."""
        return self.state == "finished"

    @property
    def seed(self) -> str:
        """Its seed, `?` where that cannot be read."""
        return str(self.config.get("seed", "?"))


@dataclass(frozen=True, kw_only=True)
class Group:
    """One run, or the runs of a folder of seeds, which agree in all other options."""

    folder: Path
    runs: Sequence[Run]

    @property
    def finished(self) -> list[Run]:
        """The runs that have ended."""
        return [run for run in self.runs if run.finished]


def find_runs(root: Path) -> list[Run]:
    """Summarise every run at or below a folder, in the order of their names.

    Raises:
        RunError: there is no such folder.
    """
    if not root.is_dir():
        raise RunError(f"There is no folder {printable(root)}. Name the folder of your runs.")
    found = []
    for folder, inner, files in os.walk(root):
        inner.sort(key=_natural)
        if _MARKS & set(files):
            found.append(summarise(Path(folder)))
    return found


def summarise(folder: Path) -> Run:
    """Summarise one run; damage is said in its state and is no error."""
    config: dict[str, Any] = {}
    data: dict[str, Any] = {}
    result, selection, state = None, "", "finished"
    try:
        record = read_json(folder, "config.json")
        config, data = record.get("config", {}), record.get("data", {})
        if not (isinstance(config, dict) and isinstance(data, dict) and "method" in config):
            config, data = {}, {}
            raise RunError("config.json holds no config of a run")
        if not (folder / "done.json").exists():
            state = f"unfinished: {_epochs(folder)} of {config.get('epochs', 1)} epochs"
        else:
            result, selection = _done(folder)
    except RunError as error:
        state = f"damaged: {error}"
    name = "done.json" if state == "finished" else "config.json"
    return Run(
        folder=folder,
        state=state,
        config=config,
        data=data,
        result=result,
        selection=selection,
        date=_date(folder / name),
    )


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Join the runs seed<N> of a folder that agree in all but their seeds."""
    by_folder: dict[tuple[Path, bool], list[Run]] = defaultdict(list)
    for run in runs:
        several = _SEED.fullmatch(run.folder.name) is not None
        by_folder[run.folder.parent if several else run.folder, several].append(run)
    groups = []
    for (folder, several), members in by_folder.items():
        configs = [but_seed(run) for run in members if run.config]
        if several and any(config != configs[0] for config in configs):
            groups += [Group(folder=r.folder, runs=[r]) for r in members]
        else:
            groups.append(Group(folder=folder, runs=members))
    return groups


def but_seed(run: Run) -> dict[str, Any]:
    """Return the options of a run without its seed."""
    return {name: value for name, value in run.config.items() if name != "seed"}


def _done(folder: Path) -> tuple[Accuracy | None, str]:
    record = read_json(folder, "done.json")
    lacking = [
        name for name in ("checkpoint.pt", "predictions.csv") if not (folder / name).exists()
    ]
    if lacking:
        raise RunError(f"{', '.join(lacking)} is not there any more")
    accuracies = record.get("target_eval")
    if accuracies is None:  # a target without labels
        return None, str(record.get("selection", ""))
    try:
        result = Accuracy(**accuracies)
        good = all(type(getattr(result, n)) in (int, float) for n in ("overall", "low", "high"))
    except TypeError:
        good = False
    if not good:
        raise RunError("done.json does not hold the accuracies")
    return result, str(record.get("selection", ""))


def _epochs(folder: Path) -> int:
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _date(path: Path) -> str:
    there = path if path.exists() else path.parent
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(there.stat().st_mtime))


def _natural(name: str) -> list[tuple[int, str]]:
    """seed2 before seed10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
