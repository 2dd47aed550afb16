"""Predictions, and the batch norm statistics that they use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapt.bank import Bank, sample
from adapt.config import AdaptConfig
from adapt.schedule import generator
from store.errors import RunError

_BATCH = 256


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

    Raises:
        RunError: there is only a single value, which has no variance.
    """
    model.eval()
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]:
        seen: list[Tensor] = []
        handle = norm.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        sums, count = [], 0
        for videos_B in torch.arange(len(bank)).split(_BATCH):
            model(bank.gather(videos_B, sample(bank, videos_B, frames, None)))
            x = seen.pop().double()
            count += len(x)  # of frames or of videos, whatever this norm sees
            sums.append(torch.stack([x.sum(0), x.square().sum(0)]))
        handle.remove()
        if count < 2:
            raise RunError(
                "--statistics target needs more than one value of the target per batch norm, and "
                "there is one video of one frame. Use --statistics running."
            )
        mean_C, square_C = torch.stack(sums).sum(0) / count
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_((square_C - mean_C.square()) * (count / (count - 1)))
