"""A backbone as one plain module, from prepared pixels to features, for programs without this one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Pixels(nn.Module):
    """Normalises and computes: (F, crop, crop, 3) uint8 RGB -> (F, D) in the model's number type.

    Args:
        model: (F, 3, crop, crop) normalised -> (F, D).
        mean, std: of the three colours, for pixels from 0 to 1.
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean_C", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std_C", torch.tensor(std).view(3, 1, 1))

    def forward(self, frames_FHWC: Tensor) -> Tensor:
        """See the class."""
        images = frames_FHWC.permute(0, 3, 1, 2).float() / 255
        features_FD: Tensor = self.model((images - self.mean_C) / self.std_C)
        return features_FD
