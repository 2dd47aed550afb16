"""A finished run as a report shows it, read from its folder alone: neither torch nor features are needed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.accuracy import Accuracy
from adapt.answers import read_answers
from adapt.attention import Attention, read_attention
from adapt.baselines import Baselines, read_baselines
from adapt.details import ClassDetail, of_classes
from adapt.outcome import differences
from adapt.overview import Run, summarise
from adapt.run_files import read_done, read_json
from adapt.runs import ENVIRONMENT, RunFolder
from store.errors import RunError, printable
from store.manifest import Video


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a run said of V videos, the target's evaluation videos, and how it came to that."""

    run: Run
    result: Accuracy | None
    """None where no video has a label."""
    epoch: int
    """The epoch that was chosen."""
    metrics: Sequence[Mapping[str, Any]]
    """The lines of metrics.jsonl."""
    classes: Sequence[str]
    videos: Sequence[str]
    """Ids."""
    truth: Sequence[str | None]
    """The class of each video, by the labels that are known now; None where nobody knows it."""
    predicted: Sequence[str]
    probability: Sequence[float]
    """How probable the model took what it predicted."""
    environment: Mapping[str, Any]
    baselines: Baselines
    """What was trained along with it."""
    attention: Attention | None
    """What each moment of a video weighs, if its method says so."""

    @property
    def name(self) -> str:
        """`dann (own)`."""
        return self.run.name

    @property
    def pair(self) -> str:
        """`ucf -> hmdb`."""
        return f"{self.run.config.get('source', '?')} -> {self.run.config.get('target', '?')}"

    @property
    def target(self) -> str:
        """As `Run.target`."""
        return self.run.target

    @property
    def known(self) -> list[int]:
        """The numbers of the videos whose class is known."""
        return [i for i, name in enumerate(self.truth) if name is not None]

    @property
    def right(self) -> dict[tuple[str, str], bool]:
        """Whether each video, by id and true class, is predicted rightly."""
        return {
            (self.videos[i], str(self.truth[i])): self.truth[i] == self.predicted[i]
            for i in self.known
        }

    def confusion(self) -> NDArray[np.int64]:
        """Videos by true class (row) and predicted class (column)."""
        place = {name: number for number, name in enumerate(self.classes)}
        confusion_NN = np.zeros((len(place), len(place)), np.int64)
        for i in self.known:
            confusion_NN[place[str(self.truth[i])], place[self.predicted[i]]] += 1
        return confusion_NN

    def by_class(self) -> list[ClassDetail]:
        """How the videos of each class fared."""
        return of_classes(self.confusion(), self.classes)


def read_subject(folder: Path, manifests: Path | None = None) -> Subject:
    """Read a finished run.

    Args:
        manifests: the folder of the user's own benchmarks, None if it has not moved since the run.

    Raises:
        RunError: there is none, it did not finish, or it is damaged.
    """
    run = summarise(folder, manifests)
    if not run.finished:
        raise RunError(f"{printable(folder)} is {run.state}. Finish it, or name another run.")
    done = read_done(folder)
    metrics = RunFolder(folder).metrics()
    answers = read_answers(folder)
    truth = run.later.truth if run.later else answers.truth
    named = {*answers.predicted, *(name for name in truth if name is not None)}
    classes = [*done.predicted]
    if not named <= set(classes):  # a run of an older version
        classes = sorted(named)
    return Subject(
        run=run,
        result=run.result,
        epoch=done.epoch or (metrics[-1]["epoch"] if metrics else 1),
        metrics=metrics,
        classes=classes,
        videos=answers.videos,
        truth=truth,
        predicted=answers.predicted,
        probability=answers.probability,
        environment=read_json(folder, ENVIRONMENT),
        baselines=read_baselines(folder),
        attention=read_attention(folder),
    )


def seeds_of_first(subjects: Sequence[Subject]) -> list[Subject]:
    """The first run, and of each other seed one that differs from it in nothing else."""
    first, by_seed = subjects[0], dict[str, Subject]()
    for one in subjects:
        if one.truth == first.truth and not differences(first.run, one.run):
            by_seed.setdefault(one.run.seed, one)
    return list(by_seed.values())


def compared_by_class(subjects: Sequence[Subject]) -> tuple[int, Subject | None]:
    """The run that the first is compared with class by class, and its number, counted from 1.

    It is the first on the same target that is no other seed of run 1, or the second where all are; 0 and
    None where there is none.
    """
    target = subjects[0].target
    numbered = [pair for pair in enumerate(subjects, 1) if pair[1].target == target][1:]
    seeds = [id(one) for one in seeds_of_first(subjects)]
    others = [(number, one) for number, one in numbered if id(one) not in seeds]
    return next(iter(others or numbered), (0, None))


def seeds_text(subjects: Sequence[Subject]) -> str:
    """`2 seeds: mean 70.00 %, sample deviation 5.00`; empty where the first run has no other seed."""
    runs = seeds_of_first(subjects)
    overall = [one.result.overall for one in runs if one.result is not None]
    if len(overall) < 2:
        return ""
    return (
        f"{len(runs)} seeds: mean {statistics.fmean(overall):.2f} %, sample deviation "
        f"{statistics.stdev(overall):.2f}"
    )


def otherwise_labelled(subject: Subject, videos: Sequence[Video]) -> list[str]:
    """The videos of a target with labels of its own that have another one now than when the run ended."""
    now = {video.id: video.class_name for video in videos}
    pairs = zip(subject.videos, subject.truth)
    return [v for v, name in pairs if name is not None and now.get(v) not in (name, None)]
