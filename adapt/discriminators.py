"""Domain discriminators: all slots of a level as one batched product, and those of DANN and TA3N."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.data import SourceBatch, TargetBatch
from adapt.dropout import relu_drop
from adapt.initialise import initialise_linear
from adapt.parallel import world

SOURCE, TARGET = 0.0, 1.0
"""Domain labels d, here and nowhere else."""

DROPOUT = 0.2
"""Dropout rate of MA2L-TD's discriminators, as in the authors' code."""


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, coefficient: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return -ctx.coefficient * gradient, None


def reverse(x: Tensor, coefficient: float) -> Tensor:
    """Gradient reversal (Ganin et al.): the identity forward, minus `coefficient` times the gradient back."""
    result: Tensor = _Reverse.apply(x, coefficient)
    return result


class Discriminators(nn.Module):
    """Slot discriminators D_1 .. D_S of one level, each with its own parameters.

    Each is Linear(C, W), ReLU, Dropout, Linear(W, W), ReLU, Dropout, Linear(W, 1), with the values that
    `nn.Linear` starts from. The parameters are stacked as (S, in, out): three batched products instead of
    3 S small ones. With `shared` there is one set of parameters for all slots.
    """

    def __init__(self, slots: int, width: int, hidden: int, *, shared: bool = False) -> None:
        super().__init__()
        self.slots = slots
        sizes = (width, hidden, hidden, 1)
        stack = 1 if shared else slots
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(stack, n_in, n_out))
            for n_in, n_out in itertools.pairwise(sizes)
        )
        self.biases = nn.ParameterList(
            nn.Parameter(torch.empty(stack, 1, n_out)) for n_out in sizes[1:]
        )
        for weight, bias in zip(self.weights, self.biases):
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def initialise_linear(self, kind: str) -> None:
        """Start as `adapt.initialise` says."""
        for weight, bias in zip(self.weights, self.biases):
            initialise_linear(weight, bias, kind, weight.shape[1], weight.shape[2])

    def forward(self, features_BSC: Tensor, source_videos: int | None = None) -> Tensor:
        """(B, S, C) -> domain logits z_j (B, S).

        Args:
            source_videos: how many of the B videos, the first ones, are the source's; half if not given.

        Raises:
            ValueError: another number of slots.
        """
        B, S, C = features_BSC.shape
        if self.slots != S:
            raise ValueError(f"{self.slots} slot discriminators got features of {S} slots.")
        stack = len(self.weights[0])
        if source_videos is None and world() > 1:
            raise ValueError("Several processes need to know how many videos are the source's.")
        source = B // 2 if source_videos is None else source_videos
        rows = [videos * (1 if stack == S else S) for videos in (source, B - source)]
        x = features_BSC.transpose(0, 1) if stack == S else features_BSC.reshape(1, B * S, C)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            if layer:
                x = relu_drop(x, DROPOUT, domains=rows) if self.training else F.relu(x)
            x = torch.baddbmm(bias, x, weight)
        x = x.to(self.biases[0].dtype)  # losses are float32, whatever autocast made the products
        return x.squeeze(2).transpose(0, 1) if stack == S else x.view(B, S)


def domain_losses(logits: Tensor, domains_B: Tensor) -> Tensor:
    """Binary cross entropy of every logit against its video's domain, (B, ...) -> (B, ...)."""
    expanded = domains_B.view(-1, *(1 for _ in logits.shape[1:])).expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits, expanded, reduction="none")  # eq. 11


def domains_of(source: SourceBatch, target: TargetBatch) -> Tensor:
    """d of the videos of both, the source's first: (B,) in the features' type."""
    return torch.cat(
        [
            batch.features_BTD.new_full((len(batch.features_BTD),), d)
            for batch, d in ((source, SOURCE), (target, TARGET))
        ]
    )


class DomainClassifier(nn.Sequential):
    """Linear(C, C), ReLU, Linear(C, 2): the domain as one of two classes, (..., C) -> (..., 2)."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


class FrameVideoDiscriminators(nn.Module):
    """DANN's two discriminators, on every frame and on the video; TA3N's spatial and temporal ones.

    Args:
        frame_width, video_width: C of the frames' features and of the video's.
        frame_reversal, video_reversal: factors of the reversal coefficient, one per discriminator.
    """

    def __init__(
        self, *, frame_width: int, video_width: int, frame_reversal: float, video_reversal: float
    ) -> None:
        super().__init__()
        self.frame_reversal, self.video_reversal = frame_reversal, video_reversal
        self.frame = DomainClassifier(frame_width)
        self.video = DomainClassifier(video_width)

    def forward(
        self, frames_BTC: Tensor, video_BC: Tensor, coefficient: float
    ) -> tuple[Tensor, Tensor]:
        """Features of frames and videos -> domain logits (B, T, 2) and (B, 2).

        Args:
            coefficient: of the gradient reversal; each discriminator's own factor comes on top.
        """
        return (
            self.frame(reverse(frames_BTC, self.frame_reversal * coefficient)),
            self.video(reverse(video_BC, self.video_reversal * coefficient)),
        )


def domain_cross_entropy(logits: Tensor, domains_B: Tensor) -> Tensor:
    """Cross entropy of domain logits (B, ..., 2) against each video's d, mean over all of them."""
    classes = domains_B.long().view(-1, *(1 for _ in logits.shape[1:-1]))
    logits = logits.to(domains_B.dtype)  # the loss is float32 under autocast too
    return F.cross_entropy(logits.flatten(0, -2), classes.expand(logits.shape[:-1]).flatten())
