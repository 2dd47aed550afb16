"""One answer of several runs that differ in their seed alone: the mean of their probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from adapt import checkpoint
from adapt.checkpoint import Trained
from adapt.overview import repeated_seed
from adapt.runs import RunFolder, run_folders
from adapt.whole import WholeVideos, classify_picked
from store.errors import RunError, counted, first_of, printable

_FEW = 80.0
"""Percent of equal answers below which a warning is due (our choice)."""


def load_seeds(folder: Path) -> list[Trained]:
    """The trained models of a run, or of a folder of runs that differ in their seed alone.

    Raises:
        RunError: there is no finished run, one of several is not finished, they differ in more or know
            other classes, or two have one seed.
    """
    runs = [RunFolder(path) for path in run_folders(folder)]
    open_ones = [str(run.path) for run in runs if not run.is_finished()]
    if len(runs) > 1 and open_ones:
        raise RunError(
            f"{counted(len(open_ones), 'run', 'is', of=len(runs), where=f'in {folder}')} not "
            f"finished {first_of(open_ones)}. Go on "
            "with --resume, remove them, or name one run."
        )
    if unlike := unlike_but_for_seed(runs):
        raise RunError(
            f"The {len(runs)} runs in {folder} differ in more than their seed, so they have no answer in "
            f"common: {unlike} Name one run."
        )
    if copies := repeated_seed([(run.path.name, run.read()[0].seed) for run in runs]):
        raise RunError(f"The {len(runs)} runs in {folder} are not seeds of one another: {copies}")
    trained = [checkpoint.load_model(run, run.read()[0]) for run in runs]
    for run, one in zip(runs, trained):
        if one.classes != trained[0].classes:
            raise RunError(
                f"{run.path.name} knows the classes {printable(', '.join(one.classes))}, and "
                f"{runs[0].path.name} {printable(', '.join(trained[0].classes))}: the manifests were changed "
                "between them, so they have no answer in common. Name one run."
            )
    return trained


def unlike_but_for_seed(runs: Sequence[RunFolder]) -> str:
    """How the first pair of runs differs in more than the seed: part of a message, or empty.

    Raises:
        RunError: a folder holds no run.
    """
    seed = runs[0].read()[0].seed
    for run in runs[1:]:
        config, record = run.read()
        unlike = runs[0].unlike(dataclasses.replace(config, seed=seed), record)
        if unlike:
            return f"beside {run.path.name}, {runs[0].path.name} holds {unlike}"
    return ""


class Ensemble:
    """What several models say together of whole videos, each on its own.

    Five seeds together were better than their mean accuracy by 1.0 to 10.2 points on average over methods,
    depending on the problem (measured, docs/results.md).

    Args:
        trained: one or more; of one it is what that one says.
    """

    def __init__(self, trained: Sequence[Trained], device: torch.device) -> None:
        self._device = device
        self._answers = self._agreeing = 0
        self._members = [WholeVideos(one.model, one.config).to(device) for one in trained]

    def frames(self, count: int) -> np.ndarray:
        """The frames that any member looks at, of a video of so many: numbers in ascending order."""
        picked = [whole.pick(count).numpy().ravel() for whole in self._members]
        return np.unique(np.concatenate(picked))

    def classify(self, features_KD: np.ndarray, numbers_K: np.ndarray, count: int) -> np.ndarray:
        """Features of some frames of a video -> probabilities (N,) float32.

        Args:
            features_KD: as stored; numbers_K: what `frames` named; count: how many frames the video has.
        """
        found = []
        for whole in self._members:
            rows_KT = np.searchsorted(numbers_K, whole.pick(count).numpy())
            found.append(classify_picked(whole, features_KD[rows_KT], self._device))
        together: np.ndarray = found[0] if len(found) == 1 else np.mean(found, axis=0)
        self._answers += len(found)
        self._agreeing += sum(one.argmax() == together.argmax() for one in found)
        return together

    def agreement(self) -> str:
        """How far the seeds said the same of all videos so far: a sentence, empty of a single one."""
        if len(self._members) < 2 or not self._answers:
            return ""
        share = 100 * self._agreeing / self._answers
        return (
            f"{len(self._members)} seeds answer together; a seed has the class that they name together for "
            f"{share:.1f} % of the videos on average."
            + (
                " They disagree: believe none of them before some labels are known."
                if share < _FEW
                else ""
            )
        )

    def classify_all(self, features_FD: np.ndarray) -> np.ndarray:
        """All features of one video, as stored, (F, D) -> probabilities (N,) float32."""
        numbers_K = self.frames(len(features_FD))
        return self.classify(features_FD[numbers_K], numbers_K, len(features_FD))
