"""Batch norm with a set of statistics, scale and shift for each domain."""

from __future__ import annotations

from torch import Tensor, nn

from adapt.parallel import BatchNorm


class DomainBatchNorm(nn.Module):
    """A batch norm of (rows, C) for the source's rows and another one for the target's.

    Prediction is on the target, so a caller that does not say otherwise gets the target's.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.source = BatchNorm(width)
        self.target = BatchNorm(width)

    def forward(self, x: Tensor, *, source: bool = False) -> Tensor:
        """Normalise rows (rows, C) of one domain."""
        normed: Tensor = (self.source if source else self.target)(x)
        return normed
