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
            pairs.add((block[:, None] - target_TD).abs_().flatten(0, 1).to(ctx.dtype) @ W.T)
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
            difference = block[:, None] - target_TD
            d_weight += G.T @ difference.abs().flatten(0, 1).to(ctx.dtype)
            along = (G @ W).view_as(difference) * difference.sign_()
            d_source.append(along.sum(dim=1))
            d_target -= along.sum(dim=0)
            begin += len(block)
        return torch.cat(d_source), d_target, d_weight


def _blocks(source_SD: Tensor, target_TD: Tensor) -> tuple[Tensor, ...]:
    return source_SD.split(max(1, BLOCK // len(target_TD)))


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
        W = weight_PO.to(h.dtype)
        c = None if c_P is None else c_P.to(h.dtype)
        result = Rows(len(h), h.device)
        for part in h.split(BLOCK):
            before = (exact(part) - mean_O) * scale_O * g_O + b_O
            active = F.leaky_relu(before, SLOPE).to(h.dtype) * keep_O
            result.add(F.linear(active, W, c))
        return result.all()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of h, g, b, W and c."""
        h, g_O, b_O, weight_PO, mean_O, scale_O, keep_O = ctx.saved_tensors
        W = weight_PO.to(h.dtype)
        dh = torch.empty_like(h)  # until the second pass: what arrives at the activation
        d_g, d_b = torch.zeros_like(g_O), torch.zeros_like(b_O)
        d_W, d_c = torch.zeros_like(weight_PO), gradient.new_zeros(len(W), dtype=g_O.dtype)
        blocks = [slice(i, i + BLOCK) for i in range(0, len(h), BLOCK)]
        for rows in blocks:
            G = gradient[rows].to(h.dtype)
            n = (exact(h[rows]) - mean_O) * scale_O
            before = n * g_O + b_O
            active = F.leaky_relu(before, SLOPE).to(h.dtype) * keep_O
            d_W += G.T @ active
            d_c += exact(gradient[rows]).sum(dim=0)
            dh[rows] = (G @ W) * keep_O
            a = exact(dh[rows]) * _slope(before)
            d_b += a.sum(dim=0)
            d_g += (a * n).sum(dim=0)
        for rows in blocks:
            n = (exact(h[rows]) - mean_O) * scale_O
            a = exact(dh[rows]) * _slope(n * g_O + b_O)
            if ctx.of_batch:
                a = a - d_b / len(h) - n * (d_g / len(h))
            dh[rows] = (a * (g_O * scale_O)).to(h.dtype)
        return dh, d_g, d_b, d_W, d_c if ctx.needs_input_grad[4] else None, *[None] * 4


def _slope(before: Tensor) -> Tensor:
    return torch.where(before > 0, before.new_ones(()), before.new_full((), SLOPE))


@torch.no_grad()
def batch_statistics(norm: nn.BatchNorm1d, h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all pairs; the running ones move as those of torch's batch norm do.

    `NormalisedLinear` passes on the gradient that goes through them.
    """
    rows = len(h)
    sums = torch.stack([exact(part).sum(dim=0) for part in h.split(BLOCK)])
    mean_O = sums.sum(dim=0) / rows
    squares = [(exact(part) - mean_O).square().sum(dim=0) for part in h.split(BLOCK)]
    variance_O = torch.stack(squares).sum(dim=0) / rows
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean_O.to(norm.running_mean.dtype), norm.momentum)
    unbiased = variance_O * rows / max(1, rows - 1)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
    return mean_O, variance_O
