"""The information bottleneck of TransferAttn and UDAVT: equal videos of both domains, the same features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapt.losses import exact

WIDTH, QUEUE = 1024, 512
OFF_DIAGONAL = 0.005
"""Weight of the correlations of different features."""
_EPSILON = 1e-5
_FEWEST = 3
"""With fewer pairs there is no loss."""


class Bottleneck(nn.Module):
    """Projects videos, pairs those of equal class, and compares their features.

    A queue keeps the source's last 512 projections without their gradient, so that a target video finds
    sources of its class; it is part of the training's state.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            *_layer(width),
            *_layer(WIDTH),
            nn.Linear(WIDTH, WIDTH),
        )
        self.register_buffer("queue", torch.zeros(QUEUE, WIDTH))
        self.register_buffer("queue_labels", torch.full((QUEUE,), -1))
        self.register_buffer("queue_next", torch.zeros((), dtype=torch.long))
        self.queue: Tensor
        self.queue_labels: Tensor
        self.queue_next: Tensor

    def forward(
        self, source_BC: Tensor, labels_B: Tensor, target_BC: Tensor, pseudo_B: Tensor
    ) -> Tensor:
        """The loss of all pairs of a source video, from batch or queue, and a target video of its class.

        Args:
            pseudo_B: the classes that the target's videos are taken for.
        """
        own = exact(self.head(source_BC))
        source = torch.cat([own, self.queue.to(own.dtype)])
        labels = torch.cat([labels_B, self.queue_labels])
        target = exact(self.head(target_BC))
        loss = bottleneck_loss(source, target, labels[:, None] == pseudo_B)
        self._remember(own.detach(), labels_B)
        return loss

    @torch.no_grad()
    def _remember(self, projected: Tensor, labels_B: Tensor) -> None:
        """Put the newest projections in the place of the oldest."""
        projected, labels_B = projected[-QUEUE:], labels_B[-QUEUE:]
        at = (self.queue_next + torch.arange(len(projected), device=projected.device)) % QUEUE
        # Copies: the loss still needs the queue as it was.
        self.queue = self.queue.index_copy(0, at, projected.to(self.queue.dtype))
        self.queue_labels = self.queue_labels.index_copy(0, at, labels_B)
        self.queue_next = (self.queue_next + len(projected)) % QUEUE


def _layer(width: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU()


def bottleneck_loss(source_SW: Tensor, target_BW: Tensor, paired_SB: Tensor) -> Tensor:
    """sum_i (R_ii - 1)^2 + 0.005 sum_{i != j} R_ij^2 with R = Z_s^T Z_t / n over the n pairs.

    Z_s and Z_t hold a row for each pair, standardised by column over the pairs (biased variance, 1e-5 added).
    They are never formed: each row occurs as often as it has partners. 0 with fewer than three pairs.

    Args:
        paired_SB: whether source row s and target row b are a pair.
    """
    pairs_SB = paired_SB.to(source_SW.dtype)
    count = pairs_SB.sum()
    n = count.clamp_min(1)
    with torch.autocast(source_SW.device.type, enabled=False):  # products of a loss are float32 too
        source = _standardised(source_SW, pairs_SB.sum(dim=1), n)
        target = _standardised(target_BW, pairs_SB.sum(dim=0), n)
        R = source.T @ (pairs_SB @ target) / n
    diagonal = R.diagonal()
    off = R.square().sum() - diagonal.square().sum()
    loss = (diagonal - 1).square().sum() + OFF_DIAGONAL * off
    return torch.where(count < _FEWEST, 0.0, loss)  # no `if`, which would wait for the GPU


def _standardised(x: Tensor, times: Tensor, n: Tensor) -> Tensor:
    mean = times @ x / n
    variance = times @ (x - mean).square() / n
    return (x - mean) * (variance + _EPSILON).rsqrt()
