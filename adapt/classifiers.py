"""The classifiers of the methods without a network, fitted by scikit-learn, and validation on the source."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from adapt.shallow import ShallowOptions, distances

log = logging.getLogger(__name__)

PENALTIES = (0.1, 1.0, 10.0, 100.0)
"""C of the support vector machine, in features whose mean square norm is 1; chosen."""
FOLDS = 5
MOST_VALIDATED = 2000
"""Videos that validation looks at: it fits 20 classifiers, and one of 16,000 videos took 114 s (measured)."""
_MEASURED = 1000
"""Points by which the spread of the nearest neighbours is measured."""


def fit_classifier(
    config: ShallowOptions, z_Vk: np.ndarray, labels_V: np.ndarray
) -> tuple[dict[str, Any], dict[str, float]]:
    """Fit the classifier to aligned source videos: `Shallow`'s buffers by name, and what was chosen."""
    classes_M, index_V = np.unique(labels_V, return_inverse=True)
    if config.classifier == "nearest":
        points = torch.from_numpy(z_Vk)
        measured = points[:: max(1, len(points) // _MEASURED)]
        nearest = distances(measured, points).topk(2, largest=False).values[:, 1]  # 1st: itself
        spread = float(nearest.square().mean()) or 1.0
        found = {"points_Pk": z_Vk, "labels_P": index_V, "spread": spread}
        return {"classes_M": classes_M, **found}, {}
    size = _size(z_Vk)
    C = best(PENALTIES, lambda C: validated(config, z_Vk, labels_V, C))
    fitted = _svm(C, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(z_Vk / size, labels_V)
    if fitted.n_iter_ >= fitted.max_iter:
        log.warning(f"The support vector machine did not converge in {fitted.max_iter:,} passes.")
    weight_Mk, bias_M = fitted.coef_ / size, fitted.intercept_
    if len(classes_M) == 2:  # scikit-learn gives the second class's decision alone
        weight_Mk = np.concatenate([-weight_Mk, weight_Mk]) / 2
        bias_M = np.concatenate([-bias_M, bias_M]) / 2
    return {"classes_M": classes_M, "weight_Mk": weight_Mk, "bias_M": bias_M}, {"C": C}


def _size(z_Vk: np.ndarray) -> float:
    """The root of the mean square norm."""
    return float(np.sqrt(np.square(z_Vk).sum(axis=1).mean())) or 1.0


def _svm(C: float, config: ShallowOptions) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=C, dual="auto", max_iter=20_000, random_state=config.seed % 2**32)


def best(choices: Sequence[Any], score: Callable[[Any], float]) -> Any:
    """The first choice with the highest score."""
    return max(choices, key=score) if len(choices) > 1 else choices[0]


def validated(
    config: ShallowOptions, z_Vk: np.ndarray, labels_V: np.ndarray, C: float = 1.0
) -> float:
    """Accuracy of the classifier on the source by stratified cross-validation, folds by the seed.

    A class with fewer videos than folds is absent from some; 0 if every class has a single video. Of more
    than `MOST_VALIDATED` videos no more than these are looked at, chosen by the seed with the shares of the
    classes; C is not scaled with their number.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    parts = math.ceil(len(labels_V) / MOST_VALIDATED)
    if parts > 1:
        order_V = np.random.default_rng(config.seed).permutation(len(labels_V))
        chosen = order_V[np.argsort(labels_V[order_V], kind="stable")][::parts]
        z_Vk, labels_V = z_Vk[chosen], labels_V[chosen]
    folds = min(FOLDS, int(np.bincount(labels_V).max()))
    if folds < 2:
        return 0.0
    nearest = config.classifier == "nearest"
    classifier = KNeighborsClassifier(1) if nearest else _svm(C, config)
    splits = StratifiedKFold(folds, shuffle=True, random_state=config.seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small classes, no convergence: the accuracy says enough
        scores = cross_val_score(
            classifier, z_Vk / _size(z_Vk), labels_V, cv=splits, error_score=0.0
        )
    return float(scores.mean())
