"""TA3N: temporal attentive adversarial adaptation network (Chen et al., ICCV 2019).

Prediction is by temporal relations (TRN-M, Zhou et al., ECCV 2018) that are weighted by how easily their
domain is told: the relation discriminators are part of the model, those of frames and videos are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adapt.config import ADVERSARY, ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import (
    DomainClassifier,
    FrameVideoDiscriminators,
    domain_cross_entropy,
    domains_of,
    reverse,
)
from adapt.dropout import Dropout
from adapt.initialise import initialise
from adapt.losses import entropy, source_loss
from adapt.methods import Networks, Progress, StepLosses, TimeWeights
from adapt.model import encode, make_encoder
from adapt.schedule import reversal_coefficient
from adapt.settings import PAPER, ROBUST, TA3N_FAMILY
from store.errors import ConfigError
from store.options import option

RELATION_WIDTH = 256
"""R, the width of every relation and of the video feature."""
TUPLES = 3
"""Frame tuples of each size, where there are that many."""
MOST_FRAMES = 100
"""The relations' networks grow with the square of the frames."""


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """How strongly each discriminator's gradient is reversed, and the attentive entropy."""

    frame_reversal: float = field(
        default=0.5,
        metadata=option("Factor of the reversal coefficient at the spatial discriminator."),
    )
    relation_reversal: float = field(
        default=0.75,
        metadata=option("Factor of the reversal coefficient at the relation discriminators."),
    )
    video_reversal: float = field(
        default=0.75,
        metadata=option("Factor of the reversal coefficient at the temporal discriminator."),
    )
    entropy_weight: float = field(
        default=0.003,
        metadata=option("Weight of the attentive entropy of both domains, gamma in the paper."),
    )
    entropy_reduction: str = field(
        default="sum",
        metadata=option("How that entropy is taken over the classes.", choices=("sum", "mean")),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.frames <= MOST_FRAMES:
            raise ConfigError(
                f"--method ta3n relates up to all frames to each other: --frames must be from 2 to "
                f"{MOST_FRAMES}, got {self.frames}."
            )


READS = names_of(TRAINING, ADVERSARY, ENCODER)
SETTINGS = {"own": TA3N_FAMILY, "shared": ROBUST, "paper": PAPER}
# Its authors chose these values for each direction.
PAIRS = {("hmdb", "ucf"): {"entropy_weight": 0.3, "relation_reversal": 1.0}}


def combination(number: int, frames: int, size: int) -> tuple[int, ...]:
    """The `number`-th of the C(frames, size) ordered tuples of frames in lexicographic order, from 0.

    frames 5, size 3, number 4:  012 013 014 023 [024] 034 123 ... -> (0, 2, 4)
    """
    chosen: list[int] = []
    for frame in range(frames):
        beginning_here = math.comb(frames - frame - 1, size - len(chosen) - 1)
        if number < beginning_here:
            chosen.append(frame)
            if len(chosen) == size:
                break
        else:
            number -= beginning_here
    return tuple(chosen)


def frame_tuples(frames: int, size: int) -> list[tuple[int, ...]]:
    """At most 3 of the C(frames, size) ordered tuples, evenly chosen: the numbers ceil(i C / 3)."""
    count = math.comb(frames, size)
    taken = min(TUPLES, count)
    return [combination(-(-i * count // taken), frames, size) for i in range(taken)]


@dataclass(frozen=True)
class Related:
    """Relations of a batch, T-1 of them: of all T frames first, of pairs last."""

    video_BR: Tensor
    """v = sum_n (1 + w_n) r_n."""
    domain_logits: Tensor
    """Of the relation discriminators, (B, T-1, 2)."""


class TA3N(nn.Module):
    """Encoder, relations with domain attention, classifier of their sum."""

    def __init__(self, config: Options, backbone_width: int, classes: int) -> None:
        super().__init__()
        frames, width = config.frames, config.width
        self.encoder = make_encoder(config, backbone_width)
        sizes = range(frames, 1, -1)
        self.tuples = [frame_tuples(frames, size) for size in sizes]
        self.relations = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(size * width, RELATION_WIDTH), nn.ReLU())
            for size in sizes
        )
        self.relation_discriminators = nn.ModuleList(
            DomainClassifier(RELATION_WIDTH) for _ in sizes
        )
        self.dropout = Dropout(config.video_dropout)
        self.classifier = nn.Linear(RELATION_WIDTH, classes)

    def encode(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> frame features (B, T, C)."""
        return encode(self.encoder, features_BTD)

    def relate(self, frames_BTC: Tensor, coefficient: float) -> Related:
        """Frame features (B, T, C) -> their relations, attended.

        r_n is the sum of an MLP over the chosen n-tuples of frames in their order. Its weight 1 + w_n,
        w_n = 1 - H(d_n) with H in nats, is high where discriminator n tells the domain. Gradients
        flow through the weights too, by the discriminator's reversal.

        Args:
            coefficient: of the gradient reversal at the relation discriminators.
        """
        attended, logits = [], []
        # Once: every `frames_BTC[:, t]` would have a gradient of the size of all frames.
        frames = frames_BTC.unbind(dim=1)
        for tuples, mlp, discriminator in zip(
            self.tuples, self.relations, self.relation_discriminators
        ):
            joined = [torch.cat([frames[t] for t in chosen], dim=1) for chosen in tuples]
            r_BR = mlp(torch.stack(joined, dim=1)).sum(dim=1)
            logits_B2 = discriminator(reverse(r_BR, coefficient))
            w_B = 1 - entropy(logits_B2.to(self.classifier.weight.dtype))
            attended.append((1 + w_B[:, None]) * r_BR)
            logits.append(logits_B2)
        return Related(torch.stack(attended).sum(dim=0), torch.stack(logits, dim=1))

    def classify(self, video_BR: Tensor) -> Tensor:
        """Video features, dropped out already -> logits (B, N)."""
        logits_BN: Tensor = self.classifier(video_BR)
        return logits_BN.to(self.classifier.weight.dtype)  # losses are float32 under autocast too

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> logits (B, N)."""
        related = self.relate(self.encode(features_BTD), 0.0)
        return self.classify(self.dropout(related.video_BR))


def build(config: Options, width: int, classes: int) -> Networks:
    """The predicting network, relation discriminators and all, and the two others of the training.

    Relations and their discriminators always start as torch starts them, as in the authors' code.
    """
    model = TA3N(config, width, classes)
    branch = FrameVideoDiscriminators(
        frame_width=config.width,
        video_width=RELATION_WIDTH,
        frame_reversal=config.frame_reversal,
        video_reversal=config.video_reversal,
    )
    for part in (model.encoder, model.classifier, branch):
        initialise(part, config.initialisation)
    return Networks(model, branch)


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_y + L_sd + L_rd + L_td behind gradient reversal, plus gamma times the attentive entropy.

    L_ae is the mean over both domains' videos of (1 + H(d)) H(y), d the temporal discriminator's
    prediction and y the class; classifier and temporal discriminator see the same dropout(v).
    """
    model = networks.model
    coefficient = reversal_coefficient(config, progress.share)
    # Passed separately, so that each domain's batch norm, if there is one, sees its own statistics.
    frames_BTC = torch.cat([model.encode(b.features_BTD) for b in (source, target)])
    domains_B = domains_of(source, target)
    related = model.relate(frames_BTC, config.relation_reversal * coefficient)
    parts_BR = related.video_BR.split([len(source.features_BTD), len(target.features_BTD)])
    video_BR = torch.cat([model.dropout(part_BR) for part_BR in parts_BR])
    frame_logits, video_logits = networks.branch(frames_BTC, video_BR, coefficient)
    logits_BN = model.classify(video_BR)
    doubt_B = 1 + entropy(video_logits.to(domains_B.dtype))
    parts = {
        "source": source_loss(logits_BN[: len(source.labels_B)], source.labels_B),
        "frame": domain_cross_entropy(frame_logits, domains_B),
        "relation": domain_cross_entropy(related.domain_logits, domains_B),
        "video": domain_cross_entropy(video_logits, domains_B),
        "entropy": (doubt_B * entropy(logits_BN, config.entropy_reduction)).mean(),
    }
    total = parts["source"] + parts["frame"] + parts["relation"] + parts["video"]
    return StepLosses(total=total + config.entropy_weight * parts["entropy"], parts=parts)


def attention(
    networks: Networks, features_BTD: Tensor, config: Options, *, source: bool
) -> TimeWeights:
    """Each relation's weight 1 + w_n, which counts for the frames of each of its tuples."""
    model = networks.model
    related = model.relate(model.encode(features_BTD), 0.0)
    weights_Bn = 2 - entropy(related.domain_logits.to(model.classifier.weight.dtype))
    counts_nT = weights_Bn.new_zeros(len(model.tuples), config.frames)
    for n, tuples in enumerate(model.tuples):
        for frame in (frame for chosen in tuples for frame in chosen):
            counts_nT[n, frame] += 1
    weights_BT = weights_Bn @ counts_nT
    return TimeWeights(
        what="the share of each sampled frame in the tuples of all relations, each weighed by 1 + w_n: "
        "relations whose domain is easily told weigh more",
        weights_BT=weights_BT / weights_BT.sum(dim=1, keepdim=True),
        even_T=counts_nT.sum(dim=0) / counts_nT.sum(),
    )
