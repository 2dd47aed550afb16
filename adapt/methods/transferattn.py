"""TransferAttn (WACV 2025): a transformer whose last block attends to what both domains have in common.

Written from the paper's and its code's formulas; values for ResNet-101 features are chosen, as the code
for them cannot run as published. In that code neither the classifier nor the head of the information
bottleneck is trained: `released` does so too, `own` (also called `fixed`) trains both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.bottleneck import Bottleneck
from adapt.config import ADVERSARY, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import SOURCE, TARGET, reverse
from adapt.dropout import Dropout
from adapt.losses import exact, source_loss, target_entropy
from adapt.methods import Networks, Progress, StepLosses
from adapt.parallel import BatchNorm
from adapt.schedule import reversal_coefficient
from adapt.settings import ROBUST
from store.errors import ConfigError
from store.options import option

HEADS, BLOCKS, HIDDEN = 8, 4, 1024
TEMPERATURE = 0.07
"""The video feature has the length 1 / 0.07."""
ONE_PROCESS = "the bottleneck's queue holds the source's last projections in their order"


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """What is trained, and the weight of the information bottleneck."""

    bottleneck_weight: float = field(
        default=0.001, metadata=option("Weight of the information bottleneck's loss.")
    )
    entropy_weight: float = field(
        default=1.0, metadata=option("Weight of the target's entropy, a mean over classes too.")
    )
    train_heads: bool = field(
        default=True,
        metadata=option(
            "Whether the classifier and the bottleneck's head are trained; the authors' code leaves both "
            "as they start."
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % HEADS:
            raise ConfigError(f"--width must be a multiple of {HEADS} heads, got {self.width}.")
        if self.statistics == "target" and not self.input_norm:
            raise ConfigError(
                "--statistics target replaces the statistics of batch norms, and transferattn has none "
                "of its own. Add --input-norm, or leave --statistics out."
            )


READS = names_of(TRAINING, ADVERSARY) | {"frames", "width", "dropout", "input_norm", "statistics"}
_AUTHORS = {
    "frames": 53,
    "width": 512,
    "dropout": 0.2,
    "draws": 2,
    "eval_draws": 2,
    "source_sampling": "smallest-class",
    "optimiser": "adam",
    "learning_rate": 3e-5,
    "weight_decay": 5e-4,
    "rate_decay": "cosine",
    "adversarial_ramp": "dann",
}
SETTINGS = {
    "own": _AUTHORS,
    "fixed": _AUTHORS,  # the name that this repair of the authors' code has elsewhere
    "released": {**_AUTHORS, "train_heads": False},
    "shared": {**ROBUST, "width": 512, "dropout": 0.2, "adversarial_ramp": "dann"},
}
# Given by the authors for other features (I3D, STAM).
PAIRS = {("hmdb", "ucf"): {"adversarial_weight": 0.5}}


class Attention(nn.Module):
    """Attention of 8 heads over time, (B, T, C) -> (B, T, C)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTC: Tensor, coefficient: float) -> Tensor:
        """Softmax_j of the scores, dropped out, times the values."""
        B, T, C = x_BTC.shape
        q, k, v = self.inputs(x_BTC).view(B, T, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        weights_BHTT = self.scores(q, k, coefficient).softmax(dim=-1)
        weights_BHTT = self.dropout(weights_BHTT.flatten(1)).view_as(weights_BHTT).to(v.dtype)
        joined_BTC = (weights_BHTT @ v).transpose(1, 2).reshape(B, T, C)
        result: Tensor = self.dropout(self.output(joined_BTC).flatten(1)).view(B, T, C)
        return result

    def scores(self, q: Tensor, k: Tensor, coefficient: float) -> Tensor:
        """q_i k_j / sqrt(C / 8), of (B, 8, T, C / 8) each -> (B, 8, T, T) float32."""
        return exact(q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5


class DomainAttention(Attention):
    """The transferable attention of the last block (DTAB): what looks like the target is attended to.

    One discriminator of all heads, queries and keys, behind gradient reversal: a_i = -log D(q_i) and
    b_j = -log D(k_j), both domains with the label 1 as in the authors' code; the scores are
    a_i b_j / 8, behind a second reversal. No loss of the domain reaches the discriminator: it gets -c
    times the gradient of the whole loss, and q and k get c^2 times it.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(width, dropout)
        self.discriminator = make_discriminator(width // HEADS, dropout)

    def scores(self, q: Tensor, k: Tensor, coefficient: float) -> Tensor:
        """a_i b_j / sqrt(C / 8): rank 1, and every row has the same largest entry, as a_i >= 0."""
        a, b = (self._cost(x, coefficient) for x in (q, k))
        return a[..., :, None] * b[..., None, :] / q.shape[-1] ** 0.5

    def _cost(self, x: Tensor, coefficient: float) -> Tensor:
        logits = self.discriminator(reverse(x, coefficient).flatten(0, 2)).view(x.shape[:-1])
        return reverse(F.softplus(-exact(logits)), coefficient)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with z sigmoid(1.702 z) in between."""

    def __init__(self, width: int, attention: Attention) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = attention
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTC: Tensor, coefficient: float) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x_BTC = x_BTC + self.attention(self.norms[0](x_BTC), coefficient)
        z = self.inner(self.norms[1](x_BTC))
        return x_BTC + self.outer(z * torch.sigmoid(1.702 * z))


class TransferAttn(nn.Module):
    """Linear(D, C) and position, three usual blocks and one that is transferable, mean, classifier."""

    def __init__(self, config: Options, backbone_width: int, classes: int) -> None:
        super().__init__()
        C = config.width
        self.norm = BatchNorm(backbone_width) if config.input_norm else nn.Identity()
        self.embedding = nn.Linear(backbone_width, C)
        self.position = nn.Parameter(0.01 * torch.randn(config.frames, C))
        kinds = [*[Attention] * (BLOCKS - 1), DomainAttention]
        self.blocks = nn.ModuleList(Block(C, kind(C, config.dropout)) for kind in kinds)
        self.classifier = nn.Linear(C, classes)

    def video(self, features_BTD: Tensor, coefficient: float) -> Tensor:
        """Backbone features (B, T, D) -> the video feature (B, C), of length 1 / 0.07."""
        normed = self.norm(features_BTD.flatten(0, 1)).view_as(features_BTD)
        x_BTC = self.embedding(normed) + self.position
        for block in self.blocks:
            x_BTC = block(x_BTC, coefficient)
        return F.normalize(exact(x_BTC).mean(dim=1), dim=1) / TEMPERATURE

    def classify_video(self, video_BC: Tensor) -> Tensor:
        """Video features -> logits (B, N)."""
        return exact(self.classifier(video_BC))

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> logits (B, N)."""
        return self.classify_video(self.video(features_BTD, 0.0))


class Branch(nn.Module):
    """The discriminator of videos, and the information bottleneck."""

    def __init__(self, config: Options) -> None:
        super().__init__()
        self.discriminator = make_discriminator(config.width, config.dropout)
        self.bottleneck = Bottleneck(config.width)


def make_discriminator(width: int, dropout: float) -> nn.Sequential:
    """Linear, ReLU, Dropout, twice 1024 wide, and Linear to one logit; Xavier normal with zero biases."""
    layers: list[nn.Module] = []
    for inputs in (width, HIDDEN):
        layers += [nn.Linear(inputs, HIDDEN), nn.ReLU(), Dropout(dropout)]
    layers.append(nn.Linear(HIDDEN, 1))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def build(config: Options, width: int, classes: int) -> Networks:
    """The predicting network, and the branch of the training."""
    networks = Networks(TransferAttn(config, width, classes), Branch(config))
    if not config.train_heads:
        networks.model.classifier.requires_grad_(False)
        networks.branch.bottleneck.head.requires_grad_(False)
    return networks


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """The mean over the draws of L_s + entropy + weight * bottleneck + BCE_source + BCE_target.

    The two domain losses are added, not halved. c is the ramp of finished epochs.
    """
    coefficient = reversal_coefficient(config, progress.share)
    draws = [
        _of_draw(networks, source, target, config, coefficient, slice(draw, None, config.draws))
        for draw in range(config.draws)
    ]
    parts = {name: torch.stack([d[name] for d in draws]).mean() for name in draws[0]}
    total = (
        parts["source"]
        + config.entropy_weight * parts["entropy"]
        + config.bottleneck_weight * parts["bottleneck"]
        + parts["domain"]
    )
    return StepLosses(total=total, parts=parts)


def _of_draw(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    coefficient: float,
    rows: slice,
) -> dict[str, Tensor]:
    model, branch = networks.model, networks.branch
    labels_B = source.labels_B[rows]
    source_BC = model.video(source.features_BTD[rows], coefficient)
    target_BC = model.video(target.features_BTD[rows], coefficient)
    target_BN = model.classify_video(target_BC)
    domain = sum(
        F.binary_cross_entropy_with_logits(logits_B, torch.full_like(logits_B, d))
        for d, logits_B in (
            (d, exact(branch.discriminator(reverse(x_BC, coefficient))))
            for d, x_BC in ((SOURCE, source_BC), (TARGET, target_BC))
        )
    )
    return {
        "source": source_loss(model.classify_video(source_BC), labels_B),
        "entropy": target_entropy(target_BN, "mean"),
        "bottleneck": branch.bottleneck(source_BC, labels_B, target_BC, target_BN.argmax(dim=1)),
        "domain": domain,
    }
