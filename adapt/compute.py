"""On what device, and in which number type, products are computed."""

from __future__ import annotations

import dataclasses
import logging

import torch

from adapt import methods
from adapt.config import AdaptConfig
from store.machine import device_name, has_fast_bfloat16

log = logging.getLogger(__name__)


def pick_device(asked: str, local_rank: int = 0) -> torch.device:
    """The device that `store.machine.device_name` names.

    Raises:
        ConfigError: no such device is here.
    """
    mps = torch.backends.mps.is_available()
    return torch.device(device_name(asked, torch.cuda.device_count(), local_rank, mps=mps))


def all_devices(asked: str) -> list[str]:
    """Return every device that `asked` allows: of auto and cuda all GPUs, else the one that is named.

    Raises:
        ConfigError: no such device is here.
    """
    picked = pick_device(asked)
    if picked.type == "cuda" and asked in ("auto", "cuda"):
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [str(picked)]


def resolve(config: AdaptConfig, device: torch.device, recorded: str | None = None) -> AdaptConfig:
    """The config with `--compute auto` replaced by what the hardware computes quickly, if it is read.

    Args:
        recorded: the number type of a run that is to be resumed, which stays.
    """
    if config.compute != "auto" or "compute" not in methods.find(config.method).reads:
        return config
    compute = recorded or ("bfloat16" if _has_bfloat16(device) else "float32")
    log.info("Computing in %s (--compute auto).", compute)
    return dataclasses.replace(config, compute=compute)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return has_fast_bfloat16()


def autocast(compute: str, device: torch.device) -> torch.autocast:
    """Products in `compute`; parameters, losses and the optimiser stay float32.

    Raises:
        ValueError: `compute` is still "auto" (see `resolve`).
    """
    if compute == "auto":
        raise ValueError('compute "auto" is not resolved.')
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute == "bfloat16")
