"""The methods: one file each, which builds its networks and turns a batch pair into losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.model import VideoClassifier


@dataclass(frozen=True)
class Losses:
    """`total` is differentiated; `parts` are logged under their names."""

    total: Tensor
    parts: dict[str, Tensor]


class Method(Protocol):
    """What a file of this folder offers."""

    def model(self, config: AdaptConfig, backbone_width: int, classes: int) -> nn.Module:
        """What predicts: features (B, T, D) -> logits (B, N). The checkpoint holds its parameters."""

    def branch(self, config: AdaptConfig) -> nn.Module | None:
        """Parameters that exist in training only."""

    def losses(
        self,
        model: Any,
        branch: nn.Module | None,
        source: SourceBatch,
        target: TargetBatch,
        config: AdaptConfig,
        coefficient: float,
    ) -> Losses:
        """Losses of one step of this method's model; `coefficient` is that of the gradient reversal."""


def mean_over_frames(config: AdaptConfig, backbone_width: int, classes: int) -> VideoClassifier:
    """The model of every method that predicts from the mean over frames."""
    return VideoClassifier(
        backbone_width,
        config.width,
        classes,
        config.dropout,
        config.encoder,
        input_norm=config.input_norm,
    )


def find(name: str) -> Method:
    """The method of that name (`adapt.config.METHODS` lists them)."""
    from adapt.methods import dann, infomax, ma2l_td, source_only, ta3n

    methods: dict[str, Method] = {
        "ma2l-td": ma2l_td,
        "source-only": source_only,
        "infomax": infomax,
        "dann": dann,
        "ta3n": ta3n,
    }
    return methods[name]
