"""Scores of a model without target labels, by which an epoch or a method may be chosen.

All take float64 arrays of V videos: probabilities (V, N) of the target's training videos, rows that sum
to 1, or features (V, C). H is the entropy in nats. Every one of them can be fooled: `entropy` calls a
collapse to one class perfect, `snd` too, `bnm` depends on V, and `dev` can be negative. No torch here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from store.machine import return_freed_memory

Array = NDArray[np.float64]

TEMPERATURE = 0.05
"""Of soft neighbourhood density."""
_BLOCK = 1024


def entropy(P_VN: Array) -> float:
    """Mean over the videos of H(p_v), in [0, ln N]; lower is surer."""
    return float(_entropies(P_VN).mean())


def information(P_VN: Array) -> float:
    """H(mean_v p_v) - mean_v H(p_v), in [0, ln N]; higher is better (Krause et al., NeurIPS 2010).

    0 both when all videos get one class and when all predictions are uniform.
    """
    return float(_entropies(P_VN.mean(axis=0, keepdims=True))[0] - _entropies(P_VN).mean())


def neighbourhood_density(P_VN: Array) -> float:
    """Mean over the videos of H(softmax_{u != v} of cos(p_v, p_u) / 0.05), in [0, ln(V - 1)].

    Higher is better: videos lie in dense clusters (SND: Saito et al., ICCV 2021). Equal predictions of
    all videos have the maximum, so look at `information` beside it.
    """
    V = len(P_VN)
    if V < 2:
        return 0.0
    unit_VN = P_VN / np.linalg.norm(P_VN, axis=1, keepdims=True)
    found = []
    for begin in range(0, V, _BLOCK):
        scaled = unit_VN[begin : begin + _BLOCK] @ unit_VN.T / TEMPERATURE
        rows = np.arange(len(scaled))
        scaled[rows, begin + rows] = -np.inf
        weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        found.append(_entropies(weights / weights.sum(axis=1, keepdims=True)))
    return float(np.concatenate(found).mean())


def nuclear_norm(P_VN: Array) -> float:
    """||P||_* / V, in [1 / sqrt(V N), sqrt(N / V)] where V >= N; higher is better.

    Only comparable over the same videos (BNM: Cui et al., CVPR 2020).
    """
    return float(np.linalg.norm(P_VN, ord="nuc") / len(P_VN))


def softmax_correlation(P_VN: Array) -> float:
    """tr(C) / (sqrt(N) ||C||_F) with C = P^T P / V, in [1 / sqrt(N), 1]; higher is better (Tu et al., 2023).

    1 where predictions are sure and all classes equally frequent; 1 / sqrt(N) for one class, and for
    uniform predictions.
    """
    C_NN = P_VN.T @ P_VN / len(P_VN)
    return float(np.trace(C_NN) / (np.sqrt(len(C_NN)) * np.linalg.norm(C_NN)))


@dataclass(frozen=True)
class Validation:
    """What deep embedded validation says."""

    risk: float
    """The estimated loss on the target; lower is better, and it may be negative."""
    largest_weight: float
    """The largest density ratio; far above 1 a few source videos decide, and the risk means little."""


def embedded_validation(losses_V: Array, weights_V: Array) -> Validation:
    """The risk on the target from losses of held-out source videos (DEV: You et al., ICML 2019).

    mean(w l) + eta mean(w) - eta with eta = -cov(w l, w) / var(w), 0 if all weights are equal.

    Args:
        losses_V: of held-out source videos, cross entropies or errors.
        weights_V: their density ratios, target to source; see `density_ratios`.
    """
    weighted_V = losses_V * weights_V
    eta = 0.0
    if len(weights_V) > 1 and (variance := np.var(weights_V, ddof=1)) > 0:
        eta = -np.cov(weighted_V, weights_V, ddof=1)[0, 1] / variance
    risk = weighted_V.mean() + eta * weights_V.mean() - eta
    return Validation(float(risk), float(weights_V.max()))


def density_ratios(source_VC: Array, target_VC: Array, held_out_VC: Array) -> Array:
    """How much more probable held-out source features are on the target, (V,): (V_s/V_t) P(t|x)/P(s|x).

    P is a logistic classifier of the domain on standardised features; of nine penalties from 1e-5 to
    1e-1 the one with the least cross entropy on a fifth of the videos is taken. DEV's authors train a
    small network and go by its accuracy; this takes milliseconds, and it is computed every few epochs
    (our choice).

    Args:
        source_VC, target_VC: features of both domains' training videos.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    if min(len(source_VC), len(target_VC)) < 5:
        return np.ones(len(held_out_VC))  # too few to tell the domains apart and to check it
    x = np.concatenate([source_VC, target_VC])
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    x -= mean  # in place, and divided once: with many source videos every copy is gigabytes
    x /= scale
    domain = np.repeat([0, 1], [len(source_VC), len(target_VC)])
    fifth = np.arange(len(x)) % 5 == 4
    fitted_on, judged_on = x[~fifth], x[fifth]
    del x
    found = []
    for penalty in np.logspace(-1, -5, 9):
        return_freed_memory()
        model = LogisticRegression(C=1 / (penalty * len(domain)), max_iter=1000)
        with warnings.catch_warnings():
            # One that is stopped early is a classifier too, and judged on videos it has not seen.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(fitted_on, domain[~fifth])
        loss = log_loss(domain[fifth], model.predict_proba(judged_on), labels=[0, 1])
        found.append((loss, model))
    best = min(found, key=lambda pair: pair[0])[1]
    source_V, target_V = best.predict_proba((held_out_VC - mean) / scale).T
    ratio: Array = len(source_VC) / len(target_VC) * target_V / np.maximum(source_V, 1e-12)
    return ratio


def cluster_agreement(P_VN: Array, features_VC: Array) -> float:
    """Adjusted mutual information of the predicted classes and k-means clusters of the features, at most 1.

    Higher is better. As many clusters as classes, started with seed 0; 0 for a single predicted class.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_mutual_info_score

    predicted_V = P_VN.argmax(axis=1)
    clusters = min(P_VN.shape[1], len(np.unique(features_VC, axis=0)))
    found_V = KMeans(clusters, n_init=10, random_state=0).fit_predict(features_VC)
    if len(set(predicted_V)) < 2:
        return 0.0
    return float(adjusted_mutual_info_score(predicted_V, found_V))


def _entropies(P_VN: Array) -> Array:
    """H of every row; 0 log 0 is 0."""
    safe = np.where(P_VN > 0, P_VN, 1.0)
    result: Array = -(P_VN * np.log(safe)).sum(axis=-1)
    return result


LABEL_FREE = {
    "entropy": entropy,
    "im": information,
    "snd": neighbourhood_density,
    "bnm": nuclear_norm,
    "softmaxcorr": softmax_correlation,
}
"""Scores of probabilities alone, by the names that --select knows."""


def label_free(P_VN: Array) -> dict[str, float]:
    """All scores of `LABEL_FREE`."""
    return {name: score(P_VN) for name, score in LABEL_FREE.items()}
