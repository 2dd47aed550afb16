"""MA2L-TD: multi-level attentive adversarial learning with temporal dilation (Chen et al., WACV 2022)."""

from __future__ import annotations

import torch
from torch import nn

from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import domains_of
from adapt.losses import diversity, source_loss, target_entropy
from adapt.methods import Losses, mean_over_frames
from adapt.model import VideoClassifier
from adapt.pyramid import AdaptationBranch, PyramidLosses

model = mean_over_frames


def branch(config: AdaptConfig) -> AdaptationBranch:
    """Aggregators and discriminators."""
    return AdaptationBranch(config)


def losses(
    model: VideoClassifier,
    branch: nn.Module | None,
    source: SourceBatch,
    target: TargetBatch,
    config: AdaptConfig,
    coefficient: float,
) -> Losses:
    """L_s + L_t + L_adv behind gradient reversal: one backward pass for both lines of eq. 9."""
    assert branch is not None
    # Passed separately, so that each domain's batch norm sees its own statistics.
    source_BTC, target_BTC = model.encode(source.features_BTD), model.encode(target.features_BTD)
    frames_BTC, domains_B = torch.cat([source_BTC, target_BTC]), domains_of(source, target)
    pyramid: PyramidLosses = branch(frames_BTC, domains_B, coefficient)
    target_BN = model.classify(target_BTC)
    parts = {
        "source": source_loss(model.classify(source_BTC), source.labels_B),
        "entropy": target_entropy(target_BN, config.entropy_reduction),
        "adversarial": pyramid.adversarial,
    }
    total = (
        parts["source"] + config.entropy_weight * parts["entropy"] + parts["adversarial"]
    )  # eq. 9
    if config.diversity_weight:
        parts["diversity"] = diversity(target_BN)
        total = total - config.diversity_weight * parts["diversity"]
    if pyramid.level_attention is not None:
        parts["level_attention"] = pyramid.level_attention
        total = total + pyramid.level_attention  # eq. 6 trains G^m; its input is detached
    return Losses(total=total, parts=parts)
