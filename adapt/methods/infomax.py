"""Information maximisation: sure predictions on the target, and of all classes; no discriminator.

Krause et al. (NeurIPS 2010); for adaptation Liang et al. (ICML 2020, SHOT). The cheapest way to use the
target, and therefore what an adversarial method has to beat.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.initialise import initialise
from adapt.losses import diversity, source_loss, target_entropy
from adapt.methods import Networks, Progress, StepLosses
from adapt.model import VideoClassifier
from adapt.settings import PAPER, ROBUST
from store.options import option


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """The weights of the two losses on the target."""

    entropy_weight: float = field(default=0.1, metadata=option("Weight of the target entropy."))
    diversity_weight: float = field(
        default=0.1,
        metadata=option("Weight of the reward for the entropy of the mean target prediction."),
    )


READS = names_of(TRAINING, ENCODER)
SETTINGS = {"shared": ROBUST, "paper": PAPER}


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
    """L = L_s + entropy_weight mean_b H(p_b) - diversity_weight H(mean_b p_b), p of the target."""
    # Passed separately, so that each domain's batch norm sees its own statistics.
    source_BN, target_BN = networks.model(source.features_BTD), networks.model(target.features_BTD)
    parts = {
        "source": source_loss(source_BN, source.labels_B),
        "entropy": target_entropy(target_BN, "sum"),
        "diversity": diversity(target_BN),
    }
    total = (
        parts["source"]
        + config.entropy_weight * parts["entropy"]
        - config.diversity_weight * parts["diversity"]
    )
    return StepLosses(total=total, parts=parts)
