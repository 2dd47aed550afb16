"""Losses on class predictions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adapt.parallel import averaged


def source_loss(logits_BN: Tensor, labels_B: Tensor) -> Tensor:
    """L_s: cross entropy on the source's labels, mean over videos (eq. 1)."""
    return F.cross_entropy(logits_BN, labels_B)


def entropy(logits: Tensor, reduction: str = "sum") -> Tensor:
    """Entropy of softmax(logits) in nats, (..., N) -> (...); `mean` is 1/N of the sum over classes."""
    log_p = F.log_softmax(logits, dim=-1)
    terms = -log_p.exp() * log_p
    return terms.sum(dim=-1) if reduction == "sum" else terms.mean(dim=-1)


def target_entropy(logits_BN: Tensor, reduction: str) -> Tensor:
    """L_t: entropy of the target's predictions, mean over videos (eq. 2).

    Over the classes it is summed as in the paper, or averaged as in the authors' code.
    """
    return entropy(logits_BN, reduction).mean()


def diversity(logits_BN: Tensor) -> Tensor:
    """Entropy of the mean prediction of the whole batch in nats: large where all classes are predicted.

    Subtracted from the target's entropy it gives information maximisation (Krause et al. 2010; for
    adaptation Liang et al. 2020, SHOT), which keeps predictions from all becoming one class.
    """
    mean_N = averaged(logits_BN.softmax(dim=1).mean(dim=0))
    tiny = torch.finfo(mean_N.dtype).tiny  # no log of 0 for a class that is never predicted
    return -(mean_N * mean_N.clamp_min(tiny).log()).sum()
