"""The methods: one file each, which builds its branch and turns a batch pair into losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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

    def branch(self, config: AdaptConfig) -> nn.Module | None:
        """Parameters that exist in training only."""

    def losses(
        self,
        model: VideoClassifier,
        branch: nn.Module | None,
        source: SourceBatch,
        target: TargetBatch,
        config: AdaptConfig,
        coefficient: float,
    ) -> Losses:
        """Losses of one step; `coefficient` is that of the gradient reversal."""


def find(name: str) -> Method:
    """The method of that name (`adapt.config.METHODS` lists them)."""
    from adapt.methods import infomax, ma2l_td, source_only

    methods: dict[str, Method] = {
        "ma2l-td": ma2l_td,
        "infomax": infomax,
        "source-only": source_only,
    }
    return methods[name]
