"""The network that predicts: encoder, mean over time, classifier.

Shapes in names, here and in all of `adapt`: B videos, F frames of a video, T frames sampled,
D backbone width, C encoder width, S slots of a level, L levels with discriminators, N classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from adapt.parallel import BatchNorm, Dropout


class VideoClassifier(nn.Module):
    """Task-driven extractor and classifier (sec. 3.1); prediction uses nothing else.

    Linear(D, C), BatchNorm, ReLU, Dropout, Linear(C, C), BatchNorm, ReLU per frame; mean over frames;
    Linear(C, N).
    """

    def __init__(self, backbone_width: int, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(backbone_width, width),
            BatchNorm(width),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(width, width),
            BatchNorm(width),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(width, classes)

    def encode(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> task-driven features f^1 (B, T, C)."""
        frames_BTC: Tensor = self.encoder(features_BTD.flatten(0, 1)).unflatten(
            0, features_BTD.shape[:2]
        )
        return frames_BTC

    def classify(self, frames_BTC: Tensor) -> Tensor:
        """f^1 (B, T, C) -> logits (B, N) of the mean over time."""
        logits_BN: Tensor = self.classifier(frames_BTC.mean(dim=1))
        return logits_BN.to(self.classifier.weight.dtype)  # losses are float32 under autocast too

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Backbone features (B, T, D) -> logits (B, N)."""
        return self.classify(self.encode(features_BTD))
