"""What CDAN and CDAN-E share (Long et al., NeurIPS 2018): a discriminator of features given the class.

Of a video with feature f (C,) and prediction g = softmax(y) (N,), which is taken as a constant, the
discriminator sees h = vec(g f^T) (N C,), or with a random map h = (R_f f) * (R_g g) / sqrt(1024) with fixed
entries from N(0, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import SOURCE, TARGET, reverse
from adapt.dropout import Dropout
from adapt.initialise import initialise
from adapt.losses import source_loss
from adapt.methods import Networks, Progress
from adapt.model import VideoClassifier
from adapt.schedule import ramp
from adapt.settings import ROBUST, THUML_IMAGES
from store.options import option

HIDDEN = 1024
"""Width of the discriminator, and of the random map."""
DROPOUT = 0.5
"""Dropout rate of the discriminator."""

READS = names_of(TRAINING, ENCODER)

OWN: dict[str, Any] = {
    **THUML_IMAGES,
    "batch_size": 36,
    "domain_weight": 1.0,
    "ramp_steps": 10_000,
}
"""The settings of its authors' code (thuml/CDAN, `train_image.py`)."""
SETTINGS = {"own": OWN, "shared": {**ROBUST, "ramp_steps": 0}}


@dataclass(frozen=True, kw_only=True)
class ConditionalOptions(AdaptConfig):
    """The discriminator's input and weight, and how its gradient's reversal grows."""

    multilinear: str = field(
        default="outer",
        metadata=option(
            "What the discriminator sees of feature and prediction: their outer product, or a product "
            f"of {HIDDEN} random projections, for many classes or a wide feature.",
            choices=("outer", "random"),
        ),
    )
    domain_weight: float = field(
        default=1.0, metadata=option("Weight of the discriminator's loss (the authors' trade-off).")
    )
    ramp_steps: int = field(
        default=10_000,
        metadata=option(
            "The gradient's reversal is 2 / (1 + exp(-10 i / S)) - 1 at step i, S being this many "
            "steps; 0: all steps of the run."
        ),
    )


class ConditionalDiscriminator(nn.Module):
    """Linear(., 1024), ReLU, Dropout, Linear(1024, 1024), ReLU, Dropout, Linear(1024, 1) of h.

    With the outer product the first layer takes N C values, with the random map 1024.
    """

    of_feature: Tensor
    of_prediction: Tensor

    def __init__(self, width: int, classes: int, *, random: bool) -> None:
        super().__init__()
        if random:
            self.register_buffer("of_feature", torch.randn(width, HIDDEN))
            self.register_buffer("of_prediction", torch.randn(classes, HIDDEN))
        self.random = random
        self.layers = nn.Sequential(
            nn.Linear(HIDDEN if random else width * classes, HIDDEN),
            nn.ReLU(),
            Dropout(DROPOUT),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            Dropout(DROPOUT),
            nn.Linear(HIDDEN, 1),
        )

    def condition(self, video_BC: Tensor, g_BN: Tensor) -> Tensor:
        """f (B, C) and g (B, N) -> h (B, N C), where g_n f_c stands at n C + c; or (B, 1024)."""
        if self.random:
            return (video_BC @ self.of_feature) * (g_BN @ self.of_prediction) / math.sqrt(HIDDEN)
        return (g_BN[:, :, None] * video_BC[:, None, :]).flatten(1)

    def forward(self, video_BC: Tensor, g_BN: Tensor, coefficient: float) -> Tensor:
        """Domain logits (B,) of the videos of one domain.

        Args:
            coefficient: of the gradient reversal between h and the first layer.
        """
        logits_B1 = self.layers(reverse(self.condition(video_BC, g_BN), coefficient))
        logits_B: Tensor = logits_B1.squeeze(1).to(self.layers[0].weight.dtype)
        return logits_B


def build_conditional(config: ConditionalOptions, width: int, classes: int) -> Networks:
    """The predicting network, and the discriminator of the training."""
    model = VideoClassifier(config, width, classes)
    branch = ConditionalDiscriminator(config.width, classes, random=config.multilinear == "random")
    networks = Networks(model, branch)
    initialise(networks, config.initialisation)
    return networks


@dataclass(frozen=True)
class Game:
    """One step of the game, the source's part first and the target's second."""

    label: Tensor
    """L_s, the cross entropy of the source's labels."""
    logits: tuple[Tensor, Tensor]
    """y of both domains, (B_s, N) and (B_t, N)."""
    bce: tuple[Tensor, Tensor]
    """The discriminator's loss of every video, (B_s,) and (B_t,)."""


def play(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: ConditionalOptions,
    progress: Progress,
) -> Game:
    """Classify, and tell the domains from h behind gradient reversal."""
    model = networks.model
    # Passed separately, so that each domain's batch norm, if there is one, sees its own statistics.
    videos = [model.pool(model.encode(batch.features_BTD)) for batch in (source, target)]
    source_BN, target_BN = (model.classify_video(video_BC) for video_BC in videos)
    coefficient = reversal(config, progress, 1)
    bce = []
    for video_BC, y_BN, d in zip(videos, (source_BN, target_BN), (SOURCE, TARGET)):
        logits_B = networks.branch(video_BC, y_BN.detach().softmax(dim=1), coefficient)
        told_B = torch.full_like(logits_B, d)
        bce.append(F.binary_cross_entropy_with_logits(logits_B, told_B, reduction="none"))
    label = source_loss(source_BN, source.labels_B)
    return Game(label, (source_BN, target_BN), (bce[0], bce[1]))


def reversal(config: ConditionalOptions, progress: Progress, ahead: int) -> float:
    """c = 2 / (1 + exp(-10 (i + ahead) / S)) - 1 after i steps of the run, S of `--ramp-steps`.

    The authors count the step before the discriminator's reversal is set (ahead = 1), and after that of
    the entropy (ahead = 0).
    """
    done = progress.epoch * progress.steps + progress.step
    return ramp((done + ahead) / (config.ramp_steps or progress.epochs * progress.steps))
