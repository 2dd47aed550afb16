"""Source only: encoder, mean over frames and classifier, trained on the source's labels alone."""

from __future__ import annotations

from dataclasses import dataclass

from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.initialise import initialise
from adapt.losses import source_loss
from adapt.methods import Networks, Progress, StepLosses
from adapt.model import VideoClassifier
from adapt.settings import PAPER, ROBUST, TA3N_FAMILY


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """Source only has no options of its own."""


READS = names_of(TRAINING, ENCODER)
SETTINGS = {
    "paper": PAPER,
    "own": TA3N_FAMILY,  # as TA3N's authors train the row that they call source only
    "shared": ROBUST,  # with the target's batch norm statistics: what they give without any loss
}


def build(config: Options, width: int, classes: int) -> Networks:
    """Nothing but the predicting network is trained."""
    model = VideoClassifier(config, width, classes)
    initialise(model, config.initialisation)
    return Networks(model)


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s, the cross entropy on the source's labels (eq. 1)."""
    loss = source_loss(networks.model(source.features_BTD), source.labels_B)
    return StepLosses(total=loss, parts={"source": loss})
