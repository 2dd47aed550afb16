"""DANN (Ganin et al., JMLR 2016) on videos, as TA3N's authors compare with it (Chen et al., ICCV 2019).

A frame and a video discriminator, each behind gradient reversal with a factor of its own. Both losses
have weight 1: the factors act only on what goes back to the encoder.
"""

from __future__ import annotations

import torch
from torch import nn

from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import FrameVideoDiscriminators, domain_cross_entropy, domains_of
from adapt.losses import source_loss, target_entropy
from adapt.methods import Losses, mean_over_frames
from adapt.model import VideoClassifier

model = mean_over_frames


def branch(config: AdaptConfig) -> FrameVideoDiscriminators:
    """The two discriminators; the video feature is the mean of the frames'."""
    return FrameVideoDiscriminators(config, frame_width=config.width, video_width=config.width)


def losses(
    model: VideoClassifier,
    branch: nn.Module | None,
    source: SourceBatch,
    target: TargetBatch,
    config: AdaptConfig,
    coefficient: float,
) -> Losses:
    """L_y + L_frame + L_video behind gradient reversal. The target's entropy is off unless weighted."""
    assert branch is not None
    # Passed separately, so that each domain's batch norm, if there is one, sees its own statistics.
    source_BTC, target_BTC = model.encode(source.features_BTD), model.encode(target.features_BTD)
    frames_BTC, domains_B = torch.cat([source_BTC, target_BTC]), domains_of(source, target)
    frame_logits, video_logits = branch(frames_BTC, frames_BTC.mean(dim=1), coefficient)
    parts = {
        "source": source_loss(model.classify(source_BTC), source.labels_B),
        "frame": domain_cross_entropy(frame_logits, domains_B),
        "video": domain_cross_entropy(video_logits, domains_B),
    }
    total = parts["source"] + parts["frame"] + parts["video"]
    if config.entropy_weight:
        logits_BN = model.classify(target_BTC)
        parts["entropy"] = target_entropy(logits_BN, config.entropy_reduction)
        total = total + config.entropy_weight * parts["entropy"]
    return Losses(total=total, parts=parts)
