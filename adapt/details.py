"""What an accuracy hides: classes, confusions, the next guesses, and whether probabilities can be believed.

All from probabilities (V, N) and labels (V,) of the same videos. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of the calibration error."""


@dataclass(frozen=True, kw_only=True)
class ClassDetail:
    """How the videos of a class, and those predicted as it, fared. Shares are in percent, None of nothing."""

    name: str
    videos: int
    predicted: int
    recall: float | None
    """Of its videos, those predicted right."""
    precision: float | None
    """Of the videos predicted as it, those that are."""
    mistaken_for: str | None
    """The class that most of its other videos were predicted as."""


@dataclass(frozen=True, kw_only=True)
class Details:
    """Everything beside overall and class-mean accuracy, in percent."""

    classes: Sequence[ClassDetail]
    confusion_NN: NDArray[np.int64]
    """Videos by true class (row) and predicted class (column)."""
    top: dict[int, float]
    """Share of videos whose class is among the k most probable ones, by k."""
    calibration_error: float
    """ECE of 15 bins: how far the highest probability is from the accuracy, on average (Guo et al., 2017)."""
    mean_confidence: float
    """Mean of the highest probability."""
    chance: float
    """What guessing evenly among the classes would have."""
    majority: float
    """What naming the most frequent class of these videos every time would have; it reads their labels."""


def details(
    P_VN: NDArray[np.float64], labels_V: NDArray[np.int64], classes: Sequence[str]
) -> Details:
    """Compare predictions with the truth in detail.

    Args:
        P_VN: probabilities, rows that sum to 1.
        labels_V: 0..N-1, at least one.
    """
    N = len(classes)
    confusion_NN = np.zeros((N, N), np.int64)
    np.add.at(confusion_NN, (labels_V, P_VN.argmax(axis=1)), 1)
    # Equally probable classes come in their order, as where a class is predicted: sure predictions make all
    # others 0, and those would otherwise share a rank, which counts them all as among the first.
    order_VN = np.argsort(-P_VN, axis=1, kind="stable")
    ranks_V = (order_VN == labels_V[:, None]).argmax(axis=1)
    return Details(
        classes=of_classes(confusion_NN, classes),
        confusion_NN=confusion_NN,
        top={k: 100 * float((ranks_V < k).mean()) for k in (1, 3, 5) if k < N},
        calibration_error=100 * calibration_error(P_VN, labels_V),
        mean_confidence=100 * float(P_VN.max(axis=1).mean()),
        chance=100 / N,
        majority=100 * float(confusion_NN.sum(axis=1).max() / len(labels_V)),
    )


def of_classes(confusion_NN: NDArray[np.int64], classes: Sequence[str]) -> list[ClassDetail]:
    """How each class fared, from the numbers of videos by true class (row) and predicted class (column)."""
    return [_of_class(number, name, classes, confusion_NN) for number, name in enumerate(classes)]


def _of_class(
    number: int, name: str, classes: Sequence[str], confusion_NN: NDArray[np.int64]
) -> ClassDetail:
    own, named = int(confusion_NN[number].sum()), int(confusion_NN[:, number].sum())
    right = int(confusion_NN[number, number])
    others = confusion_NN[number].copy()
    others[number] = 0
    return ClassDetail(
        name=name,
        videos=own,
        predicted=named,
        recall=100 * right / own if own else None,
        precision=100 * right / named if named else None,
        mistaken_for=classes[int(others.argmax())] if others.any() else None,
    )


def calibration_error(P_VN: NDArray[np.float64], labels_V: NDArray[np.int64]) -> float:
    """ECE = sum_b |videos in b| / V |accuracy(b) - mean confidence(b)| over 15 equal bins of the confidence.

    A bin is (i/15, (i+1)/15], as Guo et al. (ICML 2017) have it.
    """
    confidence_V = P_VN.max(axis=1)
    right_V = P_VN.argmax(axis=1) == labels_V
    bin_V = np.clip(np.ceil(confidence_V * BINS).astype(int) - 1, 0, BINS - 1)
    return float(
        sum(
            abs(float(right_V[bin_V == b].mean()) - float(confidence_V[bin_V == b].mean()))
            * float((bin_V == b).mean())
            for b in np.unique(bin_V)
        )
    )
