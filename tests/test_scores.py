"""Label-free scores against plain loops and the values that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adapt import scores
from adapt.scores import Validation, embedded_validation

UNIFORM = np.full((8, 4), 0.25)
ONE_CLASS = np.tile([0.0, 1.0, 0.0, 0.0], (8, 1))
BALANCED = np.tile(np.eye(4), (2, 1))


def some(videos: int = 9, classes: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), size=videos)


def h(p) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def test_entropy_and_information() -> None:
    P = some()
    mean = [sum(row[n] for row in P) / len(P) for n in range(4)]
    entropies = [h(row) for row in P]
    assert scores.entropy(P) == pytest.approx(sum(entropies) / 9, rel=1e-12)
    assert scores.information(P) == pytest.approx(h(mean) - sum(entropies) / 9, rel=1e-12)
    for collapsed in (UNIFORM, ONE_CLASS):
        assert scores.information(collapsed) == pytest.approx(0, abs=1e-12)
    assert scores.information(BALANCED) == pytest.approx(math.log(4))
    assert (scores.entropy(ONE_CLASS), scores.entropy(UNIFORM)) == (0, pytest.approx(math.log(4)))


@pytest.mark.parametrize("block", [1024, 4])
def test_neighbourhood_density(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_BLOCK", block)
    P = some()
    unit = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in P]
    found = []
    for v, row in enumerate(unit):
        others = [sum(a * b for a, b in zip(row, u)) for i, u in enumerate(unit) if i != v]
        weights = [math.exp(c / 0.05) for c in others]
        found.append(h([w / sum(weights) for w in weights]))
    assert scores.neighbourhood_density(P) == pytest.approx(sum(found) / 9, rel=1e-10)
    assert scores.neighbourhood_density(ONE_CLASS[:4]) == pytest.approx(math.log(3))
    assert scores.neighbourhood_density(P[:1]) == 0


def test_nuclear_norm_and_softmax_correlation() -> None:
    P = some()
    singular = np.sqrt(np.linalg.eigvalsh(P.T @ P))
    assert scores.nuclear_norm(P) == pytest.approx(singular.sum() / 9, rel=1e-8)
    assert scores.nuclear_norm(BALANCED) == pytest.approx(math.sqrt(4 / 8))
    assert scores.nuclear_norm(ONE_CLASS) == pytest.approx(1 / math.sqrt(8))
    C = [[sum(row[i] * row[j] for row in P) / 9 for j in range(4)] for i in range(4)]
    norm = math.sqrt(sum(x * x for row in C for x in row))
    expected = sum(C[i][i] for i in range(4)) / (2 * norm)
    assert scores.softmax_correlation(P) == pytest.approx(expected, rel=1e-12)
    assert scores.softmax_correlation(BALANCED) == pytest.approx(1)
    for collapsed in (UNIFORM, ONE_CLASS):
        assert scores.softmax_correlation(collapsed) == pytest.approx(0.5)


def test_embedded_validation() -> None:
    w, loss = np.array([0.4, 1.0, 1.9]), np.array([1.0, 0.0, 0.0])
    assert embedded_validation(loss, w).risk == pytest.approx(0.157895, abs=5e-7)
    assert embedded_validation(loss, w).largest_weight == 1.9
    assert embedded_validation(np.full(3, 0.7), w).risk == pytest.approx(0.7)
    assert embedded_validation(loss, np.ones(3)) == Validation(pytest.approx(1 / 3), 1.0)


def test_density_ratios_of_two_gaussians() -> None:
    """For N(0, 1) and N(1, 1) the ratio is exp(x - 1/2) in the first number; the second says nothing."""
    draws = np.random.default_rng(0)
    source, target = draws.normal(size=(4000, 2)), draws.normal(size=(2000, 2)) + [1.0, 0.0]
    at = np.array([[0.0, 0.0], [1.0, 1.0], [-1.0, 2.0]])
    found = scores.density_ratios(source, target, at)
    assert found == pytest.approx(np.exp(at[:, 0] - 0.5), rel=0.15)
    same = scores.density_ratios(source, source[:2000], at)
    assert same == pytest.approx(np.ones(3), rel=0.15)


def test_cluster_agreement() -> None:
    centres = np.repeat(np.eye(4) * 10, 5, axis=0)
    features = centres + np.random.default_rng(0).normal(size=centres.shape) * 0.1
    right = np.repeat(np.eye(4), 5, axis=0)
    assert scores.cluster_agreement(right, features) == pytest.approx(1)
    assert scores.cluster_agreement(right[:, [2, 0, 3, 1]], features) == pytest.approx(1)
    assert scores.cluster_agreement(np.tile(right[:1], (20, 1)), features) == 0
    assert scores.cluster_agreement(some(20), features) < 0.5


def test_no_score_depends_on_the_order_of_the_videos() -> None:
    P = some(50)
    again = scores.label_free(P[np.random.default_rng(1).permutation(50)])
    for name, value in scores.label_free(P).items():
        assert again[name] == pytest.approx(value, rel=1e-10), name
