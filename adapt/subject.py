"""A finished run as a report shows it, read from its folder alone: neither torch nor features are needed."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapt.accuracy import Accuracy, accuracy_on
from adapt.attention import Attention, read_attention
from adapt.baselines import Baselines, read_baselines
from adapt.details import ClassDetail, of_classes
from adapt.overview import Run, summarise
from adapt.run_files import read_json
from store.errors import RunError, first_of, printable
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
    """The class of each video; None where nobody knew it when the run ended."""
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
        return f"{self.run.config['method']} ({self.run.config.get('preset', '?')})"

    @property
    def pair(self) -> str:
        """`ucf -> hmdb`."""
        return f"{self.run.config.get('source', '?')} -> {self.run.config.get('target', '?')}"

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


def read_subject(folder: Path) -> Subject:
    """Read a finished run.

    Raises:
        RunError: there is none, it did not finish, or it is damaged.
    """
    if not folder.is_dir():
        raise RunError(f"There is no folder {printable(folder)}. Name the folder of a run.")
    if not (folder / "config.json").exists():
        inner = sorted(path.parent for path in folder.glob("*/config.json"))
        what = f"{len(inner)} runs and is" if inner else "no config.json: it is"
        which = f"Name one of them {first_of(inner)}." if inner else "Name the folder of a run."
        raise RunError(f"{printable(folder)} holds {what} no run itself. {which}")
    run = summarise(folder)
    if not run.finished:
        raise RunError(f"{printable(folder)} is {run.state}. Finish it, or name another run.")
    done = read_json(folder, "done.json")
    metrics = _metrics(folder)
    videos, truth, predicted, probability = _predictions(folder / "predictions.csv")
    named = {*predicted, *(name for name in truth if name is not None)}
    classes = [*done.get("predicted", {})]  # in the order of their labels
    if not named <= set(classes):  # a run of an older version
        classes = sorted(named)
    return Subject(
        run=run,
        result=run.result,
        epoch=int(done.get("epoch", metrics[-1]["epoch"] if metrics else 1)),
        metrics=metrics,
        classes=classes,
        videos=videos,
        truth=truth,
        predicted=predicted,
        probability=probability,
        environment=read_json(folder, "environment.json"),
        baselines=read_baselines(folder),
        attention=read_attention(folder),
    )


def _metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found: list[dict[str, Any]] = [json.loads(line) for line in lines]
        for line in found:
            line["epoch"] = int(line["epoch"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{printable(path)} is damaged: {error}. Train again.") from error
    return found


def _predictions(path: Path) -> tuple[list[str], list[str | None], list[str], list[float]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        probability = [float(row["probability"]) for row in rows]
        found = (
            [row["video"] for row in rows],
            [row["class"] or None for row in rows],
            [row["predicted"] for row in rows],
            probability,
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"{printable(path)} is damaged: {error}. Train again.") from error
    if not rows or not all(math.isfinite(p) for p in probability):
        raise RunError(
            f"{printable(path)} is damaged: it holds no prediction, or a probability that is not finite. "
            "Train again."
        )
    return found


def relabelled(subject: Subject, videos: Sequence[Video], notes: list[str]) -> Subject:
    """The run with the labels that its target's videos have by now, if it ended without any.

    A run that ended with labels keeps those; `notes` gets a sentence where they are others by now.
    """
    now = {video.id: video.class_name for video in videos}
    truth = [now.get(video) for video in subject.videos]
    if subject.known:
        unlike = [
            v for v, then, t in zip(subject.videos, subject.truth, truth) if t not in (then, None)
        ]
        if unlike:
            notes.append(
                f"{len(unlike)} of {len(truth)} videos have another label now than when the run ended "
                f"{first_of(unlike)}. The accuracies here are of then."
            )
        return subject
    place = {name: number for number, name in enumerate(subject.classes)}
    ours = [video for video in videos if video.id in set(subject.videos)]
    predicted = dict(zip(subject.videos, subject.predicted))
    result = accuracy_on([place[predicted[video.id]] for video in ours], ours)
    if result is not None:
        notes.append(
            "The labels were added after the run had ended: it recorded no accuracy itself."
        )
    return dataclasses.replace(subject, truth=truth, result=result)
