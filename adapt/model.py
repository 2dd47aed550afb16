"""The network that predicts, of every method but TA3N: encoder, mean over time, classifier.

Shapes in names, here and in all of `adapt`: B videos, F frames of a video, T frames sampled,
D backbone width, C encoder width, S slots of a level, L levels with discriminators, N classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from adapt.dropout import Dropout
from adapt.parallel import BatchNorm

INITIAL_DEVIATION = 0.001
"""Of the weights of TA3N's encoder before training."""


def make_encoder(
    kind: str, backbone_width: int, width: int, dropout: float, *, input_norm: bool = False
) -> nn.Sequential:
    """Backbone features (., D) -> task-driven features (., C), neither below 0.

    Args:
        kind: `two-layer` is the extractor of sec. 3.1: Linear(D, C), BatchNorm, ReLU, Dropout,
            Linear(C, C), BatchNorm, ReLU. `one-layer` is TA3N's: Linear(D, C) with weights from
            N(0, 0.001) and no bias at first, ReLU, Dropout.
        input_norm: a BatchNorm of the D features in front.
    """
    before = [BatchNorm(backbone_width)] if input_norm else []
    first = nn.Linear(backbone_width, width)
    if kind == "one-layer":
        nn.init.normal_(first.weight, std=INITIAL_DEVIATION)
        nn.init.zeros_(first.bias)
        return nn.Sequential(*before, first, nn.ReLU(), Dropout(dropout))
    return nn.Sequential(
        *before,
        first,
        BatchNorm(width),
        nn.ReLU(),
        Dropout(dropout),
        nn.Linear(width, width),
        BatchNorm(width),
        nn.ReLU(),
    )


def encode(encoder: nn.Module, features_BTD: Tensor) -> Tensor:
    """Frame by frame: (B, T, D) -> (B, T, C)."""
    frames_BTC: Tensor = encoder(features_BTD.flatten(0, 1)).unflatten(0, features_BTD.shape[:2])
    return frames_BTC


class VideoClassifier(nn.Module):
    """Encoder, mean over frames, Linear(C, N) (sec. 3.1); prediction uses nothing else."""

    def __init__(
        self,
        backbone_width: int,
        width: int,
        classes: int,
        dropout: float,
        encoder: str = "two-layer",
        *,
        input_norm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(encoder, backbone_width, width, dropout, input_norm=input_norm)
        self.classifier = nn.Linear(width, classes)

    def encode(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> task-driven features f^1 (B, T, C)."""
        return encode(self.encoder, features_BTD)

    def classify(self, frames_BTC: Tensor) -> Tensor:
        """f^1 (B, T, C) -> logits (B, N) of the mean over time."""
        logits_BN: Tensor = self.classifier(frames_BTC.mean(dim=1))
        return logits_BN.to(self.classifier.weight.dtype)  # losses are float32 under autocast too

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> logits (B, N)."""
        return self.classify(self.encode(features_BTD))
