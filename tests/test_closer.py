"""The Gaussians and the prior of `benchmarks.closer` against SciPy; both domains' videos move them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax
from scipy.stats import multivariate_normal

from benchmarks import closer

CENTRES = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
LABELS = np.arange(150) % 3


def cloud(seed: int, shift: np.ndarray) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(150, 3)) + CENTRES[LABELS] + shift


def test_probabilities_are_those_of_normal_densities() -> None:
    random = np.random.default_rng(0)
    x, weights = random.normal(size=(40, 3)), random.random((40, 2))
    found = closer.Gaussians.of(x, weights)
    densities = []
    scatter = np.zeros((3, 3))
    means = [np.average(x, axis=0, weights=weights[:, n]) for n in range(2)]
    for n in range(2):
        for v in range(40):
            scatter += weights[v, n] * np.outer(x[v] - means[n], x[v] - means[n])
    scatter /= weights.sum()
    covariance = 0.7 * scatter + 0.3 * np.trace(scatter) / 3 * np.eye(3)
    for n in range(2):
        densities.append(multivariate_normal(means[n], covariance).pdf(x))
    expected = np.stack(densities, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    assert found.probabilities(x) == pytest.approx(expected, rel=1e-5)


def test_the_target_draws_the_means_to_its_own_clusters() -> None:
    shift = np.array([1.5, -1.0, 0.0])
    source, target = cloud(1, np.zeros(3)), cloud(2, shift)
    alone = closer.Gaussians.of(source, np.eye(3)[LABELS])
    adapted = closer.fitted(source, np.eye(3)[LABELS], target)

    def wrong(model: closer.Gaussians) -> float:
        return float((model.probabilities(target).argmax(axis=1) != LABELS).mean())

    assert wrong(adapted) < wrong(alone)
    # Twice the weight on the target: two thirds of the way to its clusters.
    assert adapted.means_Nk == pytest.approx(CENTRES + 2 / 3 * shift, abs=0.4)


@pytest.mark.parametrize("strength", [0.5, 3.0, 20.0])
def test_the_prior_is_the_penalty_that_a_minimiser_finds(strength: float) -> None:
    logits = 3 * np.random.default_rng(3).normal(size=(60, 4)) + np.array([2.0, 0.0, 0.0, -2.0])
    prior = np.array([0.1, 0.2, 0.3, 0.4])

    def objective(b: np.ndarray) -> float:
        penalty = strength * float(prior @ np.exp(-b / strength))
        return float(logsumexp(logits + b, axis=1).mean()) + penalty

    best = minimize(objective, np.zeros(4), tol=1e-12).x
    expected = scipy_softmax(logits + best, axis=1)
    assert closer.balanced(logits, prior, strength) == pytest.approx(expected, abs=1e-4)


def test_strength_goes_from_no_prior_to_the_prior_itself() -> None:
    logits = 3 * np.random.default_rng(3).normal(size=(60, 4)) + np.array([2.0, 0.0, 0.0, -2.0])
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    free = closer.balanced(logits, prior, 0.0)
    assert free == pytest.approx(scipy_softmax(logits, axis=1))
    forced = closer.balanced(logits, prior, 1e6)
    assert forced.mean(axis=0) == pytest.approx(prior, abs=1e-3)
    assert abs(free.mean(axis=0) - prior).max() > 0.1


def test_both_directions_and_all_inputs_are_printed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path, label = tmp_path / "features.npz", np.arange(80) % 2
    centres = 1 + 4 * np.eye(2, 8)[label.repeat(3)]
    np.savez(
        path,
        features=np.abs(random.normal(size=(240, 8)) * 0.3 + centres).astype(np.float16),
        offsets=np.arange(81) * 3,
        video=[f"v_{number}" for number in range(80)],
        domain=["real" if number < 40 else "render" for number in range(80)],
        **{"class": [("curl", "squat")[number] for number in label]},
    )
    result = CliRunner().invoke(closer.main, ["--npz", str(path)], catch_exceptions=False)
    rows = [[cell.strip() for cell in line.split("|")] for line in result.output.splitlines()[2:]]
    inputs = ["plain", "root", "deviation", "root-deviation", "together"]
    assert [row[2] for row in rows] == 2 * inputs
    # The classes lie far apart in both domains: every model has to find them.
    assert {tuple(row[3:7]) for row in rows} == {4 * ("100.0",)}
