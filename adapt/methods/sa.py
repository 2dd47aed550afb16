"""Subspace alignment (Fernando, Habrard, Sebban, Tuytelaars, ICCV 2013): one basis turned into the other.

Principal components of each domain's videos, the source's turned towards the target's; no network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from adapt import shallow
from adapt.classifiers import best, fit_classifier, validated
from adapt.data import TrainingData
from adapt.methods import Networks
from adapt.shallow import Shallow, ShallowOptions, pooled
from adapt.subspace import Principal, check_dimension, stable_dimension
from store.options import option

_TRIED = 20
"""Dimensions that are compared on the source."""


@dataclass(frozen=True, kw_only=True)
class Options(ShallowOptions):
    """How many principal components span a subspace."""

    dimension: int = field(
        default=0,
        metadata=option(
            "Principal components of each domain; 0: those up to the largest number that the videos "
            "determine well (the paper's bound) are compared by cross-validation on the source."
        ),
    )


READS = shallow.READS
SETTINGS = {"own": shallow.SHARED, "shared": shallow.SHARED}


def build(config: Options, width: int, classes: int) -> Networks:
    """Nothing has a gradient."""
    return Networks(Shallow(config, width, classes, projects=True))


def fit(networks: Networks, data: TrainingData, config: Options) -> dict[str, float]:
    """The source is (x - m_S) P_S M with M = P_S^T P_T, the target (x - m_T) P_T.

    P are the first d principal components and m the mean of each domain's videos.
    """
    videos = pooled(data, config)
    source, target = Principal.of(videos.source_VD), Principal.of(videos.target_VD)
    most = min(len(source.values_r), len(target.values_r))
    check_dimension(config.dimension, most)

    def aligned(d: int) -> np.ndarray:
        P_S, P_T = source.basis_Dr[:, :d], target.basis_Dr[:, :d]
        z_Vd: np.ndarray = (videos.source_VD - source.mean_D) @ P_S @ (P_S.T @ P_T)
        return z_Vd

    d = config.dimension
    if d == 0:
        stable = stable_dimension(videos.source_VD, videos.target_VD, most)
        tried = sorted({int(x) for x in np.geomspace(1, stable, _TRIED)})
        d = best(tried, lambda d: validated(config, aligned(d), videos.labels_V))
    values, chosen = fit_classifier(config, aligned(d), videos.labels_V)
    # (x - shift) / scale - m_T, with m_T within the shift
    shift_D = videos.target_shift_D + videos.target_scale_D * target.mean_D
    projection = {"scale_D": videos.target_scale_D, "projection_Dk": target.basis_Dr[:, :d]}
    networks.model.keep({"shift_D": shift_D, **projection, **values})
    return {"dimension": float(d), **chosen}
