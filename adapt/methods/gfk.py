"""Geodesic flow kernel (Gong, Shi, Sha, Grauman, CVPR 2012): all subspaces between those of the domains.

Principal components of each domain's videos, joined by a geodesic of subspaces; no network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from adapt import shallow
from adapt.classifiers import fit_classifier
from adapt.data import TrainingData
from adapt.methods import Networks
from adapt.shallow import Shallow, ShallowOptions, pooled
from adapt.subspace import Principal, check_dimension, disagreement_dimension, flow
from store.options import option


@dataclass(frozen=True, kw_only=True)
class Options(ShallowOptions):
    """How many principal components span a subspace."""

    dimension: int = field(
        default=0,
        metadata=option(
            "Principal components of each domain, at most half the features' width; 0: as many as it "
            "takes until the subspaces hold a direction that the domains do not share (the paper's "
            "subspace disagreement)."
        ),
    )


READS = shallow.READS
SETTINGS = {"own": {**shallow.SHARED, "classifier": "nearest"}, "shared": shallow.SHARED}


def build(config: Options, width: int, classes: int) -> Networks:
    """Nothing has a gradient."""
    return Networks(Shallow(config, width, classes, projects=True))


def fit(networks: Networks, data: TrainingData, config: Options) -> dict[str, float]:
    """Both domains are x L, with L L^T = G of `adapt.subspace.flow`, so that inner products are x^T G y.

    G is never formed, and no mean is subtracted but by the normalisation.
    """
    videos = pooled(data, config)
    both = (videos.source_VD, videos.target_VD)
    source, target = (Principal.of(x) for x in both)
    most = min(len(source.values_r), len(target.values_r), max(1, videos.source_VD.shape[1] // 2))
    check_dimension(config.dimension, most)
    d = config.dimension
    if d == 0:
        joint = Principal.of(np.concatenate(both))
        d = disagreement_dimension(source.basis_Dr, target.basis_Dr, joint.basis_Dr, most)
    L = flow(source.basis_Dr[:, :d], target.basis_Dr[:, :d])
    values, chosen = fit_classifier(config, videos.source_VD @ L, videos.labels_V)
    shift, scale = videos.target_shift_D, videos.target_scale_D
    networks.model.keep({"shift_D": shift, "scale_D": scale, "projection_Dk": L, **values})
    return {"dimension": float(d), **chosen}
