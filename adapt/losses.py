"""Losses on class predictions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


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
