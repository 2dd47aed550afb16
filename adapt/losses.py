"""Losses on class predictions, with p = softmax(logits)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adapt.parallel import averaged


def exact(x: Tensor) -> Tensor:
    """The same in float32 or more: losses are float32 under autocast too."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def float64(x: Tensor) -> Tensor:
    """The same in float64; of Apple's GPU, which has no float64, on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def source_loss(logits_BN: Tensor, labels_B: Tensor) -> Tensor:
    """L_s = mean_b -log p_b[y_b], the cross entropy on the source's labels (eq. 1).

    Args:
        logits_BN, labels_B: of the source's videos, (B, N) and (B,) long.
    """
    return F.cross_entropy(logits_BN, labels_B)


def entropy(logits: Tensor, reduction: str = "sum") -> Tensor:
    """H(p) = -sum_n p_n log p_n in nats, (..., N) -> (...); `mean` is 1/N of that sum."""
    log_p = F.log_softmax(logits, dim=-1)
    terms = -log_p.exp() * log_p
    return terms.sum(dim=-1) if reduction == "sum" else terms.mean(dim=-1)


def target_entropy(logits_BN: Tensor, reduction: str) -> Tensor:
    """L_t = mean_b H(p_b), the entropy of the target's predictions (eq. 2).

    Args:
        logits_BN: of the target's videos, (B, N).
        reduction: over the classes, `sum` as in the paper or `mean` as in its authors' code.
    """
    return entropy(logits_BN, reduction).mean()


def diversity(logits_BN: Tensor) -> Tensor:
    """H(mean_b p_b) in nats, the entropy of the batch's mean prediction: large where all classes occur.

    Subtracted from the target's entropy it gives information maximisation (Krause et al. 2010; for
    adaptation Liang et al. 2020, SHOT), which keeps predictions from all becoming one class.
    """
    mean_N = averaged(logits_BN.softmax(dim=1).mean(dim=0))
    tiny = torch.finfo(mean_N.dtype).tiny  # no log of 0 for a class that is never predicted
    return -(mean_N * mean_N.clamp_min(tiny).log()).sum()
