"""Resize, crop and normalise on the device, with exactly the pixels of the plain PIL + torchvision pipeline.

PIL resizes in integers: first the rows, then the columns, each rounded to whole grey levels. The same
arithmetic in float32 moves one pixel in six by a level, because at sizes such as 240 to 224 many results
lie exactly between two levels; on untrained weights that is 5 % of the variation between frames
(measured). Integers give the same features on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms import functional as F

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BITS = 22
"""PIL's fixed point for 8-bit images: weights are whole multiples of 2^-22."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side, crop the centre, normalise. Sizes in pixels, resize >= crop."""

    resize: int
    crop: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __call__(self, frames: Tensor) -> Tensor:
        """(F, 3, H, W) uint8 -> (F, 3, crop, crop) float32, normalised."""
        images = self.pixels(frames).float().div_(255)
        return F.normalize(images, list(self.mean), list(self.std), inplace=True)

    def pixels(self, frames: Tensor) -> Tensor:
        """(F, 3, H, W) uint8 -> (F, 3, crop, crop) int32 grey levels 0..255."""
        short = min(frames.shape[2:])
        images = frames.int()
        for dim in (3, 2):
            size = int(self.resize * frames.shape[dim] / short)
            images = self._resize_and_crop(images, size, dim)
        return images

    def _resize_and_crop(self, images: Tensor, size: int, dim: int) -> Tensor:
        """Only the pixels that the crop keeps are computed."""
        begin = round((size - self.crop) / 2)
        index, weights = _taps(images.shape[dim], size, self.interpolation)
        index = index[begin : begin + self.crop].to(images.device)
        weights = weights[begin : begin + self.crop].to(images.device)
        along = (-1, 1) if dim == 2 else (-1,)
        total = torch.full((), 1 << (_BITS - 1), dtype=torch.int32, device=images.device)
        for tap in range(index.shape[1]):
            total = total + images.index_select(dim, index[:, tap]) * weights[:, tap].view(along)
        return (total >> _BITS).clamp_(0, 255)


@lru_cache(maxsize=64)
def _taps(size_in: int, size_out: int, interpolation: str) -> tuple[Tensor, Tensor]:
    """Which input pixels make an output pixel, (size_out, taps) long, and their int32 weights.

    Antialiased: where the image shrinks, the filter widens with it.
    """
    filter_, support = _FILTERS[interpolation]
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    reach = support * stretch
    taps = math.ceil(reach) * 2 + 1
    index = torch.zeros(size_out, taps, dtype=torch.long)
    weights = torch.zeros(size_out, taps, dtype=torch.int32)
    for out in range(size_out):
        centre = (out + 0.5) * scale
        begin = max(0, int(centre - reach + 0.5))
        end = min(size_in, int(centre + reach + 0.5))
        raw = [filter_((i - centre + 0.5) / stretch) for i in range(begin, end)]
        total = sum(raw)
        for tap, weight in enumerate(raw):
            fixed = weight / total * (1 << _BITS)
            index[out, tap] = begin + tap
            weights[out, tap] = int(fixed + math.copysign(0.5, fixed))
    return index, weights


def _bilinear(x: float) -> float:
    return max(0.0, 1 - abs(x))


def _bicubic(x: float, a: float = -0.5) -> float:
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


_FILTERS = {"bilinear": (_bilinear, 1.0), "bicubic": (_bicubic, 2.0)}
