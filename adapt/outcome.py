"""What finished runs said of their evaluation videos, read without torch, to compare runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.answers import Answers, read_answers
from adapt.overview import Run, but_seed, seeds_of
from store.errors import RunError, counted, first_of, printable
from store.format import config_differences


@dataclass(frozen=True)
class Outcome:
    """What the finished runs of one or several seeds said of the same V evaluation videos."""

    videos: Sequence[tuple[str, str]]
    """Ids and true classes of those that have a label."""
    correct_V: Sequence[float]
    """Of each video the share of runs that have it right."""
    runs: Sequence[Run]
    predicted: int
    """How many videos were predicted, with a label or without."""

    @property
    def partly(self) -> bool:
        """Whether some of the videos that were predicted have no label."""
        return len(self.videos) < self.predicted

    def on(self, videos: Sequence[tuple[str, str]]) -> Outcome:
        """The same of some of its videos alone, in their order."""
        share = dict(zip(self.videos, self.correct_V))
        return dataclasses.replace(self, videos=videos, correct_V=[share[v] for v in videos])


def outcome(folder: Path, manifests: Path | None = None) -> Outcome:
    """Read the predictions of a run, or of all runs of a folder of seeds, on the videos that have a label.

    Args:
        manifests: the folder of the user's own benchmarks, None if it has not moved since the runs.

    Raises:
        RunError: there is no run, one has not finished or is damaged, the runs differ in more than
            their seeds, or no video has a label.
    """
    runs = seeds_of(folder, manifests)
    for run in runs:
        if not run.finished:
            raise RunError(f"{printable(run.folder)} is {run.state}. Finish it, or remove it.")
    every = [read_answers(run.folder) for run in runs]
    tables = [_right(run, answers) for run, answers in zip(runs, every)]
    videos = list(tables[0])
    unlike = [run.folder for run, table in zip(runs, tables) if table.keys() != tables[0].keys()]
    if unlike:
        raise RunError(
            f"{counted(len(unlike), 'run', 'was', of=len(runs), where=f'in {printable(folder)}')} "
            "evaluated on other videos "
            f"than the first {first_of(unlike)}."
        )
    shares = [sum(table[v] for table in tables) / len(tables) for v in videos]
    return Outcome(videos, shares, runs, len(every[0].videos))


def in_common(one: Outcome, other: Outcome) -> tuple[Outcome, Outcome]:
    """Restrict two outcomes to the labelled videos that both predicted, where a target is partly labelled.

    Raises:
        RunError: they have other targets, other videos, though all of them have labels, or other classes
            of one video, or no labelled video in common.
    """
    partly = one.partly or other.partly
    targets = [found.runs[0].target for found in (one, other)]
    if targets[0] != targets[1]:  # both may have a video walk/001, which are two videos
        raise RunError(
            f"The targets are {printable(' and '.join(targets))}, so the runs predicted other videos, "
            "whatever their ids are. Runs are compared on one target."
        )
    classes, theirs = dict(one.videos), dict(other.videos)
    both = [video for video in classes if video in theirs]
    unlike = [video for video in both if classes[video] != theirs[video]]
    if unlike:
        raise RunError(
            f"{counted(len(unlike), 'video', 'has', of=len(both))} another true class in B than in A "
            f"{first_of(unlike)}, so the runs cannot be compared. Train the one with the old labels again."
        )
    alone = [sorted(classes.keys() - theirs.keys()), sorted(theirs.keys() - classes.keys())]
    if any(alone) and not partly:
        name, lacking = ("A", alone[0]) if alone[0] else ("B", alone[1])
        raise RunError(
            "The runs were not evaluated on the same videos: "
            f"{counted(len(lacking), 'video', 'is')} only in {name} "
            f"{first_of(lacking)}."
        )
    if not both:
        raise RunError(
            f"A has labels of {counted(len(classes), 'video')} and B of {len(theirs):,}, and no "
            "video is among both. "
            "Label some that both predicted, with manifest label."
        )
    videos = [(video, classes[video]) for video in both]
    return one.on(videos), other.on(videos)


def differences(a: Run, b: Run) -> str:
    """What differs in options and features; empty where nothing but the seed does."""
    return config_differences(_described(a), _described(b))


def _described(run: Run) -> dict[str, Any]:
    recipe = (run.data.get("recipe") or {}).get("config") or {}
    features = {f"features' {name}": value for name, value in recipe.items()}
    features = features or {"features": run.data.get("feature_config_sha256")}
    return {**but_seed(run), "selection": run.selection, **features}


def _right(run: Run, answers: Answers) -> dict[tuple[str, str], bool]:
    """Whether each video that has a label, by id and true class, is predicted rightly."""
    truth = run.later.truth if run.later else answers.truth
    table = {
        (video, name): name == predicted
        for video, name, predicted in zip(answers.videos, truth, answers.predicted)
        if name is not None
    }
    if not table:
        seen = f" ({run.unseen})" if run.unseen else ""
        raise RunError(
            f"None of the {counted(len(answers.videos), 'video')} that {printable(run.folder)} "
            "predicted has a "
            f"label{seen}. Label some with manifest label."
        )
    return table
