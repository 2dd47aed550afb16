"""`store compare` names the cause of a difference: every cause is planted, and must be found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import make_store, slow
from PIL import Image
from test_extract import frames_by_pyav

from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.run import extract
from extract.synthetic import make_collection
from store.causes import cause_of
from store.format import store_folder
from store.index import StoreIndex
from store.read import FeatureStore
from store.records import VideoRecord
from store.write import ShardWriter

WIDTH = 64


def smooth(frames: int, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """Features above 0 that change slowly along time, as those of a video do."""
    random = np.random.default_rng(seed)
    times = np.arange(frames)[:, None]
    waves = sum(
        np.sin(times / period + random.uniform(0, 6, width)) * random.normal(size=width)
        for period in (3, 7, 19)
    )
    noise = random.normal(size=(frames, width)) * 0.3
    return np.maximum(waves + noise + random.uniform(2, 4, width), 0)


X = smooth(60)
MORE = smooth(90)
RANDOM = np.random.default_rng(5)
PROJECTED = np.maximum(X @ RANDOM.normal(size=(WIDTH, WIDTH)) / 8, 0)


@pytest.mark.parametrize(
    ("a", "b", "kind", "text"),
    [
        (X[1:], X[:-1], "frame shift", "frame i of A is frame i + 1 of B"),
        (X[:-1], X[1:], "frame shift", "frame i of B is frame i + 1 of A"),
        (X[7:], X, "frame shift", "frame i of A is frame i + 7 of B"),
        (2 * X[3:], X, "frame shift", "frame i of A is frame i + 3 of B"),
        (X, X[:-1], "frames at the end", "A has 1 frame more, at the end"),
        (X[:-8] + 0.01, X, "frames at the end", "B has 8 frames more, at the end"),
        (X[::2], X, "other frames", "A has every 2-th frame of B"),
        (X, X[::5], "other frames", "B has every 5-th frame of A"),
        (MORE[np.arange(16) * 90 // 16], MORE, "other frames", "A has 16 frames, evenly spaced over the 90"),
        (3 * X, X, "scale", "A is B times 3"),
        (X / np.linalg.norm(X, axis=1, keepdims=True), X, "scale", "of A have length 1: they are L2"),
        ((X - X.mean(axis=0)) / X.std(axis=0), X, "scale", "one of them is standardised"),
        (X + RANDOM.normal(size=X.shape) * 0.02, X, "precision", "bfloat16 makes 0.03 to 0.06"),
        (X[:, ::-1], X, "order of features", "the same values, in another order"),
        (PROJECTED, X, "weights", "other weights or another layer"),
        (X + 0.7 * smooth(60, 1), X, "pixels", "the channel order (BGR)"),
        (RANDOM.normal(size=X.shape), X, "nothing in common", "another video"),
        (np.full_like(X, np.nan), X, "damage", "not finite"),
    ],
)  # fmt: skip
def test_a_planted_cause_is_found_in_the_numbers(a, b, kind: str, text: str) -> None:
    cause = cause_of(a.astype(np.float16), b.astype(np.float16))
    assert cause.kind == kind, cause
    assert text in cause.text


def test_videos_that_are_too_short_or_do_not_vary() -> None:
    one = np.ones((1, 4), np.float16)
    for frames in (1, 3, 9):
        still = np.repeat(one, frames, axis=0)
        assert cause_of(still, still + RANDOM.normal(size=still.shape)).kind in (
            "nothing in common",
            "scale",
        )
    assert cause_of(np.zeros((9, 4)), X[:9, :4]).kind == "nothing in common"


OPTIONS = ExtractConfig(
    backbone="mobilenet_v3_small", weights="random:0", device="cpu", precision="float32", batch=4
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five videos of 12 frames, larger than a crop, and their store, computed in float32."""
    root = tmp_path_factory.mktemp("causes")
    make_collection(root / "videos", "day", per_action=1)
    ids = {path.stem: None for path in sorted((root / "videos").rglob("*.mp4"))}
    report = extract(
        dataset="toy",
        videos=ids,
        video_roots=[root / "videos"],
        features=root / "f",
        options=OPTIONS,
    )
    return root, report.folder


def planted(stage: tuple[Path, Path], root: Path, change, config: dict | None = None) -> Path:
    """A store with the same config (or another) whose features `change` made of the frames of a video."""
    videos, folder = stage
    with FeatureStore(folder) as store:
        config = config or store.config
        out = store_folder(root, "toy", config)
        out.mkdir(parents=True)
        with ShardWriter(out, 0, config) as writer:
            for video in store:
                [path] = (videos / "videos").rglob(f"{video}.mp4")
                writer.add(VideoRecord(video=video), change(path))
        StoreIndex(out, "toy", config, store.width).write(list(store), {}, store.index["run"])
    return out


