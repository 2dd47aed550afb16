"""Maximum mean discrepancy with Gaussian kernels (DAN: Long et al., ICML 2015; JAN: ICML 2017).

Two codes of the authors' group and one of TA3N's authors differ in bandwidth and estimate; each is an
`Estimate`, and each is tested against a number that its own code gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """How a kernel's bandwidths are chosen, and how its means are taken.

    The kernel is k(x, y) = sum_m exp(-||x - y||^2 / (m b)), b the mean squared distance over all pairs of
    the joined batches, taken as a constant.

    Attributes:
        own_pairs: whether b counts the pairs of a row with itself, whose distance is 0.
        diagonal: whether the means within a domain count k(x, x); if not the estimate may be negative.
        offset: c of the constant c / (B - 1) that is added.
        output: JAN's kernel of the classifier's output: multiples of b on logits, or a fixed width on
            probabilities.
    """

    own_pairs: bool
    diagonal: bool
    offset: float
    output: tuple[float, ...] | float


FEATURE_MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
ESTIMATES: Mapping[str, Estimate] = {
    "ta3n": Estimate(own_pairs=False, diagonal=True, offset=0, output=(0.5, 1.0)),
    "xlearn": Estimate(own_pairs=False, diagonal=False, offset=0, output=1.68),
    "tll": Estimate(own_pairs=True, diagonal=False, offset=2, output=2 * 0.92**2),
}


def discrepancy(layers: Sequence[tuple[Tensor, Tensor]], estimate: Estimate) -> Tensor:
    """The squared distance of two domains' kernel means.

    mean k(s, s') + mean k(t, t') - 2 mean k(s, t); the kernel of several layers is the product of theirs
    (JAN), the first layer being the video feature and the second the classifier's output.

    Args:
        layers: (source (B, .), target (B, .)) of each layer, equally many rows of both.

    Raises:
        ValueError: another number of rows, or fewer than two.
    """
    B = len(layers[0][0])
    if B < 2 or any(len(part) != B for layer in layers for part in layer):
        raise ValueError("Both domains must have equally many rows, two or more.")
    (source, target), *outputs = layers
    K = _gaussians(torch.cat([source, target]), FEATURE_MULTIPLES, estimate)
    for source, target in outputs:
        K = K * _output_kernel(torch.cat([source, target]), estimate)
    within = (K[:B, :B], K[B:, B:])
    if estimate.diagonal:
        own = sum(block.mean() for block in within)
    else:
        own = sum((block.sum() - block.diagonal().sum()) / (B * (B - 1)) for block in within)
    return own - 2 * K[:B, B:].mean() + estimate.offset / (B - 1)


def _output_kernel(logits: Tensor, estimate: Estimate) -> Tensor:
    if isinstance(estimate.output, tuple):
        return _gaussians(logits, estimate.output, estimate)
    return torch.exp(-_squared_distances(logits.softmax(dim=1)) / estimate.output)


def _gaussians(x: Tensor, multiples: Sequence[float], estimate: Estimate) -> Tensor:
    distances = _squared_distances(x)
    rows = len(x)
    pairs = rows * rows if estimate.own_pairs else rows * (rows - 1)
    bandwidth = distances.detach().sum() / pairs
    bandwidth = bandwidth.clamp_min(torch.finfo(x.dtype).tiny)  # all rows equal: every kernel is 1
    return torch.stack([torch.exp(-distances / (m * bandwidth)) for m in multiples]).sum(dim=0)


def _squared_distances(x: Tensor) -> Tensor:
    """||x_i - x_j||^2 by differences: products would lose small distances in float32."""
    return torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
