"""CORAL (Sun, Feng, Saenko, AAAI 2016): the source's videos get the target's covariance; no network.

Unlike `--input-coral`, which maps frames in front of any network, this is the paper's method: a linear
classifier of recoloured videos.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from adapt import shallow
from adapt.classifiers import fit_classifier
from adapt.data import TrainingData
from adapt.methods import Networks
from adapt.recolour import recolouring_matrix
from adapt.shallow import Shallow, ShallowOptions, pooled
from store.errors import ConfigError
from store.options import option


@dataclass(frozen=True, kw_only=True)
class Options(ShallowOptions):
    """How far the covariances are trusted."""

    epsilon: float = field(
        default=1.0,
        metadata=option(
            "Added to the diagonals of both covariances, in units of the domain's mean variance of a "
            "channel: after --normalisation z-score 1 is the paper's identity matrix."
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon == 0:
            raise ConfigError("--epsilon must be above 0, got 0.")


READS = shallow.READS
SETTINGS = {"own": shallow.SHARED, "shared": shallow.SHARED}


def build(config: Options, width: int, classes: int) -> Networks:
    """Nothing has a gradient."""
    return Networks(Shallow(config, width, classes, projects=False))


def fit(networks: Networks, data: TrainingData, config: Options) -> dict[str, float]:
    """x <- (x - m_S) (C_S + e_S I)^(-1/2) (C_T + e_T I)^(1/2) + m_T for the source's videos x.

    m and C are mean and covariance of each domain's videos, e is `--epsilon` times tr(C) / D. The target's
    videos stay as they are.
    """
    videos = pooled(data, config)
    C_S, C_T = (
        torch.from_numpy(np.atleast_2d(np.cov(x.T))) for x in (videos.source_VD, videos.target_VD)
    )
    matrix_DD = recolouring_matrix(C_S, C_T, lambda values_D: config.epsilon * values_D.mean())
    centred_VD = videos.source_VD - videos.source_VD.mean(axis=0)
    z_VD = centred_VD @ matrix_DD.numpy() + videos.target_VD.mean(axis=0)
    values, chosen = fit_classifier(config, z_VD, videos.labels_V)
    shift, scale = videos.target_shift_D, videos.target_scale_D
    networks.model.keep({"shift_D": shift, "scale_D": scale, **values})
    return chosen
