"""The statistics of a benchmark's tables, against scipy and against plain loops."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from scipy import stats

from adapt.paired import bootstrap_interval, holm, sign_flip


def some(seeds: int, videos: int, seed: int = 0) -> np.ndarray:
    """Differences in how many of `seeds` seeds are right."""
    draws = np.random.default_rng(seed)
    better = draws.integers(0, seeds + 1, videos)
    return (better - draws.integers(0, seeds, videos, endpoint=True)).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_with_one_seed_it_is_mcnemars_exact_test(seed: int) -> None:
    d = some(1, 300, seed)
    expected = stats.binomtest(int((d > 0).sum()), int((d != 0).sum())).pvalue
    assert sign_flip(d) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_it_is_the_share_of_all_sign_flips_that_are_as_far_from_zero(seeds: int) -> None:
    d = some(seeds, 11, seeds)
    sums = [sum(s * x for s, x in zip(signs, d)) for signs in itertools.product((-1, 1), repeat=11)]
    expected = statistics.fmean(abs(value) >= abs(d.sum()) for value in sums)
    assert sign_flip(d) == pytest.approx(expected, rel=1e-9)
    theirs = stats.permutation_test(
        (d,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", n_resamples=10**4
    )
    assert sign_flip(d) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_no_difference_and_a_small_one_on_few_videos() -> None:
    assert sign_flip(np.zeros(50)) == 1
    five = np.array([1.0] * 5 + [0.0] * 49)  # 5 of 54 videos: chance gives as much in 1 of 16 cases
    assert sign_flip(five) == pytest.approx(2 / 2**5)
    with pytest.raises(ValueError, match="whole numbers"):
        sign_flip(five / 3)


def test_the_interval_is_that_of_resampled_videos() -> None:
    d = some(3, 200) / 3
    low, high = bootstrap_interval(d)
    draws = np.random.default_rng(1)
    means = sorted(statistics.fmean(draws.choice(d, len(d)).tolist()) for _ in range(4000))
    assert low == pytest.approx(means[100], abs=0.01) and high == pytest.approx(
        means[3900], abs=0.01
    )
    assert (low, high) == bootstrap_interval(d)  # the same again
    assert bootstrap_interval(np.full(7, 0.5)) == (0.5, 0.5)


def test_holm_is_the_step_down_procedure() -> None:
    """At every level a hypothesis is rejected as Holm's steps reject it."""
    draws = np.random.default_rng(0)
    for _ in range(50):
        p = (draws.random(8) ** 3).round(3).tolist()
        corrected = holm(p)
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for step, at in enumerate(sorted(range(8), key=lambda i: p[i])):
                if p[at] > level / (8 - step):
                    break
                rejected.add(at)
            assert {i for i in range(8) if corrected[i] <= level + 1e-12} == rejected
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.7, 0.9]) == [1, 1]
