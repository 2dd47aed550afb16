"""Videos as points of a plane (t-SNE, van der Maaten and Hinton, JMLR 2008). No torch here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEED = 0
_COMPONENTS = 50
"""Wider features are reduced to so many principal components first, as the authors of t-SNE do."""
_PERPLEXITY = 30
FEWEST = 4
"""Of fewer videos there is no picture."""


def sample_evenly(count: int, most: int) -> NDArray[np.int64]:
    """Numbers of at most `most` of `count` videos, ascending, drawn by a fixed seed."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def shares(counts: tuple[int, int], most: int) -> tuple[int, int]:
    """How many of each domain's videos are shown: half of `most` each, and what the other leaves.

    `(100, 5000), 1500 -> 100, 1400`
    """
    a, b = counts
    half = most // 2
    first = min(a, max(half, most - b))
    return first, min(b, most - first)


def plane(features_VC: NDArray[np.float64]) -> NDArray[np.float64]:
    """t-SNE of features (V, C) -> (V, 2), the same points for the same features.

    Started from the principal components, perplexity 30 or a third of the other videos if those are few.

    Raises:
        ValueError: fewer than `FEWEST` videos, or features that are all the same.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    V, C = features_VC.shape
    if V < FEWEST:
        raise ValueError(f"t-SNE needs {FEWEST} videos or more, and there are {V}")
    if not np.ptp(features_VC, axis=0).any():
        raise ValueError("the features of all videos are the same")
    if min(V, C) > _COMPONENTS:
        features_VC = PCA(_COMPONENTS, random_state=SEED).fit_transform(features_VC)
    found = TSNE(
        perplexity=min(_PERPLEXITY, (V - 1) / 3),
        init="pca" if features_VC.shape[1] > 1 else "random",
        random_state=SEED,
        n_jobs=1,
    )
    points_V2: NDArray[np.float64] = found.fit_transform(features_VC).astype(np.float64)
    return points_V2
