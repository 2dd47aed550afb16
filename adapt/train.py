"""The training loop in plain sight, and the only `backward`."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapt import methods
from adapt.config import AdaptConfig
from adapt.data import FeatureBank, SourceBatch, TargetBatch, class_balanced, shuffled
from adapt.model import VideoClassifier
from adapt.schedule import annealed, generator, named_seed, ramp
from extract.errors import RunError


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Source with labels, target without. The target's labels are not even loaded."""

    source: FeatureBank
    labels_V: Tensor
    target: FeatureBank
    classes: Sequence[str]


def train(
    config: AdaptConfig,
    data: TrainingData,
    on_epoch: Callable[[int, VideoClassifier, dict[str, Any]], None],
) -> VideoClassifier:
    """Train and return the model after the last epoch.

    An epoch is one pass over the target's training videos: ceil(V_target / batch_size) steps, for every
    method, so that methods are compared at equal numbers of steps. Both domains are drawn as endless
    shuffled streams, so every batch is full.

    Args:
        on_epoch: called with the finished epochs, the model and the epoch's mean losses.

    Raises:
        RunError: a loss is not finite.
    """
    device = data.source.block.device
    torch.manual_seed(named_seed(config.seed, "weights and dropout"))
    model = VideoClassifier(data.source.width, config.width, len(data.classes), config.dropout)
    method = methods.find(config.method)
    branch = method.branch(config)
    model.to(device)
    parameters = list(model.parameters())
    if branch is not None:
        branch.to(device).train()
        parameters += [p for p in branch.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )

    labels_V = data.labels_V.to(device)
    order = generator(config.seed, "source order")
    source_batches = (
        class_balanced(data.labels_V, config.batch_size, order)
        if config.class_balanced
        else shuffled(len(data.source), config.batch_size, order)
    )
    target_batches = shuffled(
        len(data.target), config.batch_size, generator(config.seed, "target order")
    )
    source_frames, target_frames = (
        generator(config.seed, f"{domain} frames") for domain in ("source", "target")
    )
    steps = math.ceil(len(data.target) / config.batch_size)
    for epoch in range(config.epochs):
        begin = time.monotonic()
        p = epoch / config.epochs
        coefficient = config.adversarial_weight * ramp(p)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (annealed(p) if config.rate_decay == "dann" else 1)
        sums: dict[str, Tensor | float] = defaultdict(float)
        model.train()
        for _ in range(steps):
            # Several draws of a video stand in the batch like several videos: losses are means.
            source_B = next(source_batches).repeat_interleave(config.draws)
            target_B = next(target_batches).repeat_interleave(config.draws)
            source = SourceBatch(
                data.source.draw(source_B, config.frames, source_frames),
                labels_V[source_B.to(device)],
            )
            target = TargetBatch(data.target.draw(target_B, config.frames, target_frames))
            losses = method.losses(model, branch, source, target, config, coefficient)
            optimiser.zero_grad(set_to_none=True)
            losses.total.backward()
            optimiser.step()
            for name, value in losses.parts.items():
                sums[name] = sums[name] + value.detach()
        means = {name: float(value) / steps for name, value in sums.items()}
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise RunError(
                f"The {broken[0]} loss is not finite in epoch {epoch + 1}. Try a smaller "
                "--adversarial-weight or --learning-rate, or --bound layernorm."
            )
        on_epoch(
            epoch + 1,
            model,
            {
                **means,
                "reversal": coefficient,
                "learning_rate": optimiser.param_groups[0]["lr"],
                "seconds": time.monotonic() - begin,
            },
        )
    return model.eval()
