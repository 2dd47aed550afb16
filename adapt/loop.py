"""The training loop in plain sight, and the only `backward`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapt import methods, parallel
from adapt.compute import autocast
from adapt.config import AdaptConfig
from adapt.data import (
    SourceBatch,
    TargetBatch,
    TrainingData,
    batches,
    shuffled,
    source_stream,
    steps_of,
)
from adapt.methods import Networks, Progress, StepLosses
from adapt.recolour import check_recoloured, recolouring_for
from adapt.schedule import generator, learning_rate, named_seed, reversal_coefficient
from adapt.watch import LossWatch, check_parameters
from store.machine import return_freed_memory


class TrainingState:
    """All that an epoch changes. A run that loads a kept state goes on as if it had never stopped."""

    def __init__(self, config: AdaptConfig, data: TrainingData) -> None:
        torch.manual_seed(named_seed(config.seed, "weights and dropout"))
        self.epoch = 0
        self.device = data.device
        method = methods.find(config.method)
        self.networks = method.build(config, data.source.width, len(data.classes)).to(data.device)
        self.networks.train()
        prepare = method.function("prepare")
        if prepare is not None:
            prepare(self.networks, data, config)
        self.recolouring = recolouring_for(config, data.source.width)
        if self.recolouring is not None:
            self.recolouring.to(data.device)
            """What maps one domain's features in front of the networks; fitted before training."""
        self.forward = parallel.wrapped(_Forward(config, self.networks))
        """From a pair of batches to the method's losses: one module, which processes can share."""
        self.optimiser = _optimiser(config, self.networks, data.device)
        self.source = source_stream(config, data.labels_V, generator(config.seed, "source order"))
        self.target = shuffled(len(data.target), generator(config.seed, "target order"))
        self.source_frames = generator(config.seed, "source frames")
        self.target_frames = generator(config.seed, "target frames")

    @property
    def model(self) -> nn.Module:
        """What predicts."""
        model: nn.Module = self.networks.model
        return model

    @property
    def branch(self) -> nn.Module | None:
        """What exists in training only."""
        branch: nn.Module | None = self.networks.branch
        return branch

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
        """Go on from there.

        Raises:
            KeyError, RuntimeError, TypeError: the state is not one of this config.
        """
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.source_frames.set_state(state["source_frames"])
        self.target_frames.set_state(state["target_frames"])
        torch.set_rng_state(state["dropout"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        self.epoch = state["epoch"]

    def _parts(self) -> dict[str, Any]:
        names = ("networks", "source", "target", "optimiser", "recolouring")
        parts = {name: getattr(self, name) for name in names}
        return {name: part for name, part in parts.items() if part is not None}


class _Forward(nn.Module):
    def __init__(self, config: AdaptConfig, networks: Networks) -> None:
        super().__init__()
        self.networks = networks
        self._config = config
        self._losses = methods.find(config.method).function("losses")

    def forward(self, source: SourceBatch, target: TargetBatch, progress: Progress) -> StepLosses:
        losses: StepLosses = self._losses(self.networks, source, target, self._config, progress)
        return losses


def _optimiser(
    config: AdaptConfig, networks: Networks, device: torch.device
) -> torch.optim.Optimizer | None:
    """The optimiser of all that is trained, None where nothing is."""
    paces = methods.find(config.method).function("paces")
    groups: list[dict[str, Any]] = []
    faster: set[nn.Parameter] = set()
    for module, rate, decay in paces(networks, config) if paces is not None else ():
        own = [p for p in module.parameters() if p.requires_grad]
        faster |= set(own)
        groups.append({"params": own, "pace": rate, "weight_decay": decay * config.weight_decay})
    rest = [p for p in networks.parameters() if p.requires_grad and p not in faster]
    groups = [group for group in ({"params": rest}, *groups) if group["params"]]
    if not groups:
        return None
    shared: dict[str, Any] = {
        "lr": config.learning_rate,
        "weight_decay": config.weight_decay,
        "fused": device.type in ("cpu", "cuda"),
    }
    if config.optimiser == "adam":
        return torch.optim.Adam(groups, **shared)
    nesterov = config.momentum > 0
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=nesterov, **shared)


def train(
    config: AdaptConfig,
    data: TrainingData,
    state: TrainingState,
    on_epoch: Callable[[dict[str, Any]], None],
) -> None:
    """Train from `state.epoch` to the last epoch; the state is changed in place.

    An epoch is one pass over the target's training videos for every method, so that methods with the
    same batch are compared at equal numbers of steps. Both domains are drawn as endless streams.

    Args:
        data: as `adapt.recolour.recoloured` gives it, if there is an `--input-coral`.
        on_epoch: called after every epoch with its mean losses, and reversal and rate of its first step.

    Raises:
        RunError: a loss, or at an epoch's end a parameter of the model, is not finite.
    """
    method = methods.find(config.method)
    check_recoloured(config, data)
    fit = method.function("fit")
    if fit is not None and state.epoch == 0:
        begin = time.monotonic()
        chosen = fit(state.networks, data, config) or {}
        state.epoch = 1
        on_epoch({"epoch": 1, **chosen, "seconds": time.monotonic() - begin})
    steps = steps_of(config, data)
    while fit is None and state.epoch < config.epochs:
        begin, watch = time.monotonic(), LossWatch(config)
        progress = Progress(state.epoch, config.epochs, 0, steps)
        first = {"learning_rate": learning_rate(config, progress)}
        if "adversarial_weight" in method.reads:
            first["reversal"] = reversal_coefficient(config, progress.share)
        state.networks.train()
        streams, frames = (state.source, state.target), (state.source_frames, state.target_frames)
        for number, (source, target) in enumerate(batches(config, data, streams, frames)):
            progress = Progress(state.epoch, config.epochs, number, steps)
            watch.add(step(config, state, source, target, progress))
        state.epoch += 1
        means = watch.means(state.epoch)
        check_parameters(state.model, state.epoch, config)
        return_freed_memory()
        seconds = time.monotonic() - begin
        on_epoch({"epoch": state.epoch, **means, **first, "seconds": seconds})


def step(
    config: AdaptConfig,
    state: TrainingState,
    source: SourceBatch,
    target: TargetBatch,
    progress: Progress,
) -> Mapping[str, Tensor]:
    """One step of training; returns the losses, which stay on the device.

    Args:
        source, target: this process's share of the batch.
    """
    assert state.optimiser is not None
    for group in state.optimiser.param_groups:
        group["lr"] = group.get("pace", 1.0) * learning_rate(config, progress)

    def descend(loss: Tensor, modules: Sequence[nn.Module]) -> None:
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        assert state.optimiser is not None
        state.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(state.device.type, enabled=False):
            loss.backward(inputs=parameters)
        if config.gradient_clip:
            nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
        state.optimiser.step()  # skips parameters that have no gradient

    own_step = methods.find(config.method).function("step")
    with autocast(config.compute, state.device):
        if own_step is not None:
            parts: Mapping[str, Tensor] = own_step(
                state.networks, source, target, config, progress, descend
            )
            return parts
        losses = state.forward(source, target, progress)
    state.optimiser.zero_grad(set_to_none=True)
    losses.total.backward()
    if config.gradient_clip:
        nn.utils.clip_grad_norm_(state.networks.parameters(), config.gradient_clip)
    state.optimiser.step()
    return losses.parts
