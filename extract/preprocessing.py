"""What is done to a frame before the model sees it, by preset. Sizes in pixels."""

from __future__ import annotations

import dataclasses

import torchvision

from extract import timm_models
from extract.config import ExtractConfig, is_timm
from extract.decode import FrameOptions
from extract.pixels import IMAGENET_MEAN, IMAGENET_STD


def preprocessing(options: ExtractConfig) -> tuple[FrameOptions, list[float], list[float]]:
    """What the decoders do to a frame, and the mean and deviation that normalise it on the device."""
    if is_timm(options.backbone):
        return timm_models.preprocessing(options)
    frames = FrameOptions(
        resize=224,
        crop=224,
        stride=options.stride,
        frames_per_video=options.frames_per_video,
        keep_damaged=options.keep_damaged,
    )
    if options.preset in ("auto", "ta3n"):
        return frames, IMAGENET_MEAN, IMAGENET_STD
    members = {m.name.lower(): m for m in torchvision.models.get_model_weights(options.backbone)}
    # Weights of one's own are taken to expect what the first published ones expect.
    member = members.get(options.weights, next(iter(members.values())))
    transforms = member.transforms()
    frames = dataclasses.replace(
        frames,
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
    )
    return frames, list(transforms.mean), list(transforms.std)
