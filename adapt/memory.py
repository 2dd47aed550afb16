"""Whether a run fits into memory, before anything large is made."""

from __future__ import annotations

import torch

from adapt import methods
from adapt.config import AdaptConfig
from adapt.data import TrainingData, batch_sizes
from store.errors import ConfigError, counted
from store.machine import available_memory

_FLOAT32 = 4


def parameter_counts(config: AdaptConfig, width: int, classes: int) -> tuple[int, int]:
    """How many parameters the predicting model has, and how many there are in training.

    The networks are built without values.

    Args:
        width: D, the backbone's width.
    """
    with torch.device("meta"):
        networks = methods.find(config.method).build(config, width, classes)
    model, every = (sum(p.numel() for p in m.parameters()) for m in (networks.model, networks))
    return model, every


def check_memory(config: AdaptConfig, data: TrainingData) -> None:
    """Refuse a config whose networks and batches cannot fit.

    Counted are parameters, their gradients, the optimiser's averages, and the features of one step: a
    lower bound of what training takes.

    Raises:
        ConfigError: it is more than the device has.
    """
    _, parameters = parameter_counts(config, data.source.width, len(data.classes))
    copies = 4 if config.optimiser == "adam" else 2 + (config.momentum > 0)
    videos = sum(batch_sizes(config, data)) * config.draws
    features = videos * config.frames * (data.source.width + config.width)
    needed = _FLOAT32 * (copies * parameters + features)
    on_gpu = data.device.type == "cuda"
    room = torch.cuda.mem_get_info(data.device)[1] if on_gpu else available_memory()
    if needed > room:
        raise ConfigError(
            f"These options need at least {needed / 1e9:,.1f} GB: {counted(parameters, 'parameter')}, and "
            f"{counted(videos, 'video')} of {counted(config.frames, 'frame')} in a step. {data.device} has "
            f"{room / 1e9:,.1f} GB. Lower what makes the networks or the batch large, e.g. "
            "--batch-size, --draws, --frames or --width."
        )
