"""Samples of videos, and their points of a plane."""

from __future__ import annotations

import numpy as np
import pytest

from adapt.embedding import plane, sample_evenly, shares


def test_both_domains_get_their_share_of_the_points() -> None:
    assert shares((100, 50), 1500) == (100, 50)
    assert shares((5000, 5000), 1500) == (750, 750)
    assert shares((100, 5000), 1500) == (100, 1400)
    assert shares((5000, 100), 1500) == (1400, 100)
    assert shares((0, 5000), 1500) == (0, 1500)
    for a in range(0, 12):
        for b in range(0, 12):
            first, second = shares((a, b), 7)
            assert first <= a and second <= b and first + second == min(7, a + b)


def test_a_sample_is_ascending_without_repeats_and_always_the_same() -> None:
    assert sample_evenly(3, 5).tolist() == [0, 1, 2]
    sample = sample_evenly(1000, 100)
    assert len(set(sample.tolist())) == 100 and (np.diff(sample) > 0).all()
    assert (sample == sample_evenly(1000, 100)).all()
    assert abs(sample.mean() - 500) < 100


def test_groups_far_apart_stay_apart_and_points_repeat() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 80)) + 30 * np.repeat(np.eye(3, 80), 20, axis=0)
    points = plane(features)
    assert points.shape == (60, 2) and (points == plane(features)).all()
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) // 20 == np.arange(60) // 20).all()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.eye(3), "t-SNE needs 4 videos or more, and there are 3"),
        (np.ones((9, 4)), "the features of all videos are the same"),
    ],
)
def test_what_cannot_be_drawn_is_refused(features: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plane(features)


def test_few_videos_and_a_single_number_can_be_drawn() -> None:
    assert np.isfinite(plane(np.arange(12.0).reshape(4, 3))).all()
    assert np.isfinite(plane(np.arange(5.0)[:, None])).all()
