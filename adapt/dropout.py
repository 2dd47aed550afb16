"""Dropout that costs little on a CPU, and is the same for several processes as for one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.parallel import rank, world

_STEPS = 2**16
"""On a CPU: of all numbers of 16 bits, round(2^16 p) mean dropped."""


def drop(x: Tensor, p: float, domains: Sequence[int]) -> Tensor:
    """Set entries to 0 with probability p and scale the rest by 1 / (1 - p).

    Several processes that train together each take their rows' share of the mask that one would draw.

    Args:
        x: (S, rows, W), the rows those of one domain after the other.
        domains: how many rows of each domain this process has; every process has equally many.

    Raises:
        ValueError: they are not as many as the rows of x.
    """
    S, rows, W = x.shape
    if sum(domains) != rows:
        raise ValueError(f"Domains of {list(domains)} rows make no tensor of {rows} rows.")
    if world() == 1:
        return _drop(x, p)
    whole = _drop(x.new_ones(S, world() * rows, W), p)
    masks = whole.split([world() * own for own in domains], dim=1)
    shares = [mask.narrow(1, rank() * own, own) for mask, own in zip(masks, domains)]
    return x * torch.cat(shares, dim=1)


def _drop(x: Tensor, p: float) -> Tensor:
    """On a CPU `F.dropout` draws number by number in one thread, as torch's generators all do: at the
    authors' sizes a quarter of a step. Here torch's generator seeds a quicker one.
    """
    if x.device.type != "cpu":
        return F.dropout(x, p)
    dropped = min(round(p * _STEPS), _STEPS - 1)
    seed = torch.randint(2**63 - 1, (1,)).numpy()
    words = np.random.SFC64(seed).random_raw(-(-x.numel() // 4)).view(np.int16)
    kept = torch.from_numpy(words)[: x.numel()].view(x.shape).ge_(dropped - _STEPS // 2)
    return x * kept.to(x.dtype).mul_(_STEPS / (_STEPS - dropped))


class Dropout(nn.Dropout):
    """`nn.Dropout` of one domain's rows, (rows, W) in every process."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop, in training."""
        return drop(x[None], self.p, domains=[len(x)])[0] if self.training and self.p else x
