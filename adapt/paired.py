"""Two models on the same videos: which differences do the videos alone explain? No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_CHUNK = 500
"""Draws of the bootstrap at once."""


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """McNemar's exact test of two models, one prediction each of every video."""

    only_a: int
    """Videos that A alone has right."""
    only_b: int
    p: float
    """Two-sided: how probable a split at least as uneven is if either model is as likely to be the one
    that is right."""


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> McNemar:
    """Compare two models by the videos that exactly one of them has right (McNemar 1947, exact binomial).

    Args:
        right_a, right_b: (V,) whether each has a video right, in the same order.

    Raises:
        ValueError: the lengths differ.
    """
    from scipy.stats import binomtest  # half a second that listing runs need not wait for

    a, b = _paired(right_a, right_b)
    only_a, only_b = int(((a > 0.5) & (b < 0.5)).sum()), int(((a < 0.5) & (b > 0.5)).sum())
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a=only_a, only_b=only_b, p=float(p))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much more often B is right than A, in points of accuracy."""

    points: float
    low: float
    high: float
    """95 % interval, percentiles of the bootstrap over videos: what other videos would leave open, and
    not what other seeds would."""


def bootstrap(
    correct_a: ArrayLike, correct_b: ArrayLike, *, draws: int = 10_000, seed: int = 0
) -> Difference:
    """The difference B - A of mean correctness, by drawing the videos again with replacement.

    Args:
        correct_a, correct_b: (V,) of each video the share of a model's seeds that have it right, 0 to 1.

    Raises:
        ValueError: the lengths differ, or there are no videos.
    """
    a, b = _paired(correct_a, correct_b)
    gain_V = 100 * (b - a)
    if not len(gain_V):
        raise ValueError("There are no videos to compare on.")
    random = np.random.default_rng(seed)
    means = [
        gain_V[random.integers(len(gain_V), size=(min(_CHUNK, draws - at), len(gain_V)))].mean(
            axis=1
        )
        for at in range(0, draws, _CHUNK)
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Difference(points=float(gain_V.mean()), low=float(low), high=float(high))


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"Videos of shapes {one.shape} and {other.shape} cannot be paired.")
    return one, other
