"""Predictions, and the batch norm statistics that they use."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapt import methods
from adapt.bank import Bank, sample
from adapt.config import AdaptConfig
from adapt.data import TrainingData
from adapt.domain_norm import DomainBatchNorm
from adapt.losses import float64
from adapt.methods import Networks
from adapt.rows import Rows
from adapt.schedule import generator
from store.errors import RunError
from store.machine import return_freed_memory

_BATCH = 256


@dataclass(frozen=True)
class Predicted:
    """What a model says of V videos, on the CPU."""

    logits_VN: Tensor
    features_VC: NDArray[np.float64] | None
    """What the classifier sees of each video, None of a model that has no classifier."""

    @property
    def probabilities_VN(self) -> NDArray[np.float64]:
        """Every row sums to 1."""
        P_VN: NDArray[np.float64] = self.logits_VN.double().softmax(dim=1).numpy()
        return P_VN


def predict_with_features(model: nn.Module, bank: Bank, config: AdaptConfig) -> Predicted:
    """As `predict`, with what the layer called `classifier` was given, the mean over the draws."""
    classifier = getattr(model, "classifier", None)
    if not isinstance(classifier, nn.Module):
        return Predicted(predict(model, bank, config), None)
    features = Rows(len(bank))
    seen: list[Tensor] = []  # of the draws of one batch

    def after_batch() -> None:
        features.add(torch.stack(seen).mean(dim=0))
        seen.clear()

    handle = classifier.register_forward_pre_hook(lambda _, x: seen.append(float64(x[0])))
    try:
        logits_VN = _predict(model, bank, config, after_batch)
    finally:
        handle.remove()
    return Predicted(logits_VN, features.all().numpy())


def as_target(config: AdaptConfig, networks: Networks, data: TrainingData) -> nn.Module:
    """A copy of the model as it predicts the target's videos if training ends now."""
    copied = Networks(copy.deepcopy(networks.model), networks.branch)
    remember = methods.find(config.method).function("remember")
    if remember is not None:
        remember(copied, data, config)
    model: nn.Module = copied.model
    if config.statistics == "target":
        take_statistics(model, data.target, config.frames)
    return model.eval()


def as_source(config: AdaptConfig, networks: Networks, data: TrainingData) -> nn.Module:
    """A copy of the model for the source's videos: with their statistics where `as_target` has its own.

    A batch norm for each domain takes the source's in place of the target's.
    """
    model: nn.Module = copy.deepcopy(networks.model)
    for part in list(model.modules()):
        if isinstance(part, DomainBatchNorm):
            part.target = part.source
    if config.statistics == "target":
        take_statistics(model, data.source, config.frames)
    return model.eval()


def predict(model: nn.Module, bank: Bank, config: AdaptConfig) -> Tensor:
    """Logits (V, N) on the CPU: at segment centres, or the mean over `eval_draws` seeded random draws.

    The draws depend on the seed only, so the same checkpoint always gives the same answer. Always in float32.
    """
    return _predict(model, bank, config, lambda: None)


@torch.inference_mode()
def _predict(
    model: nn.Module, bank: Bank, config: AdaptConfig, after_batch: Callable[[], None]
) -> Tensor:
    model.eval()
    return_freed_memory()
    chosen = generator(config.seed, "evaluate") if config.eval_draws else None
    logits = Rows(len(bank))
    for videos_B in torch.arange(len(bank)).split(_BATCH):
        draws = [
            model(bank.gather(videos_B, sample(bank, videos_B, config.frames, chosen)))
            for _ in range(max(1, config.eval_draws))
        ]
        logits.add(torch.stack(draws).mean(dim=0))
        after_batch()
    return logits.all()


@torch.no_grad()
def take_statistics(model: nn.Module, bank: Bank, frames: int) -> None:
    """Replace the batch norms' statistics by those of these videos at segment centres, without labels.

    Layer after layer, each fed with what the layers before it give with their new statistics (AdaBN, Li
    et al. 2017). In place. Norms that prediction does not use, such as another domain's, stay as they are.

    Raises:
        RunError: there is only a single value, which has no variance.
    """
    model.eval()
    batches = torch.arange(len(bank)).split(_BATCH)
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]:
        return_freed_memory()
        seen: list[Tensor] = []
        handle = norm.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        sums: Tensor | None = None
        count = 0
        for number, videos_B in enumerate(batches):
            model(bank.gather(videos_B, sample(bank, videos_B, frames, None)))
            if not seen:
                break
            x = float64(seen.pop())
            count += len(x)  # of frames or of videos, whatever this norm sees
            if sums is None:
                sums = x.new_zeros((len(batches), 2, x.shape[1]))
            sums[number, 0], sums[number, 1] = x.sum(0), x.square().sum(0)
        handle.remove()
        if sums is None:
            continue
        if count < 2:
            raise RunError(
                "--statistics target needs more than one value of the target per batch norm, and "
                "there is one video of one frame. Use --statistics running."
            )
        mean_C, square_C = sums.sum(0) / count
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_((square_C - mean_C.square()) * (count / (count - 1)))
