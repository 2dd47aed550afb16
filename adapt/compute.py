"""How the machine computes: number type, and memory that is kept between steps."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import torch
from torch import Tensor

from adapt.config import AdaptConfig
from adapt.runs import RunFolder
from store.machine import device_name

log = logging.getLogger(__name__)

_PAYS = 1.25
"""bfloat16 rounds more: it has to be that much faster."""


def resolve(config: AdaptConfig, device: torch.device, folder: Path) -> AdaptConfig:
    """The config with its compute type decided, which a run that stands in `folder` has done already."""
    if config.compute != "auto":
        return config
    standing = sorted(folder.rglob("config.json"))
    compute = RunFolder(standing[0].parent).read()[0].compute if standing else _faster(device)
    log.info("Computing in %s%s (--compute auto).", compute, ", as before" if standing else "")
    return dataclasses.replace(config, compute=compute)


def _faster(device: torch.device) -> str:
    """float32 or bfloat16, by timing the products of eight slot discriminators in both."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float32"
    random = torch.Generator().manual_seed(0)
    x, w = (torch.randn(8, rows, 1024, generator=random).to(device) for rows in (64, 1024))
    exact, rounded = (_seconds(x.to(t), w.to(t)) for t in (torch.float32, torch.bfloat16))
    return "bfloat16" if exact / rounded > _PAYS else "float32"


def autocast(compute: str, device: torch.device) -> torch.autocast:
    """Products in `compute`; parameters, losses and the optimiser stay float32.

    Raises:
        ValueError: `compute` is still "auto" (see `resolve`).
    """
    if compute == "auto":
        raise ValueError('compute "auto" is not resolved.')
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=compute == "bfloat16")


def pick_device(asked: str, local_rank: int = 0) -> torch.device:
    """The device that `store.machine.device_name` names.

    Raises:
        ConfigError: cuda is asked for and absent.
    """
    return torch.device(device_name(asked, torch.cuda.device_count(), local_rank))


def _seconds(x: Tensor, w: Tensor) -> float:
    """The fastest of five, so that a busy moment does not decide."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        y = torch.bmm(torch.bmm(x, w), w.transpose(1, 2))
        y.sum().item()  # waits for a GPU
        times.append(time.perf_counter() - begin)
    return min(times)
