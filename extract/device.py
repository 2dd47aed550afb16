"""Which device computes; shared by both stages (torch, but neither torchvision nor decord)."""

from __future__ import annotations

import torch

from extract.errors import ConfigError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` -> a GPU where there is one; several processes on a machine share its GPUs in turn.

    Raises:
        ConfigError: cuda is asked for and absent.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and not gpus:
        raise ConfigError("There is no CUDA device here. Use --device cpu or --device auto.")
    if name == "cpu" or not gpus:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % gpus)
