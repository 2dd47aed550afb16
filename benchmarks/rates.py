"""What `benchmarks.extract` measures, each in frames per second. Knows torch; start it in a fresh process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms.functional import normalize

from extract import fused
from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.events import Frames
from extract.pool import DecoderPool
from extract.report import Progress
from extract.run import extract
from extract.videos import VideoFolder
from extract.weights import load_model
from store.machine import keep_freed_memory

_SECONDS = 6.0
Rate = tuple[float, dict[str, float]]
"""Frames per second, and the share of the time that went to each part, if it is known."""


def end_to_end(videos: Path, names: Sequence[str], options: ExtractConfig) -> Rate:
    """The `extract` stage from files to shards, its processes' start included, the model's loading not."""
    last: list[Progress] = []

    def note(progress: Progress) -> None:
        last[:] = [progress]

    with tempfile.TemporaryDirectory() as folder:
        report = extract(
            dataset="benchmark",
            videos=dict.fromkeys(names),
            video_roots=[videos],
            features=Path(folder),
            options=options,
            on_progress=note,
        )
    assert report.new_videos == len(names)
    spent = {name: getattr(last[0], name) for name in ("decoders", "backbone", "store")}
    spent["rest"] = max(0.0, report.seconds - sum(spent.values()))
    return report.new_frames / report.seconds, {
        name: seconds / report.seconds for name, seconds in spent.items()
    }


def decoders_alone(videos: Path, names: Sequence[str], options: ExtractConfig) -> Rate:
    """The decoding processes with nothing behind them, once they have started."""
    frames, begin = 0, 0.0
    backbone = Backbone(options)
    work = _paths(videos, names)
    with DecoderPool(work, backbone.frames, workers=torch.get_num_threads()) as pool:
        for event in pool:
            begin = begin or time.perf_counter()
            frames += len(event.images) if isinstance(event, Frames) else 0
    return frames / (time.perf_counter() - begin), {}


def video_features(videos: Path, names: Sequence[str], options: ExtractConfig, batch: int) -> Rate:
    """The way of the package video_features, as a plain loop: float32, one video after the other.

    OpenCV decodes a frame, PIL resizes and crops it, and whenever `batch` frames are together the model,
    as torchvision builds it, takes them.

    Raises:
        ImportError: OpenCV is not installed.
    """
    import cv2  # only for this comparison; not a dependency of the project

    backbone = Backbone(options)
    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Resize(backbone.frames.resize),
            transforms.CenterCrop(backbone.frames.crop),
            transforms.ToTensor(),
            transforms.Normalize(backbone.config["mean"], backbone.config["std"]),
        ]
    )
    model = _plain_model(options).to(backbone.device)
    frames, begin = 0, time.perf_counter()
    with torch.inference_mode():
        for _, path in _paths(videos, names):
            capture, waiting, features = cv2.VideoCapture(str(path)), [], []
            while True:
                there, image = capture.read()
                if there:
                    waiting.append(transform(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
                if len(waiting) == batch or (waiting and not there):
                    features.append(model(torch.stack(waiting).to(backbone.device)).cpu().numpy())
                    waiting = []
                if not there:
                    break
            capture.release()
            frames += len(np.concatenate(features))
    return frames / (time.perf_counter() - begin), {}


def best_batch(options: ExtractConfig, sizes: Sequence[int]) -> tuple[int, dict[int, float]]:
    """The batch with which the plain float32 model is fastest, and the rate of every size."""
    model = _plain_model(options)
    device = Backbone(options).device
    model = model.to(device)
    rates = {}
    for size in sizes:
        images = torch.rand(size, 3, 224, 224, device=device)
        rates[size] = _rate(lambda x=images: model(x), size, device)
    return max(rates, key=rates.__getitem__), rates


class Bare:
    """Forward passes with the input already there, normalised and on the device, and nothing else.

    The forms: how `extract` computes, and torch.compile with freezing (batch norms folded and weights
    laid out by the compiler), in the same number type, compiled here and not while it is timed.
    """

    def __init__(self, options: ExtractConfig) -> None:
        self.backbone = backbone = Backbone(options)
        if backbone.device.type == "cpu":
            keep_freed_memory()
        # Smooth patterns: on noise the rounding of bfloat16 is beyond what real frames show.
        coarse = torch.rand(backbone.batch, 3, 9, 9, generator=torch.Generator().manual_seed(0))
        images = nn.functional.interpolate(coarse, size=2 * [backbone.frames.crop], mode="bicubic")
        images = normalize(images, backbone.config["mean"], backbone.config["std"])
        self._images = images.to(backbone.device, memory_format=torch.channels_last)
        self.forms: dict[str, Callable[[Tensor], Tensor]] = {"form of extract": self._own}
        self.why_not_compiled = ""
        try:
            self.forms["torch.compile, frozen"] = self._compiled()
        except Exception as error:  # no C++ compiler, for one
            self.why_not_compiled = str(error).strip().splitlines()[0]

    def rate(self, form: str) -> float:
        """Frames per second of a form."""
        run = self.forms[form]
        return _rate(lambda: run(self._images), self.backbone.batch, self.backbone.device)

    def _own(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone.compute(images)
        return features

    def _compiled(self) -> Callable[[Tensor], Tensor]:
        import torch._inductor.config as inductor

        inductor.freezing = True
        dtype = getattr(torch, self.backbone.precision)
        model = _plain_model(self.backbone.options).to(self.backbone.device, dtype)
        compiled = torch.compile(model.to(memory_format=torch.channels_last), dynamic=False)

        def run(images: Tensor) -> Tensor:
            features: Tensor = compiled(images.to(dtype))
            return features

        with torch.inference_mode():
            exact = _plain_model(self.backbone.options)(self._images.cpu())
            own, found = (f(self._images).float().cpu() for f in (self._own, run))
        ratio = (found - exact).norm() / (own - exact).norm()
        if self.backbone.precision != "float32" and not ratio < 2:
            raise ArithmeticError(f"its error is {ratio:.1f} times that of the form of extract")
        return run


def form_of(backbone: Backbone) -> str:
    """How `extract` computes, in words."""
    return fused.FORM if "inference" in backbone.config else "as torchvision wrote it"


def _plain_model(options: ExtractConfig) -> nn.Module:
    model, _, _ = load_model(options.backbone, options.weights)
    heads = [name for name, module in model.named_children() if name in ("fc", "classifier")]
    for name in heads:
        setattr(model, name, nn.Identity())
    return model.eval().requires_grad_(False)


def _paths(videos: Path, names: Sequence[str]) -> list[tuple[str, Path]]:
    found = VideoFolder([videos])
    return [(name, root / path) for name in names for root, path in found.candidates(name)]


@torch.inference_mode()
def _rate(run: Callable[[], object], frames: int, device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    run()
    wait()
    passes, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < _SECONDS or passes < 2:
        run()
        passes += 1
        if device.type == "cpu" or passes % 20 == 0:
            wait()
    wait()
    return passes * frames / (time.perf_counter() - begin)
