"""Backbones of timm against timm itself, called by hand; the smallest of its models, and no network."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import slow
from PIL import Image
from test_extract import error, frames_by_pyav

import adapt
from extract import fused
from extract.again import backbone_by
from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.decode import prepare
from extract.preprocessing import preprocessing
from extract.synthetic import make_collection
from extract.weights import resolved
from store.errors import ConfigError, WeightsError
from store.format import store_folder
from store.read import FeatureStore
from store.recipe import Recipe

timm = pytest.importorskip("timm")
SMALL = ("test_vit", "test_convnext", "test_vit2", "convnextv2_atto", "vit_tiny_patch16_224")


def options(name: str, weights: str = "random:0", **more: Any) -> ExtractConfig:
    given = {"device": "cpu", "precision": "float32", **more}
    return ExtractConfig(backbone=f"timm:{name}", weights=weights, **given)


def pictures(count: int = 3) -> list[Image.Image]:
    random = np.random.default_rng(0)
    images = (random.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(count))
    sizes = [(320, 240), (240, 320), (401, 299)]
    return [
        Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        for image, size in zip(images, sizes)
    ]


def by_timm(name: str, state: dict[str, torch.Tensor], images: list[Image.Image]) -> np.ndarray:
    """What timm's own model gives of what timm's own transform makes of images."""
    model = timm.create_model(name, num_classes=0).eval()
    model.load_state_dict(state)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        return torch.stack([model(transform(image)[None])[0] for image in images]).numpy()


@pytest.mark.parametrize(
    "name",
    [
        *SMALL,
        slow("vit_small_patch14_dinov2"),
        slow("vit_base_patch32_clip_224"),
    ],
)
def test_features_are_those_of_timm(name: str) -> None:
    backbone = Backbone(options(name, batch=3), plain=True)
    images = pictures()
    found = backbone(np.stack([prepare(image, backbone.frames) for image in images]))
    expected = by_timm(name, backbone._model.state_dict(), images)
    assert found.shape == expected.shape == (3, backbone.width)
    # The same pixels; what is left is float32 in batches of another size.
    assert error(found, expected) < 1e-4
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert (unit @ unit.T).min() < 0.999  # random weights tell frames apart, or nothing is tested


@pytest.mark.parametrize(
    "name",
    [
        *("vit_small_patch14_dinov2", "vit_base_patch16_clip_224.openai", "convnextv2_atto"),
        *(
            "vit_base_patch16_siglip_512.webli",
            "resnet18.tv_in1k",
            "vit_base_patch16_siglip_384.webli",
        ),
        "convnext_base.fb_in22k_ft_in1k_384",  # squashed
    ],
)
def test_frames_are_prepared_as_timm_does(name: str) -> None:
    frames, mean, std = preprocessing(resolved(options(name)))
    published = timm.get_pretrained_cfg(name).to_dict()
    config = timm.data.resolve_data_config(pretrained_cfg=published)
    transform = timm.data.create_transform(**config)
    for image in pictures():
        ours = torch.from_numpy(prepare(image, frames).copy()).permute(2, 0, 1).float() / 255
        ours = (ours - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(ours, transform(image), atol=1e-5, rtol=0)


def test_the_config_says_what_is_done_to_a_frame() -> None:
    config = Backbone(options("convnextv2_atto")).config
    assert config["backbone"] == "timm:convnextv2_atto.fcmae_ft_in1k"
    assert (config["preset"], config["crop_mode"]) == ("timm", "center")
    assert (config["resize"], config["crop"], config["crop_pct"]) == (256, 224, 0.875)
    assert config["interpolation"] == "bicubic" and config["mean"] == [0.485, 0.456, 0.406]
    assert config["layer"] == "pooled, before the classifier (timm, num_classes=0)"
    folder = store_folder(Path("f"), "d", config)
    assert re.fullmatch(r"timm-convnextv2_atto.fcmae_ft_in1k-[0-9a-f]{8}", folder.name)


def test_the_tag_decides_the_pixels_and_stands_in_the_name_or_in_the_weights() -> None:
    by_name = resolved(options("vit_base_patch16_224.mae", "auto"))
    by_weights = resolved(options("vit_base_patch16_224", "mae"))
    assert by_name == by_weights and by_name.weights == "mae"
    assert preprocessing(by_name)[1] == [0.485, 0.456, 0.406]
    assert preprocessing(resolved(options("vit_base_patch16_224")))[1] == [0.5, 0.5, 0.5]
    with pytest.raises(ConfigError, match=r"names the weights mae, --weights dino\. Name one"):
        resolved(options("vit_base_patch16_224.mae", "dino"))


@pytest.mark.slow
@pytest.mark.skipif(not fused.is_available(), reason="no bfloat16 convolutions with oneDNN")
def test_the_fused_form_where_torch_can_trace_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Backbone(options("convnextv2_atto"))
    frames = np.stack([prepare(image, exact.frames) for image in pictures()])
    quick = Backbone(options("convnextv2_atto", precision="bfloat16"))
    assert quick.config["inference"] == fused.FORM and "inference" not in exact.config
    assert error(quick(frames), exact(frames)) < 0.1

    def refuse(model: torch.nn.Module) -> None:
        raise torch.fx.proxy.TraceError("it asks for a number")

    monkeypatch.setattr(fused.fx, "symbolic_trace", refuse)
    plain = Backbone(options("convnextv2_atto", precision="bfloat16"))
    assert "inference" not in plain.config and plain.precision == "bfloat16"
    assert error(plain(frames), exact(frames)) < 0.1


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_weights_from_a_file_with_or_without_the_classifier(
    name: str, suffix: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save = save_file if suffix == "safetensors" else torch.save
    whole = timm.create_model(name, num_classes=10).state_dict()
    model = timm.create_model(name, num_classes=0)
    headless = {key: value for key, value in whole.items() if key in model.state_dict()}
    assert len(headless) < len(whole)
    for file, state in (("whole", whole), ("headless", headless)):
        save(state, str(tmp_path / f"{file}.{suffix}"))
    configs = [
        Backbone(options(name, str(tmp_path / f"{file}.{suffix}"))).config
        for file in ("whole", "headless")
    ]
    assert configs[0] == configs[1]
    del headless[next(key for key in headless if "norm" in key)]
    torch.save(headless, tmp_path / "lacking.pth")
    with pytest.raises(WeightsError, match=r"weights of timm:.*: 1 missing \(first: .*norm"):
        Backbone(options(name, str(tmp_path / "lacking.pth")))
    torch.save({**whole, "other.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match=r": 1 unknown \(first: other\.weight\)"):
        Backbone(options(name, str(tmp_path / "more.pth")))


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"timm has no model 'convnextv2_ato'\. .*convnextv2_atto"
    ):
        Backbone(options("convnextv2_ato"))
    with pytest.raises(ConfigError, match=r"no weights 'x' of test_vit\. It has: r160_in1k"):
        Backbone(options("test_vit.x"))
    with pytest.raises(WeightsError, match=r"no file x\. --weights takes a tag of timm \(of this"):
        Backbone(options("test_vit", "x"))
    with pytest.raises(ConfigError, match="--preset ta3n is not for --backbone timm:test_vit"):
        options("test_vit", preset="ta3n")
    with pytest.raises(ConfigError, match="--preset timm is not for --backbone resnet18"):
        ExtractConfig(backbone="resnet18", preset="timm")
    border = next(
        n for n in timm.list_pretrained() if timm.get_pretrained_cfg(n).crop_mode == "border"
    )
    with pytest.raises(ConfigError, match="only square RGB ones, cropped or squashed"):
        preprocessing(resolved(options(border)))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[timm\]' in the folder"):
        Backbone(options("test_vit"))


def test_without_a_network_it_says_where_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    build = timm.create_model

    def offline(name: str, *, pretrained: bool, num_classes: int) -> torch.nn.Module:
        if pretrained:
            raise OSError("We couldn't connect\nto the hub")
        return build(name, num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError) as refused:
        Backbone(options("test_vit", "auto"))
    assert "(We couldn't connect). Without a network: download model.safetensors" in str(
        refused.value
    )
    assert "repository timm/test_vit.r160_in1k" in str(refused.value)
    assert "--weights PATH" in str(refused.value)


def test_published_weights_are_loaded_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(7)
    published = timm.create_model("test_vit", num_classes=0).state_dict()
    build = timm.create_model

    def online(name: str, *, pretrained: bool, num_classes: int) -> torch.nn.Module:
        model = build(name, num_classes=num_classes)
        if pretrained:
            assert name == "test_vit.r160_in1k"
            model.load_state_dict(published)
        return model

    monkeypatch.setattr(timm, "create_model", online)
    first = Backbone(options("test_vit", "auto"))
    assert first.weights_note == "r160_in1k"
    for key, value in first._model.state_dict().items():
        assert torch.equal(value, published[key])
    again = backbone_by(Recipe(first.config, first.weights_note), device="cpu")
    assert again.config == first.config


def test_the_whole_road(tmp_path: Path, cli) -> None:
    for domain in ("day", "night"):
        make_collection(tmp_path / domain, domain, per_action=2)
    places = ("--features", tmp_path / "features", "--manifests", tmp_path / "manifests")
    pairs = [f"--domain={d}={tmp_path / d}" for d in ("day", "night")]
    run = tmp_path / "run"
    given = ("--backbone", "timm:test_vit", "--weights", "random:0", "--precision", "float32")
    for arguments in (
        ("manifest", "from-folder", "--benchmark", "mine", "--eval-fraction", 0.5, *pairs)
        + places[2:],
        *(
            ("extract", "--dataset", d, "--videos", tmp_path / d, "--device", "cpu", *places)
            + given
            for d in ("day", "night")
        ),
        ("adapt", "--source", "day", "--target", "night", "--epochs", 1, "--levels", 2, *places)
        + ("--batch-size", 4, "--run", run, "--device", "cpu", "--compute", "float32"),
    ):
        done = cli(*arguments)
        assert done.exit_code == 0, done.output
    [store] = (tmp_path / "features" / "night").iterdir()
    assert store.name.startswith("timm-test_vit.r160_in1k-")
    index = json.loads((store / "index.json").read_text())
    assert index["run"]["timm"] == timm.__version__
    clip = tmp_path / "night" / "spin" / "spin_01.mp4"
    state = Backbone(options("test_vit"))._model.state_dict()
    expected = by_timm("test_vit", state, [Image.fromarray(x) for x in frames_by_pyav(clip)])
    with FeatureStore(store) as features:
        np.testing.assert_allclose(features.read("spin/spin_01"), expected, rtol=1e-3, atol=1e-4)
    predicted = cli("predict", run, clip, "--device", "cpu", "--format", "jsonl")
    assert predicted.exit_code == 0, predicted.output
    [by_hand] = adapt.predict(run, [expected.astype(np.float16)], device="cpu").probabilities
    found = json.loads(predicted.stdout)
    assert found["class"] == ("blinds", "grow", "orbit", "ring", "spin")[int(by_hand.argmax())]
    assert found["probability"] == pytest.approx(by_hand.max(), abs=1e-3)
    sampled = cli(
        *("store", "verify", store, "--videos", tmp_path / "night", "--sample", 2),
        *("--device", "cpu"),
    )
    assert sampled.exit_code == 0 and "2 extracted again" in sampled.output, sampled.output
    compared = cli("store", "compare", store, store)
    assert compared.exit_code == 0, compared.output
    exported = cli("export", run, "--with-backbone", "--out", tmp_path / "model.pt2")
    assert exported.exit_code == 0 and "it predicts as the run does" in exported.output
