"""The network that predicts, of every method but TA3N: encoder, mean over time, classifier.

Shapes in names, here and in all of `adapt`:

    B videos of a batch     V videos in all         F frames of a video     T frames sampled
    D backbone width        C encoder width         N classes               R width of TA3N's relations
    S slots of a level      q slots that one aggregation joins              L levels with discriminators
"""

from __future__ import annotations

from torch import Tensor, nn

from adapt.config import AdaptConfig
from adapt.dropout import Dropout
from adapt.parallel import BatchNorm


def make_encoder(config: AdaptConfig, backbone_width: int) -> nn.Sequential:
    """Backbone features (., D) -> task-driven features (., C), none below 0.

    `two-layer` is the extractor of MA2L-TD (section 3.1): Linear(D, C), BatchNorm, ReLU, Dropout,
    Linear(C, C), BatchNorm, ReLU. `one-layer` is TA3N's: Linear(D, C), ReLU, Dropout. With `input_norm`
    a BatchNorm of the D features stands in front.
    """
    width = config.width
    before = [BatchNorm(backbone_width)] if config.input_norm else []
    first = nn.Linear(backbone_width, width)
    if config.encoder == "one-layer":
        return nn.Sequential(*before, first, nn.ReLU(), Dropout(config.dropout))
    return nn.Sequential(
        *before,
        first,
        BatchNorm(width),
        nn.ReLU(),
        Dropout(config.dropout),
        nn.Linear(width, width),
        BatchNorm(width),
        nn.ReLU(),
    )


def encode(encoder: nn.Module, features_BTD: Tensor) -> Tensor:
    """Frame by frame: (B, T, D) -> (B, T, C)."""
    frames_BTC: Tensor = encoder(features_BTD.flatten(0, 1)).unflatten(0, features_BTD.shape[:2])
    return frames_BTC


class VideoClassifier(nn.Module):
    """Encoder, mean over frames, Linear(C, N) (section 3.1); prediction uses nothing else."""

    def __init__(self, config: AdaptConfig, backbone_width: int, classes: int) -> None:
        super().__init__()
        self.encoder = make_encoder(config, backbone_width)
        self.dropout = Dropout(config.video_dropout)
        self.classifier = nn.Linear(config.width, classes)

    def encode(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> task-driven features f^1 (B, T, C)."""
        return encode(self.encoder, features_BTD)

    def pool(self, frames_BTC: Tensor) -> Tensor:
        """f^1 (B, T, C) -> the video feature (B, C): the mean over time, with dropout in training."""
        video_BC: Tensor = self.dropout(frames_BTC.mean(dim=1))
        return video_BC

    def classify_video(self, video_BC: Tensor) -> Tensor:
        """Video features (B, C) -> logits (B, N)."""
        logits_BN: Tensor = self.classifier(video_BC)
        return logits_BN.to(self.classifier.weight.dtype)  # losses are float32 under autocast too

    def classify(self, frames_BTC: Tensor) -> Tensor:
        """f^1 (B, T, C) -> logits (B, N)."""
        return self.classify_video(self.pool(frames_BTC))

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> logits (B, N)."""
        return self.classify(self.encode(features_BTD))
