"""Why the features of one video differ between two stores, from the numbers alone.

What is looked for, in this order: other frames (a shift, every k-th, some more at an end), another scale or
normalisation of the features, rounding, another order of the features, another network, other pixels.
Correlations are along time: of the features of all frames after the mean over the frames was taken off,
because features of any two frames are alike. `extract/causes.py` tries causes on the video itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from store.compare import compare_features
from store.errors import counted

FARTHEST = 16
"""The largest shift that is looked for, in frames."""
MOST_ROUNDING = 0.1
"""The largest error that rounding is named for: bfloat16 makes 0.03 to 0.06, float16 eight times less."""
_LEAST_FRAMES = 4
_STRIDES = range(2, 11)
_ALIKE = 0.5
"""The least correlation of frames that are called the same."""
_SAME_PIXELS = 0.3
"""Above it two features are of one network; those of two networks correlate by chance."""
_MOST_ROWS = 256


@dataclass(frozen=True)
class Cause:
    """What the difference of a video looks like: its kind, to count by, and a sentence about A and B."""

    kind: str
    text: str


def cause_of(a_TD: np.ndarray, b_TD: np.ndarray) -> Cause:
    """Return the likely cause of a difference between the features of one video, (frames, width) each."""
    a, b = a_TD.astype(np.float64), b_TD.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Cause("damage", "there are values that are not finite")
    return _other_frames(a, b) or _other_values(a, b)


def _other_frames(a: np.ndarray, b: np.ndarray) -> Cause | None:
    """Look for other frames of the same video that explain the difference."""
    count = min(len(a), len(b))
    if count < _LEAST_FRAMES:
        return None
    before = correlation(a[:count], b[:count])
    more = abs(len(a) - len(b))
    if more and before > 0.99:
        longer = "A" if len(a) > len(b) else "B"
        return Cause("frames at the end", f"{longer} has {counted(more, 'frame')} more, at the end")
    best, cause = before, None
    for found, candidate in (*_shifts(a, b, count), *_selections(a, b)):
        if found > max(best, _ALIKE) and 1 - found <= 0.5 * (1 - before):
            best, cause = found, candidate
    return cause


def _shifts(a: np.ndarray, b: np.ndarray, count: int) -> Iterator[tuple[float, Cause]]:
    for lag in range(1, min(FARTHEST, count // 2) + 1):
        for early, late, names in ((a, b, "AB"), (b, a, "BA")):
            length = min(len(early), len(late) - lag)
            if length >= _LEAST_FRAMES:
                text = f"frame i of {names[0]} is frame i + {lag} of {names[1]}"
                found = correlation(early[:length], late[lag : lag + length])
                yield found, Cause("frame shift", text)


def _selections(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[float, Cause]]:
    for few, many, names in ((a, b, "AB"), (b, a, "BA")):
        for stride in _STRIDES:
            chosen = many[::stride]
            length = min(len(few), len(chosen))
            if length >= _LEAST_FRAMES:
                text = f"{names[0]} has every {stride}-th frame of {names[1]}"
                yield correlation(few[:length], chosen[:length]), Cause("other frames", text)
        if _LEAST_FRAMES <= len(few) < len(many):
            i = np.arange(len(few))
            for numbers in ((2 * i + 1) * len(many) // (2 * len(few)), i * len(many) // len(few)):
                text = (
                    f"{names[0]} has {counted(len(few), 'frame')}, evenly spaced over the "
                    f"{len(many)} of {names[1]}"
                )
                yield correlation(few, many[numbers]), Cause("other frames", text)


def correlation(a_TD: np.ndarray, b_TD: np.ndarray) -> float:
    """Return the correlation along time, pooled over all features: -1 to 1; 0 if either does not vary."""
    a, b = a_TD - a_TD.mean(axis=0), b_TD - b_TD.mean(axis=0)
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size > 0 else 0.0


def relative_error(a_TD: np.ndarray, b_TD: np.ndarray) -> float:
    """Return ||a - b|| / ||b - mean(b)||, see `Pair.error`; infinite if b does not vary but differs."""
    return compare_features("", a_TD, b_TD).error


def _other_values(a: np.ndarray, b: np.ndarray) -> Cause:
    """Return what the difference of the same frames looks like."""
    count = min(len(a), len(b))
    a, b = a[:count], b[:count]
    error = relative_error(a, b)
    found = _scaled(a, b)
    if found is not None:
        return found
    if error <= MOST_ROUNDING:
        return Cause(
            "precision",
            f"an error of {error:.1g} of the variation between frames is one of rounding (bfloat16 makes "
            "0.03 to 0.06, float16 eight times less), or of a slightly different resizing",
        )
    if np.allclose(np.sort(a, axis=1), np.sort(b, axis=1), rtol=1e-3, atol=1e-3):
        return Cause("order of features", "every frame has the same values, in another order")
    alike, likewise = correlation(a, b), _distances_alike(a, b)
    if alike >= _SAME_PIXELS:
        return Cause(
            "pixels",
            f"the features are alike but not the same (correlation along time {alike:.2f}): other pixels "
            "went into one network, as by another preset (resize, crop), the channel order (BGR) or "
            "another normalisation of the pixels",
        )
    if likewise >= _ALIKE:
        return Cause(
            "weights",
            f"frames that are alike in A are alike in B (correlation of their distances {likewise:.2f}), "
            f"but not by the same features ({alike:.2f}): other weights or another layer",
        )
    return Cause(
        "nothing in common",
        f"neither the features nor the distances between frames agree (correlations {alike:.2f} and "
        f"{likewise:.2f}): another video, weights that have nothing in common, or, with few frames or an "
        "untrained network, other pixels",
    )


def _scaled(a: np.ndarray, b: np.ndarray) -> Cause | None:
    """Look for another scale: of all values, of each frame, or of each feature."""
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    if min(x.min() for x in lengths) == 0:
        return None
    cosine = ((a * b).sum(axis=1) / (lengths[0] * lengths[1])).min()
    spread = [x.std() / x.mean() for x in lengths]
    for (one, other), name in (((0, 1), "A"), ((1, 0), "B")):
        unit = abs(lengths[one].mean() - 1) < 0.01 and spread[one] < 0.002
        if (
            unit
            and (abs(lengths[other].mean() - 1) > 0.01 or spread[other] > 0.01)
            and cosine > 0.99
        ):
            return Cause("scale", f"the features of {name} have length 1: they are L2-normalised")
    factor = float((a * b).sum() / (b * b).sum())
    if abs(factor - 1) > 0.02 and factor > 0 and relative_error(a / factor, b) < MOST_ROUNDING:
        return Cause("scale", f"A is B times {factor:.4g}")
    if len(a) < 2 * _LEAST_FRAMES or relative_error(a, b) <= MOST_ROUNDING:
        return None
    a0, b0 = a - a.mean(axis=0), b - b.mean(axis=0)
    varies = (b0 * b0).sum(axis=0)
    slope = np.divide((a0 * b0).sum(axis=0), varies, out=np.zeros_like(varies), where=varies > 0)
    if relative_error(b0 * slope, a0) < MOST_ROUNDING:
        return Cause(
            "scale",
            "each feature of A is that of B times and plus numbers of its own: one of them is "
            "standardised",
        )
    return None


def _distances_alike(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation between the distances of all pairs of frames in a and in b."""
    rows = np.linspace(0, len(a) - 1, min(len(a), _MOST_ROWS)).astype(int)
    above = np.triu_indices(len(rows), 1)
    distances = []
    for x in (a[rows], b[rows]):
        squares = (x * x).sum(axis=1)
        product = squares[:, None] + squares[None] - 2 * x @ x.T
        distances.append(np.sqrt(np.maximum(product, 0))[above])
    if len(distances[0]) < _LEAST_FRAMES or min(d.std() for d in distances) == 0:
        return 0.0
    return float(np.corrcoef(*distances)[0, 1])
