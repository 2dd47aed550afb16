"""Comparing the features of two stores, one video at a time, so that memory does not grow."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from store.errors import StoreError
from store.read import FeatureStore

_ROWS = 4096
"""Rows that are compared at a time, in float64."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """How a video in one store compares with the same video in another.

    If the numbers of frames differ, the frames that both stores have are compared.
    """

    video: str
    frames_a: int
    frames_b: int
    identical: bool
    """Whether both have the same shape and the same bytes."""
    cosine_min: float
    cosine_mean: float
    error: float
    """||a - b|| / ||b - mean(b)||, the difference relative to the variation between b's frames.

    Features of any two frames have a cosine near 1 (0.9975 and more on an untrained network), so a high
    cosine alone proves little. The error is infinite if a differs from a b that does not vary (one
    frame, for example). It is infinite, and both cosines are 0, if a value is not finite.
    """


def compare(a: FeatureStore, b: FeatureStore) -> Iterator[Pair]:
    """Yield a comparison of every video that is in both stores, in the order of their names.

    Raises:
        StoreError: the features have different widths, or are damaged.
    """
    if a.width != b.width:
        raise StoreError(
            f"{a.folder} has features of width {a.width}, {b.folder} of {b.width}: "
            "they come from different backbones and cannot be compared."
        )
    for video in sorted(a.records.keys() & b.records.keys()):
        yield compare_features(video, a.read(video), b.read(video))


def compare_features(video: str, a_TD: np.ndarray, b_TD: np.ndarray) -> Pair:
    """Compare two matrices (frames, width) of equal width; see `Pair`."""
    pair = functools.partial(Pair, video=video, frames_a=len(a_TD), frames_b=len(b_TD))
    if a_TD.shape == b_TD.shape and a_TD.tobytes() == b_TD.tobytes():
        return pair(identical=True, cosine_min=1.0, cosine_mean=1.0, error=0.0)
    frames = min(len(a_TD), len(b_TD))
    if not all(np.isfinite(x_TD[:frames]).all() for x_TD in (a_TD, b_TD)):
        return pair(identical=False, cosine_min=0.0, cosine_mean=0.0, error=np.inf)
    mean_D = b_TD[:frames].mean(axis=0, dtype=np.float64)
    difference = variation = cosines = 0.0
    cosine_min = np.inf
    for start in range(0, frames, _ROWS):
        rows = slice(start, min(start + _ROWS, frames))
        a, b = a_TD[rows].astype(np.float64), b_TD[rows].astype(np.float64)
        difference += float(np.square(a - b).sum())
        variation += float(np.square(b - mean_D).sum())
        cosine = _cosine(a, b)
        cosines += float(cosine.sum())
        cosine_min = min(cosine_min, float(cosine.min()))
    none = np.inf if difference else 0.0
    return pair(
        identical=False,
        cosine_min=cosine_min,
        cosine_mean=cosines / frames,
        error=(difference / variation) ** 0.5 if variation > 0 else none,
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows: 1 if both are zero, 0 if one of them is."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero, 1.0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