def textbook(
    path: Path,
    *,
    resize: int = 224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    bgr: bool = False,
    weights: str = "random:0",
    dtype: str = "float32",
    scale: float = 1,
) -> np.ndarray:
    """The features of a video by PIL and one module, with one thing done otherwise."""
    import torch
    from torchvision import transforms

    options = dataclasses.replace(OPTIONS, weights=weights, precision=dtype)
    model = Backbone(options, plain=True)
    chain = transforms.Compose(
        [transforms.Resize(resize), transforms.CenterCrop(224), transforms.ToTensor()]
    )
    rows = []
    for frame in frames_by_pyav(path):
        image = chain(Image.fromarray(frame[..., ::-1].copy() if bgr else frame)) * scale
        image = transforms.functional.normalize(image, mean, std)
        rows.append(model.compute(image[None].to(memory_format=torch.channels_last))[0].float())
    return torch.stack(rows).numpy()


NONE, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bgr": True}, "the channel order BGR (error"),
        slow({"resize": 256}, "the preset torchvision (shorter side 256, crop 224) (error"),
        slow({"mean": NONE, "std": ONE}, "pixels from 0 to 1 that are not normalised (error"),
        slow({"mean": NONE, "std": ONE, "scale": 255}, "pixels from 0 to 255 that are not normalised (err"),
        slow({"mean": (0.5,) * 3, "std": (0.5,) * 3}, "pixels from -1 to 1 in place of ImageNet's"),
        slow({"dtype": "bfloat16"}, "bfloat16 in place of float32 (error"),
        ({"weights": "random:7"}, "none of the ways gives its features"),
    ],
)  # fmt: skip
def test_a_planted_cause_is_found_in_the_video(stage, tmp_path: Path, cli, change, said) -> None:
    other = planted(stage, tmp_path, lambda path: textbook(path, **change))
    result = cli("store", "compare", stage[1], other, "--videos", stage[0] / "videos")
    assert result.exit_code == 1, result.output
    lines = result.output.splitlines()
    [a] = [line for line in lines if line.startswith("  A: ")]
    [b] = [line for line in lines if line.startswith("  B: ")]
    assert a.startswith("  A: as the config of A says (error "), result.output
    assert said in b, result.output
    assert "likely cause in " in result.output and "--videos DIR" not in result.output


def test_a_shift_is_found_in_the_video_too(stage, tmp_path: Path, cli) -> None:
    with FeatureStore(stage[1]) as store:
        features = {video: store.read(video)[1:] for video in store}
    other = planted(stage, tmp_path, lambda path: features[path.stem])
    result = cli("store", "compare", stage[1], other, "--videos", stage[0] / "videos")
    assert "5 of 5 videos looked at: frame shift: frame i of B is frame i + 1 of A" in result.output
    assert "  B: as the config of A says, shifted by 1 frame (error" in result.output, result.output


def test_each_store_by_its_own_config(stage, tmp_path: Path, cli) -> None:
    root, folder = stage
    ids = dict.fromkeys(FeatureStore(folder))
    options = dataclasses.replace(OPTIONS, weights="random:7", preset="torchvision")
    other = extract(
        dataset="toy", videos=ids, video_roots=[root / "videos"], features=tmp_path, options=options
    ).folder
    result = cli("store", "compare", folder, other, "--videos", root / "videos")
    assert "  A: as the config of A says (error" in result.output, result.output
    assert "  B: as the config of B says (error" in result.output


def test_what_cannot_be_tried_is_said(stage, tmp_path: Path, cli) -> None:
    other = planted(stage, tmp_path / "a", lambda path: textbook(path, bgr=True))
    (tmp_path / "empty").mkdir()
    result = cli("store", "compare", stage[1], other, "--videos", tmp_path / "empty")
    assert result.exit_code == 1
    assert "None of the 5 videos that differ is found in" in result.output
    a, b = (make_store(tmp_path / n, "t", {"v": smooth(9, i)}) for i, n in enumerate("bc"))
    result = cli("store", "compare", a, b, "--videos", tmp_path / "empty")
    assert result.exit_code == 1 and "their store's config does not say" in result.output
    result = cli("store", "compare", a, b)
    assert "To try causes on one of the videos: add --videos DIR\n" in result.output
