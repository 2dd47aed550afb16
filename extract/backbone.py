"""RGB frames -> features: a torchvision classification model without its last layer.

Frames come resized and cropped (`extract/decode.py`); here they are normalised, on the device.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.transforms import functional as F

from extract.config import ExtractConfig
from extract.decode import DECODER, FrameOptions
from store.errors import ConfigError, WeightsError
from store.machine import device_name, has_fast_bfloat16

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_CALIBRATION_IMAGES = 32


class Backbone:
    """A loaded model on its device.

    Attributes:
        width: length of a feature.
        frames: what the decoders must do to a frame before it comes here.
        precision: the compute type, float32, bfloat16 or float16.
        batch: frames in one forward pass, always exactly these: a feature is then the same to the bit
            wherever in a batch its frame stands (measured on the CPU, tested).
        weights_note: where the weights came from, for people.
    """

    def __init__(self, options: ExtractConfig, *, local_rank: int = 0) -> None:
        """Build the model, load its weights, take off its last layer.

        Raises:
            ConfigError: no such model, no last linear layer, or an unsuitable image size.
            WeightsError: the weights cannot be found, read or used.
        """
        self.options = options
        self.device = torch.device(
            device_name(options.device, torch.cuda.device_count(), local_rank)
        )
        torch.backends.cudnn.allow_tf32 = False  # on by default, but float32 is to mean float32
        self.batch = options.batch or (128 if self.device.type == "cuda" else 16)
        model, self._digest, self.weights_note = _load_model(options.backbone, options.weights)
        self.frames, self._mean, self._std = _preprocessing(options)
        self.width = _remove_head(model, options.backbone)
        self._model = model.eval().requires_grad_(False).to(self.device)
        self._model = self._model.to(memory_format=torch.channels_last)
        auto = options.precision == "auto"
        self.precision = _precision_of(self.device) if auto else options.precision
        self._check_output()
        if options.compile:
            self._model = torch.compile(self._model, dynamic=False)  # type: ignore[assignment]

    @property
    def config(self) -> dict[str, Any]:
        """Everything that changes the numbers; its hash names the store."""
        return {
            "backbone": self.options.backbone,
            "weights_sha256": self._digest,
            "layer": "input of the last linear layer",
            "preset": self.options.preset,
            "resize": self.frames.resize,
            "crop": self.frames.crop,
            "interpolation": self.frames.interpolation,
            "antialias": True,
            "mean": list(self._mean),
            "std": list(self._std),
            "stride": self.frames.stride,
            "frames_per_video": self.frames.frames_per_video,
            "decoder": DECODER if self.options.input == "videos" else "images",
            "compute_dtype": self.precision,
            "stored_dtype": "float16",
        }

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """(F, crop, crop, 3) uint8 RGB, any F -> (F, width) float32, in full batches."""
        results = []
        for at in range(0, len(frames), self.batch):
            batch = self.staging()
            part = frames[at : at + self.batch]
            batch.numpy()[: len(part)] = part
            results.append(self.submit(batch)()[: len(part)])
        return np.concatenate(results)

    def staging(self) -> Tensor:
        """A buffer for one batch, (batch, crop, crop, 3) uint8 zeros in memory that the GPU can read."""
        shape = (self.batch, self.frames.crop, self.frames.crop, 3)
        return torch.zeros(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    @torch.inference_mode()
    def submit(self, frames: Tensor) -> Callable[[], np.ndarray]:
        """Start a forward pass of a `staging` buffer; the result, called, waits: (F, width) float32.

        On a GPU this returns at once, and the buffer must not change until the result is there.
        """
        features = self.forward(frames.to(self.device, non_blocking=True))
        if self.device.type != "cuda":
            return features.numpy
        copied = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        copied.copy_(features, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def result() -> np.ndarray:
            done.synchronize()
            return copied.numpy()

        return result

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        """(F, crop, crop, 3) uint8 on the device -> (F, width) float32 on the device."""
        images = frames.permute(0, 3, 1, 2).float().div_(255)  # channels_last, as it lies in memory
        images = F.normalize(images, self._mean, self._std, inplace=True)
        dtype = _DTYPES[self.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            features: Tensor = self._model(images)
        return features.float()

    def _check_output(self) -> None:
        side = self.frames.crop
        try:
            image = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=self.device)
            shape = tuple(self.forward(image).shape)
        except Exception as error:
            raise ConfigError(
                f"{self.options.backbone} does not take images of {side} x {side} pixels ({error}). "
                "Try --preset torchvision, which uses the sizes published with its weights."
            ) from error
        if shape != (1, self.width):
            raise ConfigError(
                f"{self.options.backbone} gives features of shape {shape[1:]}, expected ({self.width},)."
            )


def _precision_of(device: torch.device) -> str:
    """The compute type of `auto`, by the hardware alone: the same machine always makes the same store.

    float16 rounds eight times less than bfloat16 and is as fast on a GPU. Processors multiply bfloat16
    matrices in hardware or not at all.
    """
    if device.type == "cuda":
        return "float16"
    return "bfloat16" if has_fast_bfloat16() else "float32"


def has_weights(backbone: str, weights: str) -> bool:
    """Whether named torchvision weights are at hand or can be downloaded now."""
    try:
        with _short_network_timeout():
            _published(backbone, weights).get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError):
        return False
    return True


def _load_model(backbone: str, weights: str) -> tuple[nn.Module, str, str]:
    """The model with its weights, the sha256 that identifies them, and where they came from."""
    if backbone not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(
            f"torchvision has no classification model {backbone!r}. "
            "Examples: resnet101, resnet50, mobilenet_v2, convnext_tiny, vit_b_16, swin_t."
        )
    if seed := re.fullmatch(r"random:(\d+)", weights):
        return *_random_model(backbone, int(seed[1])), weights
    with torch.random.fork_rng(devices=[]):
        model = torchvision.models.get_model(backbone, weights=None, **_no_warning(backbone))
    if re.fullmatch(r"imagenet1k_\w+", weights):
        state, note = _download(backbone, weights), weights
    else:
        state, note = _read_state_dict(Path(weights)), Path(weights).name
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        lines = str(error).splitlines()
        raise WeightsError(
            f"{weights} does not hold the weights of {backbone}: {' '.join(lines[:2]).strip()}"
        ) from error
    return model, state_sha256(model.state_dict()), note


def _no_warning(backbone: str) -> dict[str, Any]:
    # These two ask on every construction to say whether to initialise; weights replace it anyway.
    return {"init_weights": False} if backbone in ("googlenet", "inception_v3") else {}


def _published(backbone: str, weights: str) -> Any:
    members = torchvision.models.get_model_weights(backbone)
    for member in members:
        if member.name.lower() == weights:
            return member
    names = ", ".join(m.name.lower() for m in members)
    raise WeightsError(f"torchvision publishes no {weights} weights for {backbone}, only: {names}.")


def _download(backbone: str, weights: str) -> Mapping[str, Tensor]:
    member = _published(backbone, weights)
    try:
        with _short_network_timeout():
            state: Mapping[str, Tensor] = member.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"Cannot get the {weights} weights of {backbone} ({str(error).splitlines()[0]}). "
            "Without a network: download\n"
            f"  {member.url}\non another machine and put the file into\n  {folder}\n"
            "or give its path as --weights PATH. To try the pipeline with meaningless features: "
            "--weights random:0"
        ) from error
    return state


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"There is no file {path}. --weights takes a torchvision name such as imagenet1k_v1, "
            "random:SEED, or the path of a state dict."
        )
    try:
        # weights_only: a state dict that would run code is refused.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} is not a state dict that can be loaded safely: {reason}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} is not a plain state dict (a mapping of names to tensors).")
    return state


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, types, shapes and bytes, sorted by name: the same for every file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _random_model(backbone: str, seed: int) -> tuple[nn.Module, str]:
    """A seeded untrained model whose batch norms were set by one pass over seeded patterns.

    With torchvision's untouched statistics, ResNet-101's pooled features are beyond float16 and nearly
    the same for all images (measured). The hash is taken before that pass: its sums differ in the last
    bit between machines, and `random:0` should name the same store on all of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kwargs = {"init_weights": True} if _no_warning(backbone) else {}
        model = torchvision.models.get_model(backbone, weights=None, **kwargs)
    digest = state_sha256(model.state_dict())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(_CALIBRATION_IMAGES, 3, 9, 9, generator=generator)
        images = nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic").clamp(0, 1)
        images = F.normalize(images, IMAGENET_MEAN, IMAGENET_STD)
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        with torch.inference_mode():
            model(images)
    return model, digest


def _remove_head(model: nn.Module, backbone: str) -> int:
    """Replace the last linear layer by the identity; returns its input width."""
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    outputs = 1000
    heads = [
        (name, m) for name, m in linear if m.out_features == outputs and "aux" not in name.lower()
    ]
    if not heads:
        raise ConfigError(f"{backbone} has no linear layer at its end to take off; choose another.")
    name, head = heads[-1]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return head.in_features


def _preprocessing(options: ExtractConfig) -> tuple[FrameOptions, list[float], list[float]]:
    """What the decoders do to a frame, and the mean and deviation that normalise it here."""
    frames = FrameOptions(
        resize=224,
        crop=224,
        stride=options.stride,
        frames_per_video=options.frames_per_video,
        keep_damaged=options.keep_damaged,
    )
    if options.preset == "ta3n":
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


@contextmanager
def _short_network_timeout(seconds: float = 20.0) -> Iterator[None]:
    """A network that swallows packets must not hang the run for minutes."""
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
