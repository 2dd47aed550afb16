"""Subspaces of principal components: how many dimensions, and the flow from one to the other.

Shapes: x (V, D), one row per video; P (D, d), an orthonormal basis, the strongest component first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from store.errors import ConfigError

DELTA, GAMMA = 0.1, 1e5
"""Of the stability bound: how often it may fail, and how far the subspace may turn (Fernando et al.)."""
_PARALLEL = 1e-12
"""Sine of an angle below which two directions are one."""


@dataclass(frozen=True)
class Principal:
    """Mean (D,), basis P (D, r) and eigenvalues (r,) of the covariance of (V, D)."""

    mean_D: np.ndarray
    basis_Dr: np.ndarray
    values_r: np.ndarray

    @staticmethod
    def of(x_VD: np.ndarray) -> Principal:
        """All components that V rows can have: r = min(V - 1, D)."""
        from sklearn.decomposition import PCA

        found = PCA(min(len(x_VD) - 1, x_VD.shape[1]), svd_solver="full").fit(x_VD)
        return Principal(found.mean_, found.components_.T, found.explained_variance_)


def check_dimension(asked: int, most: int) -> None:
    """Refuse a `--dimension` that the training videos do not have.

    Raises:
        ConfigError: it is more than `most`.
    """
    if asked > most:
        raise ConfigError(
            f"--dimension {asked} is more than the {most} that these training videos and features "
            "allow. Lower it, or give 0 to have it chosen."
        )


def stable_dimension(source_VD: np.ndarray, target_VD: np.ndarray, most: int) -> int:
    """The largest dimension whose subspaces the videos determine (Fernando et al., ICCV 2013).

    It is the largest d <= `most` with

        lambda_d - lambda_(d+1) >= (1 + sqrt(ln(2 / delta) / 2)) 16 d^1.5 B / (gamma sqrt(n_min))

    in both domains: lambda the eigenvalues of the covariance, B the largest square norm of a centred video
    (the square is chosen: so the features' scale does not matter), n_min the videos of the smaller domain,
    delta = 0.1, gamma = 1e5; 1 if there is none.
    """
    both = (source_VD, target_VD)
    gaps = []
    for x_VD in both:
        values = np.append(Principal.of(x_VD).values_r, 0.0)
        gaps.append(-np.diff(values)[:most])
    bound = max(float(np.square(x - x.mean(axis=0)).sum(axis=1).max()) for x in both)
    d = np.arange(1, most + 1)
    scale = (1 + math.sqrt(math.log(2 / DELTA) / 2)) * 16 * bound
    needed = scale * d**1.5 / (GAMMA * math.sqrt(min(map(len, both))))
    stable = np.flatnonzero(np.minimum(*gaps) >= needed)
    return int(stable[-1]) + 1 if len(stable) else 1


def disagreement_dimension(
    source_Dr: np.ndarray, target_Dr: np.ndarray, joint_Dr: np.ndarray, most: int
) -> int:
    """The dimension at which a subspace first holds a direction that the domains do not share (Gong et al.).

    With alpha_d and beta_d the largest principal angles between the first d components of source and
    target and those of both together, it is the smallest d <= `most` whose 1/2 (sin alpha_d + sin beta_d),
    rounded to hundredths, is 1, as in the published code; without one, the d where it is largest.
    """
    disagreement = []
    for d in range(1, most + 1):
        sines = [_largest_sine(P[:, :d], joint_Dr[:, :d]) for P in (source_Dr, target_Dr)]
        disagreement.append(sum(sines) / 2)
        if disagreement[-1] >= 0.995:
            return d
    return int(np.argmax(disagreement)) + 1


def _largest_sine(p_Dd: np.ndarray, q_Dd: np.ndarray) -> float:
    cosine = min(1.0, float(np.linalg.svd(p_Dd.T @ q_Dd, compute_uv=False)[-1]))
    return math.sqrt(1 - cosine**2)


def flow(source_Dd: np.ndarray, target_Dd: np.ndarray) -> np.ndarray:
    """L (D, 2 d) with L L^T = G, the geodesic flow kernel (Gong, Shi, Sha, Grauman, CVPR 2012).

    With P_S^T P_T = U cos(Theta) V^T, A = P_S U and B = (P_T V - A cos(Theta)) / sin(Theta),

        G = int_0^1 Phi(t) Phi(t)^T dt,    Phi(t) = A cos(t Theta) + B sin(t Theta)
          = A l1 A^T + A l2 B^T + B l2 A^T + B l3 B^T,
        l1, l3 = 1/2 (1 +- sin(2 theta) / (2 theta)),    l2 = 1/2 (1 - cos(2 theta)) / (2 theta),

    and L = [A sqrt(l1) + B l2 / sqrt(l1), B sqrt(l3 - l2^2 / l1)]. B is 0 where theta is.
    """
    u, cosine, v_transposed = np.linalg.svd(source_Dd.T @ target_Dd)
    a_Dd = source_Dd @ u
    b_Dd = target_Dd @ v_transposed.T - a_Dd * cosine
    sine = np.linalg.norm(b_Dd, axis=0)
    b_Dd = np.where(sine > _PARALLEL, b_Dd / np.where(sine > _PARALLEL, sine, 1), 0)
    theta = np.arctan2(sine, cosine)
    l1 = (1 + np.sinc(2 * theta / np.pi)) / 2  # np.sinc(x) = sin(pi x) / (pi x)
    l2 = np.sin(theta) * np.sinc(theta / np.pi) / 2
    l3 = (1 - np.sinc(2 * theta / np.pi)) / 2
    rest = np.sqrt(np.maximum(0, l3 - l2**2 / l1))
    return np.concatenate([a_Dd * np.sqrt(l1) + b_Dd * (l2 / np.sqrt(l1)), b_Dd * rest], axis=1)
