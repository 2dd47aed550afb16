"""What a run answered, from predictions.csv, and the labels that its videos got after it had ended. No torch.

A target that came without labels may get some later (`manifest label`). They are looked up in its manifest
whenever a run is listed, compared or reported, and nothing is written into the run: its own files go on to
say what it ended with, and no accuracy is left standing when labels change.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.accuracy import Accuracy, accuracy
from adapt.run_files import Done, read_done
from adapt.sources import listed_videos
from store.datasets import manifest_path
from store.errors import ManifestError, RunError, counted, first_of, printable
from store.files import sha256_of
from store.manifest import has_no_labels


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The V evaluation videos of a run's target, in the order of its manifest."""

    videos: Sequence[str]
    """Ids."""
    truth: Sequence[str | None]
    """The class of each video; None where nobody knew it when the run ended."""
    predicted: Sequence[str]
    probability: Sequence[float]
    """How probable the model took what it predicted."""


@dataclass(frozen=True, kw_only=True)
class LaterLabels:
    """Labels that a run's V videos have now, and that are not those which it ended with."""

    manifest: Path
    sha256: str
    """Of the manifest's file."""
    truth: Sequence[str | None]
    """The class of each video; None where nobody knows it."""
    then: int
    """How many videos had a label when the run ended."""

    @property
    def what(self) -> str:
        """Which labels they are: the rest of a sentence."""
        known = sum(name is not None for name in self.truth)
        had = f"labels of {self.then:,}" if self.then else "none"
        here = Path.cwd()
        path = (
            self.manifest.relative_to(here) if self.manifest.is_relative_to(here) else self.manifest
        )
        labels = labels_now(known, len(self.truth), path, self.sha256)
        return f"{labels}; the run ended with {had}"


def labels_now(known: int, videos: int, manifest: Path, sha256: str) -> str:
    """Which labels a target has now that came without: a part of a sentence.

    Args:
        known: how many of its videos have one.
        sha256: of the manifest's file.
    """
    return (
        f"the labels that {counted(known, 'video', 'has', of=videos)} in {printable(manifest)} now "
        f"(sha256 {sha256[:16]})"
    )


def read_answers(folder: Path) -> Answers:
    """Read a run's predictions.csv.

    Raises:
        RunError: it is damaged, or not the one with which the run ended.
    """
    path = folder / "predictions.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        found = Answers(
            videos=[row["video"] for row in rows],
            truth=[row["class"] or None for row in rows],
            predicted=[row["predicted"] for row in rows],
            probability=[float(row["probability"]) for row in rows],
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise RunError(f"{printable(path)} is damaged: {error}. Train again.") from error
    if not rows or not all(map(math.isfinite, found.probability)):
        raise RunError(
            f"{printable(path)} is damaged: it holds no prediction, or a probability that is not finite. "
            "Train again."
        )
    if unlike := _unlike_the_record(found, read_done(folder)):
        raise RunError(
            f"{printable(path)} {unlike}: it was changed after the run, or it is another run's. Bring the "
            "run's own back, or train again."
        )
    return found


def _unlike_the_record(answers: Answers, done: Done) -> str:
    """How answers differ from what done.json says of them: part of a sentence, or empty."""
    recorded = done.target_eval
    right = [p == t for p, t in zip(answers.predicted, answers.truth) if t is not None]
    there = (100 * sum(right) / len(right), len(right)) if right else None
    ended = (recorded.overall, recorded.videos) if recorded else None
    if there is None or ended is None:
        same = there == ended
    else:  # the same share may have been rounded otherwise
        same = there[1] == ended[1] and abs(there[0] - ended[0]) <= 1e-6
    if not same:
        gives, has = (
            f"{x[0]:.2f} % of {x[1]} videos" if x else "no accuracy" for x in (there, ended)
        )
        return (
            f"does not give the accuracy of done.json (it gives {gives}, and done.json has {has})"
        )
    counts, named = done.predicted, Counter(answers.predicted)
    if counts and any(named[n] != counts.get(n) for n in {*named, *counts}):
        return "has other numbers of predictions of each class than done.json"
    return ""


def later_labels(
    config: Mapping[str, Any], manifests: Path, answers: Answers, classes: Collection[str]
) -> LaterLabels | None:
    """Look up the labels that a run's videos have now.

    Args:
        config: the run's options.
        manifests: the folder of the user's own benchmarks.
        classes: those that the run's model knows; if empty, they are not compared.

    Returns:
        None where they are those that the run ended with, where the manifest has none, and where the
        domain was made with labels: its run ended with all of them.

    Raises:
        ManifestError: the manifest is not there, is damaged, or has classes that the run does not know.
    """
    benchmark, target = str(config["benchmark"]), str(config["target"])
    source = str(config["source"]).split(",")[0]
    path = manifest_path(benchmark, target, manifests)
    listed = listed_videos(benchmark, target, source, str(config.get("classes", "")), manifests)
    if not has_no_labels(listed):
        return None
    now = {video.id: video.class_name for video in listed}
    truth = [now.get(video) for video in answers.videos]
    if truth == list(answers.truth) or not any(truth):
        return None
    foreign = sorted({name for name in truth if name is not None} - {*classes}) if classes else []
    if foreign:
        raise ManifestError(
            f"{printable(path)} has {counted(len(foreign), 'class')} that the run does not know "
            f"{first_of(foreign)}"
        )
    return LaterLabels(
        manifest=path,
        sha256=sha256_of(path),
        truth=truth,
        then=sum(name is not None for name in answers.truth),
    )


def accuracy_now(answers: Answers, truth: Sequence[str | None]) -> Accuracy | None:
    """The accuracy on the videos that have a label now; it is transductive, because all of them trained.

    Args:
        truth: the class of each video; None where nobody knows it.

    Returns:
        None where no video has one.
    """
    pairs = [(p, t) for p, t in zip(answers.predicted, truth, strict=True) if t is not None]
    if not pairs:
        return None
    place = {name: number for number, name in enumerate({name for pair in pairs for name in pair})}
    found = accuracy([place[p] for p, _ in pairs], [place[t] for _, t in pairs])
    return dataclasses.replace(found, transductive=True)
