"""Subspaces against quadrature, plain loops and scipy: the flow between them, and their dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import subspace_angles

from adapt.subspace import (
    Principal,
    check_dimension,
    disagreement_dimension,
    flow,
    stable_dimension,
)
from store.errors import ConfigError


def basis(width: int, d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, d)))[0]


def kernel_by_quadrature(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """int_0^1 Phi(t) Phi(t)^T dt by 40 nodes, Phi from the vectors' own geometry."""
    u, cosine, v = np.linalg.svd(p.T @ q)
    starts, ends = p @ u, q @ v.T
    nodes, weights = np.polynomial.legendre.leggauss(40)
    kernel = np.zeros((len(p), len(p)))
    for t, weight in zip((nodes + 1) / 2, weights / 2):
        for a, b, c in zip(starts.T, ends.T, cosine):
            # The point t of the great circle from a to b.
            theta = math.acos(min(1, c))
            phi = (math.sin((1 - t) * theta) * a + math.sin(t * theta) * b) / math.sin(theta)
            kernel += weight * np.outer(phi, phi)
    return kernel


@pytest.mark.parametrize(("width", "d"), [(6, 1), (9, 3), (12, 6)])
def test_the_flow_is_the_integral(width: int, d: int) -> None:
    p, q = basis(width, d, 0), basis(width, d, 1)
    kernel = flow(p, q) @ flow(p, q).T
    np.testing.assert_allclose(kernel, kernel_by_quadrature(p, q), atol=1e-10)
    assert np.trace(kernel) == pytest.approx(d, abs=1e-10)
    assert flow(p, q).shape == (width, 2 * d)


def test_the_flow_over_60_degrees() -> None:
    p, q = np.array([[1.0], [0.0]]), np.array([[0.5], [math.sqrt(0.75)]])
    kernel = flow(p, q) @ flow(p, q).T
    np.testing.assert_allclose(kernel, [[0.70675, 0.35810], [0.35810, 0.29325]], atol=5e-6)


def test_the_flow_between_equal_and_between_orthogonal_subspaces() -> None:
    p = basis(8, 3, 0)
    same = flow(p, p @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0])
    np.testing.assert_allclose(same @ same.T, p @ p.T, atol=1e-12)
    whole = basis(8, 6, 2)
    apart = flow(whole[:, :3], whole[:, 3:])
    np.testing.assert_allclose(
        apart @ apart.T, kernel_by_quadrature(whole[:, :3], whole[:, 3:]), atol=1e-10
    )


def test_signs_of_basis_vectors_do_not_change_the_kernel() -> None:
    p, q = basis(7, 3, 0), basis(7, 3, 1)
    flipped = flow(p * [1, -1, 1], q * [-1, 1, -1])
    np.testing.assert_allclose(flipped @ flipped.T, flow(p, q) @ flow(p, q).T, atol=1e-12)


def test_principal_components_are_those_of_the_covariance() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5)) * [5, 4, 3, 2, 1]
    found = Principal.of(x)
    covariance = np.cov(x.T)
    np.testing.assert_allclose(found.mean_D, x.mean(0))
    for value, vector in zip(found.values_r, found.basis_Dr.T):
        np.testing.assert_allclose(covariance @ vector, value * vector, atol=1e-10)
    assert list(found.values_r) == sorted(found.values_r, reverse=True)
    assert Principal.of(x[:4]).basis_Dr.shape == (5, 3)  # V rows have V - 1 components


def test_the_dimension_that_the_videos_determine() -> None:
    """The bound in loops, for spectra that fall at different places."""
    random = np.random.default_rng(0)
    seen = set()
    for strength in (0.02, 0.3, 1.0, 3.0, 10.0):
        scales = np.concatenate([strength * np.arange(8, 3, -1), np.full(15, 0.1)])
        source, target = (
            random.normal(size=(50, 20)) * scales,
            random.normal(size=(70, 20)) * scales,
        )
        spectra = [np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1] for x in (source, target)]
        largest = max(((x - x.mean(0)) ** 2).sum(1).max() for x in (source, target))
        expected = 1
        for d in range(1, 20):
            gap = min(values[d - 1] - values[d] for values in spectra)
            needed = 1 + math.sqrt(math.log(2 / 0.1) / 2)
            needed *= 16 * d**1.5 * largest / (1e5 * math.sqrt(50))
            if gap >= needed:
                expected = d
        assert stable_dimension(source, target, 19) == expected
        seen.add(expected)
    assert len(seen) > 1
    noise = 1e-3 * np.random.default_rng(1).normal(size=(4, 40)) + 1
    assert stable_dimension(noise, noise, 1) == 1


def test_the_dimension_at_which_the_domains_disagree() -> None:
    seen = set()
    for shared in (2, 4, 7):
        # The strongest directions are common; then each domain has one of its own, which in both
        # together is weaker than the common one that follows.
        turn = np.eye(16)
        turn[0, :2], turn[1, :2] = [0.96, 0.28], [-0.28, 0.96]
        domains = []
        for own, rotation in ((8, np.eye(16)), (9, turn)):
            scales = np.linspace(0.2, 0.1, 16)
            scales[:shared] = np.arange(20, 20 - shared, -1)
            scales[own], scales[10] = 8, 7
            domains.append(np.concatenate([np.diag(scales), -np.diag(scales)]) @ rotation)
        bases = [Principal.of(x).basis_Dr for x in (*domains, np.concatenate(domains))]
        expected = None
        for d in range(1, 9):
            sines = [math.sin(subspace_angles(p[:, :d], bases[2][:, :d]).max()) for p in bases[:2]]
            if expected is None and round(100 * sum(sines) / 2) == 100:
                expected = d
        assert expected is not None
        assert disagreement_dimension(*bases, 8) == expected
        seen.add(expected)
    assert len(seen) > 1


def test_subspaces_that_never_disagree_take_the_largest_disagreement() -> None:
    p = basis(6, 3, 0)
    turned = p.copy()
    turned[:, 1:] = p[:, 1:] @ np.array([[0.8, -0.6], [0.6, 0.8]])  # differs at d = 2 alone
    assert disagreement_dimension(p, turned, p, 3) == 2


def test_a_direction_that_is_nearly_apart_is_not_yet() -> None:
    joint, p = np.eye(6), np.zeros((6, 2))
    p[[0, 4], 0] = math.sqrt(1 - 0.98**2), 0.98
    p[5, 1] = 1
    assert disagreement_dimension(p, p, joint, 2) == 2
    p[[0, 4], 0] = math.sqrt(1 - 0.996**2), 0.996  # 1.00 in hundredths
    assert disagreement_dimension(p, p, joint, 2) == 1


def test_a_dimension_that_there_is_not() -> None:
    check_dimension(7, 7)
    with pytest.raises(ConfigError) as caught:
        check_dimension(8, 7)
    assert str(caught.value) == (
        "--dimension 8 is more than the 7 that these training videos and features allow. Lower it, or "
        "give 0 to have it chosen."
    )
