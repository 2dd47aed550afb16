"""Losses of an epoch, summed where they are computed, and whether all of them were finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adapt import parallel
from adapt.config import AdaptConfig
from adapt.losses import float64
from store.errors import RunError


class LossWatch:
    """Sums of the losses, and the first step at which each was not finite; no step waits for either."""

    def __init__(self, config: AdaptConfig) -> None:
        self.steps = 0
        self._config = config
        self._sums: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Add the losses of one step, which stay on the device."""
        self.steps += 1
        for name, loss in parts.items():
            value = float64(loss.detach())
            never = torch.full_like(value, math.inf)
            bad = torch.where(value.isfinite(), never, never.new_full((), self.steps))
            self._sums[name] = self._sums.get(name, 0) + value
            self._first_bad[name] = torch.minimum(self._first_bad.get(name, never), bad)

    def means(self, epoch: int) -> dict[str, Any]:
        """The mean of each loss over the steps; of `group/name` the group's numbers by name.

        Raises:
            RunError: one was not finite at some step.
        """
        first = {name: float(parallel.smallest(step)) for name, step in self._first_bad.items()}
        name = min(first, key=lambda name: first[name])
        if math.isfinite(first[name]):
            where = f"The {name} loss is not finite at step {first[name]:.0f} of {self.steps} in"
            raise RunError(_not_finite(where, epoch, self._config))
        means: dict[str, Any] = {}
        for name, value in self._sums.items():
            group, slash, member = name.partition("/")
            mean = float(parallel.averaged(value)) / self.steps
            if slash:
                means.setdefault(group, {})[member] = mean
            else:
                means[name] = mean
        return means


def check_parameters(model: nn.Module, epoch: int, config: AdaptConfig) -> None:
    """Refuse to go on with a parameter that is not finite.

    Raises:
        RunError: there is one.
    """
    broken = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    if broken:
        where = f"The parameter {broken[0]} is not finite after"
        raise RunError(_not_finite(where, epoch, config))


def _not_finite(where: str, epoch: int, config: AdaptConfig) -> str:
    values = config.as_dict()
    remedies = ["a smaller --learning-rate"]
    if "adversarial_weight" in values:
        remedies.append("a smaller --adversarial-weight")
    if values.get("bound") == "none":
        remedies.append("--bound layernorm")
    if config.compute != "float32":
        remedies.append("--compute float32")
    return f"{where} epoch {epoch}. Try {' or '.join(remedies)}."
