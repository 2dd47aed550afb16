"""Losses on class predictions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adapt.parallel import averaged


def source_loss(logits_BN: Tensor, labels_B: Tensor) -> Tensor:
    """L_s: cross entropy on the source's labels, mean over videos (eq. 1)."""
    return F.cross_entropy(logits_BN, labels_B)


def target_entropy(logits_BN: Tensor, reduction: str) -> Tensor:
    """L_t: entropy of the target's predictions in nats, mean over videos (eq. 2).

    Over the classes it is summed as in the paper, or averaged (1/N of it) as in the authors' code.
    """
    log_p_BN = F.log_softmax(logits_BN, dim=1)
    terms_BN = -log_p_BN.exp() * log_p_BN
    per_video_B = terms_BN.sum(dim=1) if reduction == "sum" else terms_BN.mean(dim=1)
    return per_video_B.mean()


def diversity(logits_BN: Tensor) -> Tensor:
    """Entropy of the mean prediction of the whole batch in nats: large where all classes are predicted.

    Subtracted from the target's entropy it gives information maximisation (Krause et al. 2010; for
    adaptation Liang et al. 2020, SHOT), which keeps predictions from all becoming one class.
    """
    mean_N = averaged(logits_BN.softmax(dim=1).mean(dim=0))
    tiny = torch.finfo(
        mean_N.dtype
    ).tiny  # a class that nothing is predicted as must not give log 0
    return -(mean_N * mean_N.clamp_min(tiny).log()).sum()
