"""Accuracies, how certain a finite number of videos makes them, and where there is none. No torch here."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from store.errors import counted
from store.manifest import Video, has_no_labels

NO_LABELS = "no labels"
"""What stands in a table in the place of an accuracy that there is not."""


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracies in percent over `videos` videos."""

    overall: float
    class_mean: float
    """Mean of the accuracies of the classes that have videos."""
    low: float
    high: float
    """95 % Wilson interval of `overall`: what the finite number of videos alone leaves open."""
    videos: int
    transductive: bool = False
    """Whether these videos were also in training, without their labels: a target that came without any."""

    @property
    def what(self) -> str:
        """What it is an accuracy on, as in `12 target evaluation videos`."""
        if self.transductive:
            return (
                f"{counted(self.videos, 'labelled target video')} (transductive: in training "
                "too, without labels)"
            )
        return counted(self.videos, "target evaluation video")


def accuracy_on(predicted: Sequence[int], videos: Sequence[Video]) -> Accuracy | None:
    """Compare predicted classes with the labels of a target's evaluation videos, as far as they are known.

    Returns:
        None where no video has a label.
    """
    pairs = [(p, v.label) for p, v in zip(predicted, videos, strict=True) if v.label is not None]
    if not pairs:
        return None
    found = accuracy([p for p, _ in pairs], [label for _, label in pairs])
    return dataclasses.replace(found, transductive=has_no_labels(videos))


def accuracy(predicted: Sequence[int], labels: Sequence[int]) -> Accuracy:
    """Compare predicted classes with the true ones, one each per video."""
    right = [p == label for p, label in zip(predicted, labels, strict=True)]
    per_class = [
        statistics.fmean(r for r, label in zip(right, labels) if label == one)
        for one in sorted(set(labels))
    ]
    low, high = wilson(sum(right), len(right))
    return Accuracy(
        overall=100 * statistics.fmean(right),
        class_mean=100 * statistics.fmean(per_class),
        low=100 * low,
        high=100 * high,
        videos=len(right),
    )


def wilson(right: float, total: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson 1927)."""
    p = right / total
    centre = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
