"""Models without weights: as torchvision builds them, and seeded ones whose features tell frames apart."""

from __future__ import annotations

import re
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.transforms import functional as F

from extract.pixels import IMAGENET_MEAN, IMAGENET_STD
from store.errors import WeightsError, shortened

_CALIBRATION_IMAGES = 32


def seed_of(weights: str) -> int | None:
    """The seed that `random:SEED` names; None for other weights.

    Raises:
        WeightsError: torch takes no seed that large.
    """
    found = re.fullmatch(r"random:(\d+)", weights)
    if found is None:
        return None
    digits = found[1].lstrip("0") or "0"
    if len(digits) > 20 or int(digits) >= 1 << 64:
        raise WeightsError(
            f"--weights random:SEED takes a seed below 2^64, got {shortened(weights)}."
        )
    return int(digits)


def build_model(backbone: str, *, seed: int | None = None) -> nn.Module:
    """A torchvision classification model, initialised from the seed; without one the values mean nothing.

    The global random state is left as it was.
    """
    # These two ask on every construction to say whether to initialise; weights replace it anyway.
    asks = backbone in ("googlenet", "inception_v3")
    arguments: dict[str, Any] = {"init_weights": seed is not None} if asks else {}
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        model: nn.Module = torchvision.models.get_model(backbone, weights=None, **arguments)
    return model


def calibrate_batch_norms(model: nn.Module, seed: int, *, side: int = 224) -> None:
    """Set the statistics of the model's batch norms by one pass over seeded patterns.

    With torchvision's untouched statistics, ResNet-101's pooled features are beyond float16 and nearly
    the same for all images (measured).

    Args:
        side: height and width of the images, in pixels.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(_CALIBRATION_IMAGES, 3, 9, 9, generator=generator)
    images = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    images = F.normalize(images, IMAGENET_MEAN, IMAGENET_STD)
    model.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.inference_mode():
        model(images)
