"""Information maximisation: certain predictions on the target, of all classes; no discriminator.

Krause et al. (NeurIPS 2010); for adaptation Liang et al. (ICML 2020, SHOT). The cheapest way to use the
target, and therefore what an adversarial method has to beat.
"""

from __future__ import annotations

from torch import nn

from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.losses import diversity, source_loss, target_entropy
from adapt.methods import Losses, mean_over_frames
from adapt.model import VideoClassifier

model = mean_over_frames


def branch(config: AdaptConfig) -> None:
    """Nothing but the predicting network is trained."""
    return None


def losses(
    model: VideoClassifier,
    branch: nn.Module | None,
    source: SourceBatch,
    target: TargetBatch,
    config: AdaptConfig,
    coefficient: float,
) -> Losses:
    """L_s + entropy_weight L_t - diversity_weight H(mean prediction)."""
    # Passed separately, so that each domain's batch norm sees its own statistics.
    source_BN, target_BN = model(source.features_BTD), model(target.features_BTD)
    parts = {
        "source": source_loss(source_BN, source.labels_B),
        "entropy": target_entropy(target_BN, config.entropy_reduction),
        "diversity": diversity(target_BN),
    }
    total = (
        parts["source"]
        + config.entropy_weight * parts["entropy"]
        - config.diversity_weight * parts["diversity"]
    )
    return Losses(total=total, parts=parts)
