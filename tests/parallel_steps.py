"""Three steps in float64 on as many processes as torchrun started; the first writes what came out."""

from __future__ import annotations

import json
import os
import sys

import torch

from adapt import parallel
from adapt.bank import FeatureBank
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.loop import TrainingState, step
from adapt.methods import Progress

CPU = torch.device("cpu")


def main(path: str, given: str) -> None:
    torch.set_default_dtype(torch.float64)
    with parallel.group(os.environ, CPU):
        take_steps(path, given)


def take_steps(path: str, given: str) -> None:
    options = json.loads(given)
    preset = options.pop("preset", None)
    target_videos = options.pop("target_videos", 8)
    config = AdaptConfig.make(
        benchmark="toy", preset=preset, given={"compute": "float32", **options}
    )
    random = torch.Generator().manual_seed(0)
    features = [torch.rand(config.frames, 6, generator=random).numpy() for _ in range(8)]
    bank = FeatureBank(features, CPU)
    data = TrainingData(
        source=bank,
        labels_V=torch.arange(8) % 3,
        target=bank,
        classes=["a", "b", "c"],
        device=CPU,
    )
    state = TrainingState(config, data)
    source_BTD, target_BTD = (
        torch.randn(8, config.frames, 6, dtype=torch.float64, generator=random) + shift
        for shift in (0, 1)
    )
    own = parallel.share(slice(0, 8))
    own_target = parallel.share(slice(0, target_videos))
    losses = []
    for _ in range(3):
        source = SourceBatch(source_BTD[own], data.labels_V[own])
        parts = step(config, state, source, TargetBatch(target_BTD[own_target]), Progress(2, 5))
        losses.append(
            {name: parallel.averaged(part.detach()).item() for name, part in parts.items()}
        )
    first = parallel.rank() == 0
    parameters = state.networks.state_dict()
    gradients = {n: p.grad for n, p in state.forward.named_parameters() if p.grad is not None}
    if first:
        torch.save(
            {
                "losses": losses,
                "parameters": parameters,
                "gradients": {n.removeprefix("module."): g for n, g in gradients.items()},
                "random": torch.get_rng_state(),
                "world": parallel.world(),
            },
            path,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
