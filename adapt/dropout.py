"""Dropout that costs little on a CPU, and is the same for several processes as for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adapt.parallel import rank, world

_STEPS = 2**16
"""On a CPU: of all numbers of 16 bits, round(2^16 p) mean dropped."""
_CHUNK = 2**18
"""Entries that are treated at a time, few enough to stay in a processor's cache. A multiple of 4, so that
the masks do not depend on it."""


def drop(x: Tensor, p: float, domains: Sequence[int]) -> Tensor:
    """Set entries to 0 with probability p and scale the rest by 1 / (1 - p).

    Several processes that train together each take their rows' share of the mask that one would draw.

    Args:
        x: (S, rows, W), the rows those of one domain after the other.
        domains: how many rows of each domain this process has; every process has equally many.

    Raises:
        ValueError: they are not as many as the rows of x.
    """
    _check_rows(x, domains)
    if world() == 1:
        return _drop(x, p)
    S, rows, W = x.shape
    whole = _drop(x.new_ones(S, world() * rows, W), p)
    masks = whole.split([world() * own for own in domains], dim=1)
    shares = [mask.narrow(1, rank() * own, own) for mask, own in zip(masks, domains)]
    return x * torch.cat(shares, dim=1)


def _check_rows(x: Tensor, domains: Sequence[int]) -> None:
    if sum(domains) != x.shape[1]:
        raise ValueError(f"Domains of {list(domains)} rows make no tensor of {x.shape[1]} rows.")


def relu_drop(x: Tensor, p: float, domains: Sequence[int]) -> Tensor:
    """Set entries below 0 to 0, then `drop`. On a CPU this overwrites x, which nothing else may need.

    Arguments, errors and masks are those of `drop`.
    """
    _check_rows(x, domains)
    if world() == 1 and x.device.type == "cpu":
        result: Tensor = _ReluDrop.apply(x, p)
        return result
    return drop(F.relu(x), p, domains)


class _ReluDrop(torch.autograd.Function):
    """Both in place, chunk by chunk: what was kept shows in the result, so no mask is ever whole.

    As separate operations they go through main memory so often that a step took 5 % longer.
    """

    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:  # type: ignore[no-untyped-def]
        for part, mask in zip(x.view(-1).split(_CHUNK), _masks(x.numel(), p, x.dtype)):
            part.relu_().mul_(mask)
        ctx.factor = _factor(p)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (y,) = ctx.saved_tensors
        result = torch.empty_like(y)
        for out, g, part in zip(*(t.reshape(-1).split(_CHUNK) for t in (result, gradient, y))):
            torch.mul(g, part.sign().mul_(ctx.factor), out=out)
        return result, None


def _drop(x: Tensor, p: float) -> Tensor:
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return x * torch.cat(list(_masks(x.numel(), p, x.dtype))).view(x.shape)


def _masks(size: int, p: float, dtype: torch.dtype) -> Iterator[Tensor]:
    """The mask of `size` entries on a CPU, in chunks: 0 where one is dropped, else 1 / (1 - p).

    `F.dropout` draws number by number in one thread, as torch's generators all do: at the authors'
    sizes a quarter of a step. Here torch's generator seeds a quicker one.
    """
    numbers = np.random.SFC64(torch.randint(2**63 - 1, (1,)).numpy())
    least = _dropped(p) - _STEPS // 2
    for begin in range(0, size, _CHUNK):
        entries = min(_CHUNK, size - begin)
        words = torch.from_numpy(numbers.random_raw(-(-entries // 4)).view(np.int16))[:entries]
        yield words.ge_(least).to(dtype).mul_(_factor(p))


def _dropped(p: float) -> int:
    return min(round(p * _STEPS), _STEPS - 1)


def _factor(p: float) -> float:
    return _STEPS / (_STEPS - _dropped(p))


class Dropout(nn.Dropout):
    """`nn.Dropout` of one domain's rows, (rows, W) in every process."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop, in training."""
        return drop(x[None], self.p, domains=[len(x)])[0] if self.training and self.p else x
