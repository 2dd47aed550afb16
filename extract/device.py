"""Which device computes; shared by both stages (torch, but neither torchvision nor decord)."""

from __future__ import annotations

import torch

from extract.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """`auto` -> a GPU where there is one.

    Raises:
        ConfigError: cuda is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("There is no CUDA device here. Use --device cpu or --device auto.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
