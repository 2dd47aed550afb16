"""The fused bfloat16 form of a backbone against the model as torchvision wrote it, in float32."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import slow
from PIL import Image
from test_extract import SMALL, error
from torch import Tensor, nn

from extract import fused
from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.decode import FrameOptions, prepare
from extract.weights import load_model
from store.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not fused.is_available(), reason="this processor computes no bfloat16 convolutions with oneDNN"
)
BFLOAT16 = dataclasses.replace(SMALL, precision="bfloat16")
DOCUMENTED_ERROR = 0.06
"""benchmarks/extract.md says so of ResNets with `random:0` on real frames."""


def run(model: nn.Module, x: Tensor, precision: torch.dtype = torch.bfloat16) -> np.ndarray:
    with (
        torch.inference_mode(),
        torch.autocast("cpu", dtype=precision, enabled=precision is torch.bfloat16),
    ):
        result: Tensor = model(x)
    return result.float().numpy()


def images(count: int = 4, side: int = 64) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = nn.functional.interpolate(coarse, size=(side, side), mode="bicubic") * 4 - 2
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v3_small", "shufflenet_v2_x1_0"),
        *(
            slow(name)
            for name in ("resnext50_32x4d", "mobilenet_v2", "densenet121", "regnet_y_400mf")
            + ("efficientnet_b0", "vgg11", "inception_v3", "googlenet")
        ),
    ],
)
def test_fusing_adds_no_error_to_that_of_bfloat16(name: str) -> None:
    model = load_model(name, "random:0")[0].eval()
    x = images(side=96)
    exact, plain = run(model, x, torch.float32), run(model, x)
    form = fused.fuse(model)
    kinds = Counter(type(module) for module in form.modules())
    assert not kinds[nn.Conv2d] and kinds[fused.FusedConv] >= 8
    assert error(run(form, x), exact) < 1.3 * error(plain, exact)


def test_a_resnet_is_nothing_but_fused_convolutions() -> None:
    form = fused.fuse(load_model("resnet50", "random:0")[0].eval())
    kinds = Counter(type(module) for module in form.modules() if not list(module.children()))
    # 53 convolutions; batch norms, ReLUs and additions are computed with them.
    expected = {fused.FusedConv: 53, nn.MaxPool2d: 1, nn.AdaptiveAvgPool2d: 1, nn.Linear: 1}
    assert kinds == expected
    assert not [n for n in form.graph.nodes if "add" in str(n.target)]


def conv(channels: int = 8) -> nn.Conv2d:
    return nn.Conv2d(channels, 8, 3, padding=1)


class Odd(nn.Module):
    """Sums whose addends are read again, in ways in which overwriting one would be wrong."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.way, self.stem, self.a, self.b, self.c = way, conv(3), conv(), conv(), conv(3)

    def forward(self, x: Tensor) -> Tensor:
        image, x = x, self.stem(x)
        if self.way == "read by a convolution whose own sum is later":
            y = self.c(image)
            late = self.a(x)
            first = self.b(image[:, :1].expand(-1, 8, -1, -1)) + x
            return late + y - first
        if self.way == "read by the sum's own convolution":
            return torch.relu(self.a(x) + x)
        if self.way == "read later by a convolution":
            y = torch.relu(self.a(self.b(x)) + x)
            return y + 2 * self.b(x)
        if self.way == "read later by something else":
            return torch.relu(self.a(self.b(x)) + x) * x
        if self.way == "viewed before":
            view = x.flatten(1)
            return (self.a(self.b(x)) + x).flatten(1) + view
        if self.way == "added to itself":
            return self.b(x) + self.b(x)
        if self.way == "scaled":
            return torch.add(self.a(self.b(x)), x, alpha=3)
        if self.way == "the result":
            return torch.cat([self.a(self.b(x)) + x, x])
        if self.way == "two sums, the other's activation later":
            first, second = self.a(self.b(x)) + x, self.stem.weight.sum() + x
            return torch.relu(first) + second
        if self.way == "broadcast":
            return self.b(self.a(x)) + self.a(x[:1])
        return self.a(self.b(x)) + x  # may be overwritten


@pytest.mark.parametrize(
    "way",
    ["read by the sum's own convolution", "read later by a convolution", "viewed before"]
    + ["read later by something else", "added to itself", "scaled", "the result"]
    + ["two sums, the other's activation later", "broadcast", "free"]
    + ["read by a convolution whose own sum is later"],
)
def test_what_is_read_again_is_not_overwritten(way: str) -> None:
    model = Odd(way).eval()
    exact = run(model, images(), torch.float32)
    assert error(run(fused.fuse(model), images()), exact) < 0.02


class Shared(nn.Module):
    """One convolution with two batch norms: folding either into it would change the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.conv, self.relu = conv(3), conv(), nn.ReLU(inplace=True)
        self.one, self.two = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.one.running_mean, self.two.running_var = torch.rand(8), torch.rand(8) + 3

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.relu(self.two(self.conv(self.relu(self.one(self.conv(x))))))


def test_a_convolution_that_is_called_twice_is_left_alone() -> None:
    model = Shared().eval()
    exact = run(model, images(), torch.float32)
    assert error(run(fused.fuse(model), images()), exact) < 0.02


@pytest.mark.parametrize("name", ["mobilenet_v3_small", slow("resnet18")])
def test_a_fused_feature_is_the_same_wherever_its_frame_stands_in_a_batch(name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (24, 224, 224, 3), np.uint8)
    backbone = Backbone(dataclasses.replace(BFLOAT16, backbone=name))
    whole = backbone(frames)
    np.testing.assert_array_equal(backbone(frames[5:9]), whole[5:9])
    np.testing.assert_array_equal(backbone(frames[::-1]), whole[::-1])
    again = Backbone(dataclasses.replace(BFLOAT16, backbone=name))
    np.testing.assert_array_equal(again(frames), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet101"])
def test_the_error_on_real_frames_is_what_the_documentation_says(clips: Path, name: str) -> None:
    options = FrameOptions(resize=224, crop=224)
    paths = sorted((clips / "ucf101").rglob("*.avi"))[:8]
    frames = np.stack([prepare(first_frame(path), options) for path in paths])
    exact, fast = (
        Backbone(ExtractConfig(backbone=name, weights="random:0", device="cpu", precision=p))(
            frames
        )
        for p in ("float32", "bfloat16")
    )
    assert 0.001 < error(fast, exact) < DOCUMENTED_ERROR


def first_frame(path: Path) -> Image.Image:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_image()


def test_the_config_says_how_it_was_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Backbone(BFLOAT16).config["inference"] == fused.FORM
    assert "inference" not in Backbone(SMALL).config
    monkeypatch.setattr("extract.fused.is_available", lambda: False)
    plain = Backbone(BFLOAT16)
    assert "inference" not in plain.config and plain.config["compute_dtype"] == "bfloat16"
    assert not any(isinstance(module, fused.FusedConv) for module in plain._model.modules())


def test_a_torch_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = fused.fuse

    def wrong(model: nn.Module) -> nn.Module:
        form = fuse(model)
        last = [module for module in form.modules() if isinstance(module, fused.FusedConv)][-1]
        last._name = "none"  # an activation that is left out
        return form

    monkeypatch.setattr("extract.fused.fuse", wrong)
    with pytest.raises(
        ConfigError, match=r"wrongly on this processor .* Use --precision float32\."
    ):
        Backbone(dataclasses.replace(BFLOAT16, backbone="resnet18"))
