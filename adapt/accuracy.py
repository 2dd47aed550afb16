"""Accuracies, and how certain a finite number of videos makes them. No torch here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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
