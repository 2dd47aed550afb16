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
from adapt.answers import LaterLabels, accuracy_now, later_labels, read_answers
from adapt.run_files import read_done, read_json
from adapt.runs import natural
from store.errors import Ma2lError, RunError, first_of, printable

_MARKS = frozenset(("config.json", "metrics.jsonl", "checkpoint.pt", "done.json"))
"""A folder with any of these is a run, whole or not."""
SEED = re.compile(r"seed(\d+)")
"""The name of a run's folder in a folder of seeds."""


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
    """By the labels that are known now; None unless finished on a target with labels."""
    recorded: Accuracy | None = None
    """What the run itself ended with: the same, unless there are `later` labels."""
    later: LaterLabels | None = None
    """Labels that came after the run had ended, by which `result` is."""
    unseen: str = ""
    """Why it could not be looked up whether there are later labels; empty where it could."""
    selection: str = ""
    """The rule that chose the epoch."""
    date: str = ""
    """When it ended, or when its folder last changed; local time."""

    @property
    def finished(self) -> bool:
        """Whether it ended and nothing of it is missing."""
        return self.state == "finished"

    @property
    def target(self) -> str:
        """Its target. Videos of two targets are different ones, even if their ids are equal."""
        return str(self.config.get("target"))

    @property
    def name(self) -> str:
        """`dann (own)`."""
        return f"{self.config.get('method', '?')} ({self.config.get('preset', '?')})"

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


def find_runs(root: Path, manifests: Path | None = None) -> list[Run]:
    """Summarise every run at or below a folder, in the order of their names.

    Args:
        manifests: the folder of the user's own benchmarks, None if it has not moved since a run.

    Raises:
        RunError: there is no such folder.
    """
    if not root.is_dir():
        raise RunError(f"There is no folder {printable(root)}. Name the folder of your runs.")
    found = []
    for folder, inner, files in os.walk(root):
        inner.sort(key=natural)
        if _MARKS & set(files):
            found.append(summarise(Path(folder), manifests))
    return found


def summarise(folder: Path, manifests: Path | None = None) -> Run:
    """Summarise one run; damage is said in its state and is no error.

    Args:
        manifests: as `find_runs`.
    """
    config: dict[str, Any] = {}
    data: dict[str, Any] = {}
    ended: dict[str, Any] = {}
    state = "finished"
    try:
        record = read_json(folder, "config.json")
        config, data = record.get("config", {}), record.get("data", {})
        if not (isinstance(config, dict) and isinstance(data, dict) and "method" in config):
            config, data = {}, {}
            raise RunError("config.json holds no config of a run")
        if not (folder / "done.json").exists():
            of = config.get("epochs", 1)
            state = f"unfinished: {_epochs(folder)} of {of} {'epoch' if of == 1 else 'epochs'}"
        else:
            ended = _ended(folder, config, manifests or Path(str(data.get("manifests", ""))))
    except RunError as error:
        state = f"damaged: {error}"
    name = "done.json" if state == "finished" else "config.json"
    date = _date(folder / name)
    return Run(folder=folder, state=state, config=config, data=data, date=date, **ended)


def grouped(runs: Iterable[Run]) -> list[Group]:
    """Join the runs seed<N> of a folder that agree in all but their seeds, which are different ones.

    A copy of a run under another name is no other seed: counted as one, it would make the deviation smaller.
    """
    by_folder: dict[tuple[Path, bool], list[Run]] = defaultdict(list)
    for run in runs:
        several = SEED.fullmatch(run.folder.name) is not None
        by_folder[run.folder.parent if several else run.folder, several].append(run)
    groups = []
    for (folder, several), members in by_folder.items():
        there = [run for run in members if run.config]
        if several and (_unlike(there) or repeated_seed([("", run.seed) for run in there])):
            groups += [Group(folder=r.folder, runs=[r]) for r in members]
        else:
            groups.append(Group(folder=folder, runs=members))
    return groups


def seeds_of(folder: Path, manifests: Path | None = None) -> Sequence[Run]:
    """Summarise the run in a folder, or the runs of a folder of seeds.

    Args:
        manifests: as `find_runs`.

    Raises:
        RunError: there is no run, or there are several that differ in more than their seeds.
    """
    groups = grouped(find_runs(folder, manifests))
    if not groups:
        raise RunError(f"There is no run in {printable(folder)}. Name the folder of a run.")
    if len(groups) > 1:
        runs = [run for group in groups for run in group.runs]
        seeds = [(run.folder.name, run.seed) for run in runs]
        copies = "" if _unlike(runs) else repeated_seed(seeds)
        raise RunError(
            f"{printable(folder)} holds {len(groups)} runs that are not seeds of one another "
            f"{first_of([group.folder for group in groups])}. "
            f"{copies or 'Name the folder of a run, or one of seeds.'}"
        )
    return groups[0].runs


def but_seed(run: Run) -> dict[str, Any]:
    """Return the options of a run without its seed."""
    return {name: value for name, value in run.config.items() if name != "seed"}


def repeated_seed(runs: Iterable[tuple[str, object]]) -> str:
    """Return which runs have one seed, and so one answer: sentences for a message, or nothing.

    Args:
        runs: names and seeds.
    """
    first: dict[object, str] = {}
    for name, seed in runs:
        if seed in first:
            return (
                f"{printable(first[seed])} and {printable(name)} have the same seed, {seed}. Remove one of "
                "them, or name a single run."
            )
        first[seed] = name
    return ""


def _unlike(runs: Sequence[Run]) -> bool:
    """Return whether runs differ in more than their seeds."""
    kinds = [(but_seed(run), run.data.get("feature_config_sha256")) for run in runs]
    return any(kind != kinds[0] for kind in kinds)


def _ended(folder: Path, config: Mapping[str, Any], manifests: Path) -> dict[str, Any]:
    """The fields of `Run` that a finished run has."""
    done = read_done(folder)
    lacking = [
        name for name in ("checkpoint.pt", "predictions.csv") if not (folder / name).exists()
    ]
    if lacking:
        raise RunError(f"{', '.join(lacking)} is not there any more")
    recorded = done.target_eval
    found = {"selection": done.selection, "recorded": recorded, "result": recorded}
    if recorded is not None and not recorded.transductive:
        return found  # a target with labels of its own
    answers = read_answers(folder)
    try:
        later = later_labels(config, manifests, answers, done.predicted)
    except (Ma2lError, KeyError, OSError) as error:
        return {**found, "unseen": str(error)}
    if later is None:
        return found
    return {**found, "later": later, "result": accuracy_now(answers, later.truth)}


def _epochs(folder: Path) -> int:
    try:
        return (folder / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


def _date(path: Path) -> str:
    there = path if path.exists() else path.parent
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(there.stat().st_mtime))
