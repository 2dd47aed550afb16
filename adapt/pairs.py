"""Layers over all pairs of two sets of nodes, a block of pairs at a time, with gradients of their own.

640 frames and 640 frames are 409,600 pairs. What torch's layers keep of them for the backward pass would
take many gigabytes; here a layer keeps its input, and what is in between is computed again.

Letters here: S, T nodes of the source and of the target, D their width, R pairs, O and P widths of layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.losses import exact
from adapt.rows import Rows

SLOPE = 0.01
"""Of LeakyReLU."""
BLOCK = 16_384
"""Pairs that are computed at a time: |x_i - x_j| of all pairs of 640 and 640 frames would take 3.4 GB."""
CPU_BLOCK = 1024
"""The same on a CPU, where so few stay in its cache (measured: half the time of 16,384)."""


class LinearOfDifferences(torch.autograd.Function):
    """W |x_i - x_j| for all pairs, (S, D), (T, D), (O, D) -> (S T, O); the differences are never kept."""

    @staticmethod
    def forward(ctx: Any, source_SD: Tensor, target_TD: Tensor, weight_OD: Tensor) -> Tensor:
        """The products, in autocast's number type where it is on."""
        ctx.save_for_backward(source_SD, target_TD, weight_OD)
        kind = weight_OD.device.type
        ctx.dtype = weight_OD.dtype
        if torch.is_autocast_enabled(kind):
            ctx.dtype = torch.get_autocast_dtype(kind)
        W = weight_OD.to(ctx.dtype)
        pairs = Rows(len(source_SD) * len(target_TD), source_SD.device)
        for block in _blocks(source_SD, target_TD):
            pairs.add((block[:, None] - target_TD).to(ctx.dtype).abs_().flatten(0, 1) @ W.T)
        return pairs.all()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the nodes and of W; |x| has the gradient 0 at 0."""
        source_SD, target_TD, weight_OD = ctx.saved_tensors
        W, T = weight_OD.to(ctx.dtype), len(target_TD)
        d_source, d_target, d_weight = [], torch.zeros_like(target_TD), torch.zeros_like(weight_OD)
        begin = 0
        for block in _blocks(source_SD, target_TD):
            G = gradient[begin * T : (begin + len(block)) * T].to(ctx.dtype)
            difference = (block[:, None] - target_TD).to(ctx.dtype)
            d_weight += G.T @ difference.abs().flatten(0, 1)
            along = (G @ W).view_as(difference).mul_(difference.sign_())
            d_source.append(along.sum(dim=1, dtype=source_SD.dtype))
            d_target -= along.sum(dim=0, dtype=target_TD.dtype)
            begin += len(block)
        return torch.cat(d_source), d_target, d_weight


def _blocks(source_SD: Tensor, target_TD: Tensor) -> tuple[Tensor, ...]:
    return source_SD.split(max(1, _block(source_SD) // len(target_TD)))


def _block(rows: Tensor) -> int:
    return CPU_BLOCK if rows.device.type == "cpu" else BLOCK


class NormalisedLinear(torch.autograd.Function):
    """W (keep LeakyReLU(g n + b)) + c with n = (h - mean) scale, (R, O) -> (R, P), block by block.

    Nothing of h's size is kept but h, and its gradient is the only other one that is made: torch's own
    layers keep several, each 0.8 GB for 640 frames and 640 frames. The backward pass, with a_i what
    arrives at the activation times its slope, and means over the R rows (Ioffe and Szegedy, ICML 2015):

        db = sum_i a_i,  dg = sum_i a_i n_i,  dh_i = g scale (a_i - db / R - n_i dg / R)

    The last two terms are absent where mean and scale do not come from h.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        g_O: Tensor,
        b_O: Tensor,
        weight_PO: Tensor,
        c_P: Tensor | None,
        mean_O: Tensor,
        scale_O: Tensor,
        keep_O: Tensor,
        of_batch: bool,
    ) -> Tensor:
        """See the class; `weight_PO` is W, `c_P` is c, `of_batch` whether mean and scale are those of h."""
        ctx.save_for_backward(h, g_O, b_O, weight_PO, mean_O, scale_O, keep_O)
        ctx.of_batch = of_batch
        W = (weight_PO * keep_O).to(h.dtype)
        c = None if c_P is None else c_P.to(h.dtype)
        factor_O, result = scale_O * g_O, Rows(len(h), h.device)
        for part in h.split(_block(h)):
            before = torch.addcmul(b_O, exact(part) - mean_O, factor_O)
            result.add(F.linear(F.leaky_relu(before, SLOPE, inplace=True).to(h.dtype), W, c))
        return result.all()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of h, g, b, W and c."""
        h, g_O, b_O, weight_PO, mean_O, scale_O, keep_O = ctx.saved_tensors
        W, factor_O = (weight_PO * keep_O).to(h.dtype), scale_O * g_O
        dh = torch.empty_like(h)  # until the second pass: a
        d_g, d_b = torch.zeros_like(g_O), torch.zeros_like(b_O)
        d_W, d_c = torch.zeros_like(weight_PO), gradient.new_zeros(len(W), dtype=g_O.dtype)
        for part, a, given in zip(*(z.split(_block(h)) for z in (h, dh, gradient))):
            G = given.to(h.dtype)
            centred = exact(part) - mean_O
            before = torch.addcmul(b_O, centred, factor_O)
            d_W += G.T @ F.leaky_relu(before, SLOPE).to(h.dtype)
            d_c += exact(given).sum(dim=0)
            arriving = torch.ops.aten.leaky_relu_backward(exact(G @ W), before, SLOPE, False)
            d_b += arriving.sum(dim=0)
            d_g += arriving.mul(centred).sum(dim=0)
            a.copy_(arriving)
        d_g *= scale_O
        less_O, along_O = factor_O * d_b / len(h), factor_O * scale_O * d_g / len(h)
        for part, a in zip(h.split(_block(h)), dh.split(_block(h))):
            d_part = exact(a) * factor_O
            if ctx.of_batch:
                d_part -= less_O
                d_part.addcmul_(exact(part) - mean_O, along_O, value=-1)
            a.copy_(d_part)
        d_W *= keep_O
        return dh, d_g, d_b, d_W, d_c if ctx.needs_input_grad[4] else None, *[None] * 4


@torch.no_grad()
def batch_statistics(norm: nn.BatchNorm1d, h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all pairs; the running ones move as those of torch's batch norm do.

    `NormalisedLinear` passes on the gradient that goes through them.
    """
    rows = len(h)
    sums = torch.stack([exact(part).sum(dim=0) for part in h.split(_block(h))])
    mean_O = sums.sum(dim=0) / rows
    squares = [(exact(part) - mean_O).square().sum(dim=0) for part in h.split(_block(h))]
    variance_O = torch.stack(squares).sum(dim=0) / rows
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean_O.to(norm.running_mean.dtype), norm.momentum)
    unbiased = variance_O * rows / max(1, rows - 1)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    return mean_O, variance_O
