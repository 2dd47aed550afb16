"""The training loop in plain sight, and the only `backward`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapt import methods, parallel
from adapt.bank import Bank, sample
from adapt.compute import autocast
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, Stream, TargetBatch, class_balanced, shuffled
from adapt.schedule import annealed, generator, named_seed, ramp
from store.errors import RunError

_PER_CLASS: Mapping[str, Callable[[Iterable[int]], int]] = {
    "smallest-class": min,
    "largest-class": max,
}


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Source with labels, target without. The target's labels are not even loaded."""

    source: Bank
    labels_V: Tensor
    target: Bank
    classes: Sequence[str]
    device: torch.device


class State:
    """All that an epoch changes. A run that loads a kept state goes on as if nothing had happened."""

    def __init__(self, config: AdaptConfig, data: TrainingData) -> None:
        torch.manual_seed(named_seed(config.seed, "weights and dropout"))
        self.epoch = 0
        self.device = data.device
        method = methods.find(config.method)
        self.model = method.model(config, data.source.width, len(data.classes)).to(data.device)
        self.branch: nn.Module | None = method.branch(config)
        if self.branch is not None:
            self.branch.to(data.device).train()
        self.losses = parallel.wrapped(_Losses(self.model, self.branch))
        """The method's losses as one module, which processes that train together share."""
        trained = [p for p in self.losses.parameters() if p.requires_grad]
        self.optimiser = _optimiser(config, trained, data.device)
        order = generator(config.seed, "source order")
        self.source: Stream = (
            shuffled(len(data.source), order)
            if config.source_sampling == "shuffled"
            else class_balanced(data.labels_V, order, _PER_CLASS[config.source_sampling])
        )
        self.target = shuffled(len(data.target), generator(config.seed, "target order"))
        self.source_frames, self.target_frames = (
            generator(config.seed, f"{domain} frames") for domain in ("source", "target")
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and names only."""
        return {
            "epoch": self.epoch,
            **{name: part.state_dict() for name, part in self._parts().items()},
            "source_frames": self.source_frames.get_state(),
            "target_frames": self.target_frames.get_state(),
            "dropout": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.epoch = state["epoch"]
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.source_frames.set_state(state["source_frames"])
        self.target_frames.set_state(state["target_frames"])
        torch.set_rng_state(state["dropout"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], self.device)

    def _parts(self) -> dict[str, Any]:
        parts = {
            "model": self.model,
            "branch": self.branch,
            "optimiser": self.optimiser,
            "source": self.source,
            "target": self.target,
        }
        return {name: part for name, part in parts.items() if part is not None}


class _Losses(nn.Module):
    def __init__(self, model: nn.Module, branch: nn.Module | None):
        super().__init__()
        self.model, self.branch = model, branch

    def forward(
        self, config: AdaptConfig, source: SourceBatch, target: TargetBatch, coefficient: float
    ) -> methods.Losses:
        return methods.find(config.method).losses(
            self.model, self.branch, source, target, config, coefficient
        )


def _optimiser(
    config: AdaptConfig, parameters: list[nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    shared: dict[str, Any] = {
        "lr": config.learning_rate,
        "weight_decay": config.weight_decay,
        "fused": device.type in ("cpu", "cuda"),
    }
    if config.optimiser == "adam":
        return torch.optim.Adam(parameters, **shared)
    nesterov = config.momentum > 0
    return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=nesterov, **shared)


def batch_sizes(config: AdaptConfig, data: TrainingData) -> tuple[int, int]:
    """Source and target videos of a step."""
    if config.target_batch == "equal":
        return config.batch_size, config.batch_size
    share = len(data.target) / len(data.source)
    return config.batch_size, max(1, round(config.batch_size * share))


def train(
    config: AdaptConfig,
    data: TrainingData,
    state: State,
    on_epoch: Callable[[dict[str, Any]], None],
) -> None:
    """Train from `state.epoch` to the last epoch; the state is changed in place.

    An epoch is one pass over the target's training videos: ceil(V_target / target videos of a step)
    steps, for every method, so that methods with the same batch are compared at equal numbers of steps.
    Both domains are drawn as endless shuffled streams, so every batch is full.

    Args:
        on_epoch: called after every epoch with its mean losses, and reversal and rate of its first step.

    Raises:
        RunError: a loss, or at an epoch's end a parameter of the model, is not finite.
    """
    steps = math.ceil(len(data.target) / batch_sizes(config, data)[1])
    while state.epoch < config.epochs:
        begin = time.monotonic()
        p = state.epoch / config.epochs
        coefficient = config.adversarial_weight * (
            ramp(p) if config.adversarial_ramp == "dann" else 1
        )
        rate = _set_rate(config, state, p)
        means = _epoch(config, data, state, steps, coefficient)
        state.epoch += 1
        on_epoch(
            {
                "epoch": state.epoch,
                **means,
                "reversal": coefficient,
                "learning_rate": rate,
                "seconds": time.monotonic() - begin,
            }
        )
    state.model.eval()


def _set_rate(config: AdaptConfig, state: State, p: float) -> float:
    """The learning rate after a share p of the training."""
    rate = config.learning_rate * (1 if config.rate_decay == "none" else annealed(p))
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    return rate


def step(
    config: AdaptConfig,
    state: State,
    source: SourceBatch,
    target: TargetBatch,
    coefficient: float,
) -> Mapping[str, Tensor]:
    """One step of the optimiser; returns the losses, which stay on the device.

    Args:
        source, target: this process's share of the batch.
    """
    with autocast(config.compute, state.device):
        losses = state.losses(config, source, target, coefficient)
    state.optimiser.zero_grad(set_to_none=True)
    losses.total.backward()
    if config.gradient_clip:
        nn.utils.clip_grad_norm_(state.losses.parameters(), config.gradient_clip)
    state.optimiser.step()
    return losses.parts


def _epoch(
    config: AdaptConfig, data: TrainingData, state: State, steps: int, coefficient: float
) -> dict[str, float]:
    """Mean losses of one epoch. No step waits for the device: losses are looked at after the last."""
    # Several draws of a video stand in the batch like several videos: losses are means.
    sizes = [size * config.draws for size in batch_sizes(config, data)]
    source_V, target_V = (
        stream.take(steps * size // config.draws).repeat_interleave(config.draws)
        for stream, size in zip((state.source, state.target), sizes)
    )
    centred = config.train_sampling == "centred"
    randoms = (None, None) if centred else (state.source_frames, state.target_frames)
    source_frames = sample(data.source, source_V, config.frames, randoms[0])
    target_frames = sample(data.target, target_V, config.frames, randoms[1])
    labels = data.labels_V[source_V].to(data.device)
    watch = _Watch()
    state.model.train()
    for i in range(steps):
        if config.rate_decay == "dann-step":
            _set_rate(config, state, (state.epoch + i / steps) / config.epochs)
        s, t = (parallel.share(slice(i * size, (i + 1) * size)) for size in sizes)
        source = SourceBatch(data.source.gather(source_V[s], source_frames[s]), labels[s])
        target = TargetBatch(data.target.gather(target_V[t], target_frames[t]))
        watch.add(step(config, state, source, target, coefficient))
    means = watch.means(state.epoch + 1)
    broken = [name for name, p in state.model.named_parameters() if not p.isfinite().all()]
    if broken:
        raise RunError(
            _not_finite(f"The parameter {broken[0]} is not finite after", state.epoch + 1)
        )
    return means


class _Watch:
    """Sums of the losses, and the first step at which each was not finite; both stay on the device."""

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}

    def add(self, parts: Mapping[str, Tensor]) -> None:
        self.steps += 1
        for name, loss in parts.items():
            value = loss.detach().double()
            never = torch.full_like(value, math.inf)
            bad = torch.where(value.isfinite(), never, never.new_full((), self.steps))
            self._sums[name] = self._sums.get(name, 0) + value
            self._first_bad[name] = torch.minimum(self._first_bad.get(name, never), bad)

    def means(self, epoch: int) -> dict[str, float]:
        first = {name: float(parallel.smallest(step)) for name, step in self._first_bad.items()}
        name = min(first, key=lambda name: first[name])
        if math.isfinite(first[name]):
            where = f"The {name} loss is not finite at step {first[name]:.0f} of {self.steps} in"
            raise RunError(_not_finite(where, epoch))
        return {
            name: float(parallel.averaged(value)) / self.steps for name, value in self._sums.items()
        }


def _not_finite(where: str, epoch: int) -> str:
    return (
        f"{where} epoch {epoch}. Try a smaller --learning-rate or --adversarial-weight, "
        "--bound layernorm or --compute float32."
    )
