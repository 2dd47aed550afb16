"""RGB frames -> features: a classification model of torchvision or timm without its last layer.

Frames come resized and cropped (`extract/decode.py`); here they are normalised, on the device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import functional as F

from extract import fused, timm_models
from extract.config import ExtractConfig, is_timm
from extract.decode import DECODER
from extract.pixels import Pixels
from extract.preprocessing import preprocessing
from extract.weights import load_model, resolved
from store.errors import ConfigError
from store.machine import cores, device_name, has_fast_bfloat16

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MOST_ROUNDING = 2.0
"""Times the error of plain bfloat16: measured were 0.6 to 1.2 on 18 models of torchvision."""


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

    def __init__(self, options: ExtractConfig, *, local_rank: int = 0, plain: bool = False) -> None:
        """Build the model, load its weights, take off its last layer.

        Args:
            plain: compute the model as torchvision wrote it, even where another form is quicker.

        Raises:
            ConfigError: no such model, no last linear layer, or an unsuitable image size.
            WeightsError: the weights cannot be found, read or used.
        """
        self.options = options = resolved(options)
        mps = torch.backends.mps.is_available()
        self.device = torch.device(
            device_name(options.device, torch.cuda.device_count(), local_rank, mps=mps)
        )
        torch.backends.cudnn.allow_tf32 = False  # on by default, but float32 is to mean float32
        self.batch = options.batch or (128 if self.device.type == "cuda" else 16)
        model, self._digest, self.weights_note = load_model(options.backbone, options.weights)
        self.frames, self._mean, self._std = preprocessing(options)
        timm = is_timm(options.backbone)
        self._facts = timm_models.facts(options.backbone) if timm else {}
        self.width = timm_models.width_of(model) if timm else _remove_head(model, options.backbone)
        self._model = model.eval().requires_grad_(False).to(self.device)
        self._model = self._model.to(memory_format=torch.channels_last)
        auto = options.precision == "auto"
        self.precision = precision_of(self.device) if auto else options.precision
        self._check_output()
        self._fused = not plain and self._may_be_fused()
        if self._fused:
            self._fuse()

    @property
    def versions(self) -> dict[str, str]:
        """The version of timm where the model is one of its; it does not change the store's name."""
        return {"timm": timm_models.version()} if is_timm(self.options.backbone) else {}

    @property
    def config(self) -> dict[str, Any]:
        """Everything that changes the numbers; its hash names the store.

        `inference` is only there where the model is not computed as torchvision wrote it.
        """
        form = {"inference": fused.FORM} if self._fused else {}
        return {
            **form,
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
            **self._facts,
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

    def module(self) -> Pixels:
        """A copy of the loaded model, with the normalisation of its pixels, as one module."""
        model = copy.deepcopy(self._model).to(memory_format=torch.contiguous_format)
        return Pixels(model, self._mean, self._std)

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
            return lambda: features.cpu().numpy()
        copied = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        copied.copy_(features, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))  # the default is of the first GPU

        def result() -> np.ndarray:
            done.synchronize()
            return copied.numpy()

        return result

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        """(F, crop, crop, 3) uint8 on the device -> (F, width) float32 on the device."""
        images = frames.permute(0, 3, 1, 2).float().div_(255)  # channels_last, as it lies in memory
        images = F.normalize(images, self._mean, self._std, inplace=True)
        return self.compute(images).float()

    @torch.inference_mode()
    def compute(self, images: Tensor) -> Tensor:
        """(F, 3, crop, crop) float32, normalised, on the device -> (F, width) in the compute type."""
        dtype = _DTYPES[self.precision]
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            features: Tensor = self._model(images)
        return features

    def _may_be_fused(self) -> bool:
        # float32 is the reference: the model as it was published. On a GPU nothing was measured.
        if self.device.type != "cpu" or self.precision != "bfloat16":
            return False
        return fused.is_available() and fused.is_traceable(self._model)

    @torch.inference_mode()
    def _fuse(self) -> None:
        """Put the model into the form of `extract/fused.py`, and see that it still computes the same.

        Raises:
            ConfigError: the result is further from float32 than bfloat16 explains. The operators
                are not public ones of torch, so another version could change them without a word.
        """
        frames = self.staging()
        # Patches of one colour: on noise bfloat16 rounds so badly that little else would show.
        patches = torch.randint(0, 256, (2, 7, 7, 3), generator=torch.Generator().manual_seed(0))
        times, side = -(-self.frames.crop // 7), self.frames.crop
        images = patches.repeat_interleave(times, 1).repeat_interleave(times, 2)
        frames[:2] = images[:, :side, :side]
        plain_FD = self.forward(frames[:2])
        self.precision = "float32"
        exact_FD = self.forward(frames[:2])
        self.precision = "bfloat16"
        self._model = fused.fuse(self._model)
        fused_FD = self.forward(frames)[:2]
        if not exact_FD.isfinite().all():
            return  # damaged weights: such features are refused video by video
        expected, found = ((x - exact_FD).norm().item() for x in (plain_FD, fused_FD))
        if not found <= _MOST_ROUNDING * expected + 1e-3 * exact_FD.norm().item():
            raise ConfigError(
                f"torch {torch.__version__} computes {self.options.backbone} wrongly on this processor in "
                f"bfloat16 with folded batch norms: the error against float32 is {found:.3g}, where "
                f"{expected:.3g} is usual. Use --precision float32."
            )

    def _check_output(self) -> None:
        side = self.frames.crop
        try:
            image = torch.zeros(1, side, side, 3, dtype=torch.uint8, device=self.device)
            shape = tuple(self.forward(image).shape)
        except Exception as error:
            advice = "Try --preset torchvision, which uses the sizes published with its weights."
            raise ConfigError(
                f"{self.options.backbone} does not take images of {side} x {side} pixels ({error}). "
                f"{'Choose another model.' if self._facts else advice}"
            ) from error
        if shape != (1, self.width):
            raise ConfigError(
                f"{self.options.backbone} gives features of shape {shape[1:]}, expected ({self.width},)."
            )


def worker_count(device: torch.device) -> int:
    """How many decoding processes feed a backbone on this device."""
    if device.type == "cpu":
        return torch.get_num_threads()  # they take turns with the backbone on the same cores
    return min(16, cores() // max(1, torch.cuda.device_count()) or 1)


def precision_of(device: torch.device) -> str:
    """The compute type of `auto`, by the hardware alone: the same machine always makes the same store.

    float16 rounds eight times less than bfloat16 and is as fast on a GPU. Processors multiply bfloat16
    matrices in hardware or not at all.
    """
    if device.type == "cuda":
        return "float16"
    return "bfloat16" if has_fast_bfloat16() else "float32"


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
