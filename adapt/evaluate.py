"""Predictions and accuracies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.bank import Bank, sample
from adapt.config import AdaptConfig
from adapt.schedule import generator

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracies in percent over `videos` videos."""

    overall: float
    class_mean: float
    """Mean over the classes that have videos of each one's accuracy."""
    low: float
    high: float
    """95 % Wilson interval of `overall`: what the finite number of videos alone leaves open."""
    videos: int


@torch.inference_mode()
def predict(model: nn.Module, bank: Bank, config: AdaptConfig) -> Tensor:
    """Logits (V, N) on the CPU: at segment centres, or the mean over `eval_draws` seeded random draws.

    The draws depend on the seed only, so the same checkpoint always gives the same answer. Always in float32.
    """
    model.eval()
    chosen = generator(config.seed, "evaluate") if config.eval_draws else None
    logits = []
    for videos_B in torch.arange(len(bank)).split(_BATCH):
        draws = [
            model(bank.gather(videos_B, sample(bank, videos_B, config.frames, chosen)))
            for _ in range(max(1, config.eval_draws))
        ]
        logits.append(torch.stack(draws).mean(dim=0).cpu())
    return torch.cat(logits)


@torch.no_grad()
def take_statistics(model: nn.Module, bank: Bank, frames: int) -> None:
    """Replace the batch norms' statistics by those of these videos at segment centres, without labels.

    Layer after layer, each fed with what the layers before it give with their new statistics (AdaBN, Li
    et al. 2017). In place.
    """
    model.eval()
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]:
        seen: list[Tensor] = []
        handle = norm.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        sums = []
        for videos_B in torch.arange(len(bank)).split(_BATCH):
            model(bank.gather(videos_B, sample(bank, videos_B, frames, None)))
            x = seen.pop().double()
            sums.append(torch.stack([x.sum(0), x.square().sum(0)]))
        handle.remove()
        count = len(bank) * frames
        mean_C, square_C = torch.stack(sums).sum(0) / count
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_((square_C - mean_C.square()) * (count / (count - 1)))


def accuracy(predicted_V: Tensor, labels_V: Tensor) -> Accuracy:
    """Compare predicted classes (V,) with the truth (V,)."""
    right_V = (predicted_V == labels_V).double()
    per_class = [right_V[labels_V == label].mean() for label in labels_V.unique()]
    low, high = wilson(int(right_V.sum()), len(right_V))
    return Accuracy(
        overall=100 * right_V.mean().item(),
        class_mean=100 * torch.stack(per_class).mean().item(),
        low=100 * low,
        high=100 * high,
        videos=len(right_V),
    )


def wilson(right: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson 1927)."""
    p = right / total
    centre = p + z * z / (2 * total)
    spread = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
