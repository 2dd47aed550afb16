"""Comparing two methods on the same evaluation videos. No torch here.

What is compared is each video's correctness, the mean over the seeds: a number in [0, 1]. All that is said
here holds for these trained models on other videos of the same kind; other seeds are another matter, of
which the deviation over the seeds tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 9999


def sign_flip(differences_V: np.ndarray) -> float:
    """Two-sided p-value of a mean difference of zero, by flipping the signs of all videos' differences.

    Exact: P(|sum_v s_v d_v| >= |sum_v d_v|) for independent random signs s_v. With one seed every
    difference is -1, 0 or 1, and this is McNemar's exact test. The distribution of the sum is the
    convolution, over the sizes k that differences have, of k (2 Binomial(n_k, 1/2) - n_k).

    Args:
        differences_V: whole numbers (V,), such as the difference in how many seeds are right.
    """
    whole = np.rint(differences_V).astype(int)
    if not np.array_equal(whole, differences_V):
        raise ValueError("The differences must be whole numbers.")
    sizes, counts = np.unique(np.abs(whole[whole != 0]), return_counts=True)
    distribution = np.ones(1)
    for size, count in zip(sizes, counts):
        spread = np.zeros(2 * size * count + 1)
        spread[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, spread)
    sums = np.arange(len(distribution)) - len(distribution) // 2
    return float(min(1.0, distribution[np.abs(sums) >= abs(whole.sum())].sum()))


def bootstrap_interval(differences_V: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of a mean difference, by resampling videos: percentiles of `RESAMPLES` means.

    Args:
        differences_V: of two methods on V videos, which so are resampled as pairs.
    """
    if np.ptp(differences_V) == 0:  # nothing to resample
        return float(differences_V[0]), float(differences_V[0])
    found = stats.bootstrap(
        (differences_V,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=100,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected p-values of several comparisons (Holm 1979): the k-th smallest times (m - k + 1).

    A corrected value is never below one of a smaller p-value. Below 0.05 in any of them is wrong in at
    most 5 % of the cases in which there is no difference at all.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for place, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[at]))
        corrected[at] = largest
    return corrected
