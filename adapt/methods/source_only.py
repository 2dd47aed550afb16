"""Source only: encoder, mean over frames and classifier, trained on the source's labels alone."""

from __future__ import annotations

from torch import nn

from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.losses import source_loss
from adapt.methods import Losses, mean_over_frames
from adapt.model import VideoClassifier

model = mean_over_frames


def branch(config: AdaptConfig) -> None:
    """Nothing is adapted."""
    return None


def losses(
    model: VideoClassifier,
    branch: nn.Module | None,
    source: SourceBatch,
    target: TargetBatch,
    config: AdaptConfig,
    coefficient: float,
) -> Losses:
    """L_s (eq. 1)."""
    loss = source_loss(model(source.features_BTD), source.labels_B)
    return Losses(total=loss, parts={"source": loss})
