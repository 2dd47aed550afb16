"""DANN (Ganin et al., JMLR 2016) on videos, as TA3N's authors compare with it (Chen et al., ICCV 2019).

A frame and a video discriminator, each behind gradient reversal with a factor of its own. Both losses
have weight 1: the factors act only on what goes back to the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from adapt.config import ADVERSARY, ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import FrameVideoDiscriminators, domain_cross_entropy, domains_of
from adapt.initialise import initialise
from adapt.losses import source_loss, target_entropy
from adapt.methods import Networks, Progress, StepLosses
from adapt.model import VideoClassifier
from adapt.schedule import reversal_coefficient
from adapt.settings import PAPER, ROBUST, TA3N_FAMILY
from store.options import option


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """How strongly each discriminator's gradient is reversed, and a loss that DANN itself does not have."""

    frame_reversal: float = field(
        default=0.5,
        metadata=option("Factor of the reversal coefficient at the frame discriminator."),
    )
    video_reversal: float = field(
        default=0.75,
        metadata=option("Factor of the reversal coefficient at the video discriminator."),
    )
    entropy_weight: float = field(
        default=0.0, metadata=option("Weight of the target entropy; DANN has none.")
    )
    entropy_reduction: str = field(
        default="sum",
        metadata=option(
            "How the target entropy is taken over the classes.", choices=("sum", "mean")
        ),
    )


READS = names_of(TRAINING, ADVERSARY, ENCODER)
SETTINGS = {"own": TA3N_FAMILY, "shared": ROBUST, "paper": PAPER}


def build(config: Options, width: int, classes: int) -> Networks:
    """The predicting network, and the two discriminators of the training."""
    model = VideoClassifier(config, width, classes)
    branch = FrameVideoDiscriminators(
        frame_width=config.width,
        video_width=config.width,
        frame_reversal=config.frame_reversal,
        video_reversal=config.video_reversal,
    )
    networks = Networks(model, branch)
    initialise(networks, config.initialisation)
    return networks


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s + L_frame + L_video behind gradient reversal.

    L_frame and L_video are cross entropies of the domain, means over all frames and over all videos of
    both domains. Classifier and video discriminator see the same video feature, dropped out alike.
    """
    model = networks.model
    # Passed separately, so that each domain's batch norm, if there is one, sees its own statistics.
    source_BTC, target_BTC = model.encode(source.features_BTD), model.encode(target.features_BTD)
    source_BC, target_BC = model.pool(source_BTC), model.pool(target_BTC)
    frame_logits, video_logits = networks.branch(
        torch.cat([source_BTC, target_BTC]),
        torch.cat([source_BC, target_BC]),
        reversal_coefficient(config, progress.share),
    )
    domains_B = domains_of(source, target)
    parts = {
        "source": source_loss(model.classify_video(source_BC), source.labels_B),
        "frame": domain_cross_entropy(frame_logits, domains_B),
        "video": domain_cross_entropy(video_logits, domains_B),
    }
    total = parts["source"] + parts["frame"] + parts["video"]
    if config.entropy_weight:
        logits_BN = model.classify_video(target_BC)
        parts["entropy"] = target_entropy(logits_BN, config.entropy_reduction)
        total = total + config.entropy_weight * parts["entropy"]
    return StepLosses(total=total, parts=parts)
