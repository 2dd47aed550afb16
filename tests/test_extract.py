from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms

from extract.backbone import Backbone, state_sha256
from extract.config import ExtractConfig
from extract.decode import Decoder, check_file
from extract.errors import ConfigError, DecodeError, WeightsError
from extract.manifest import dataset_videos
from extract.run import extract, unlike_published
from extract.store import FeatureStore
from extract.synthetic import ACTIONS, make_collection

SMALL = ExtractConfig(backbone="mobilenet_v3_small", weights="random:0", device="cpu")
HMDB_LISTED = (
    "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0",
    "AdvancedBoxingTechniquesandExercises_punch_u_nm_np1_ba_med_23",
    "6arrowswithin30seconds_shoot_bow_f_nm_np1_fr_med_3",
)


def frames_by_pyav(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def plain_pipeline(path: Path, model: torch.nn.Module, stride: int = 1) -> np.ndarray:
    """The textbook way: PyAV, PIL, torchvision transforms, one frame at a time, float32."""
    transform = transforms.Compose(
        [
            transforms.Resize(224),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.inference_mode():
        features = [
            model(transform(Image.fromarray(frame))[None])[0].numpy()
            for frame in frames_by_pyav(path)[::stride]
        ]
    return np.stack(features)


def error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Relative to the variation between frames, which a cosine does not see."""
    ours, reference = ours.astype(np.float64), reference.astype(np.float64)
    return float(
        np.linalg.norm(ours - reference) / np.linalg.norm(reference - reference.mean(axis=0))
    )


def published_weights_without_head(backbone: Backbone) -> torch.nn.Module:
    """The same weights in a model whose head is taken off here, by hand."""
    model = torchvision.models.resnet101(weights=None)
    model.fc = torch.nn.Identity()
    model.load_state_dict(backbone._model.state_dict())
    return model.eval()


def check_hmdb_parity(clips: Path, tmp_path: Path, stride: int) -> None:
    videos = {video: dataset_videos("hmdb51")[video] for video in HMDB_LISTED}
    options = ExtractConfig(weights="random:0", device="cpu", stride=stride)
    report = extract(
        dataset="hmdb51",
        videos=videos,
        video_root=clips / "hmdb51",
        features=tmp_path,
        options=options,
    )
    assert report.index["complete"] and report.index["width"] == 2048
    assert len(unlike_published(videos, list(report.records.values()))) == 3
    reference = published_weights_without_head(Backbone(options))
    with FeatureStore(report.folder) as store:
        for video, published in videos.items():
            record = store.records[video]
            # decord decodes one frame more than was published: stored as decoded, not trimmed.
            assert record.decoded_frames == published + 1
            ours = store.read(video)
            assert len(ours) == -(-record.decoded_frames // stride)
            expected = plain_pipeline(clips / "hmdb51" / record.source, reference, stride)
            assert error(ours, expected) < 1e-3, video
            assert error(expected[1:], expected[:-1]) > 0.05, "the measure must tell frames apart"


def test_features_equal_the_plain_pipeline(clips: Path, tmp_path: Path) -> None:
    check_hmdb_parity(clips, tmp_path, stride=12)


@pytest.mark.slow
def test_features_equal_the_plain_pipeline_on_every_frame(clips: Path, tmp_path: Path) -> None:
    check_hmdb_parity(clips, tmp_path, stride=1)


@pytest.mark.slow
def test_the_ucf_clips_by_the_command(clips: Path, tmp_path: Path, cli) -> None:
    result = cli(
        *("extract", "--dataset", "ucf101", "--videos", clips / "ucf101", "--weights", "random:0"),
        *("--features", tmp_path, "--device", "cpu"),
    )
    assert result.exit_code == 3, result.output
    assert "41 of 2,716 listed videos are stored" in result.output
    assert "another number of frames" not in result.output
    [folder] = (tmp_path / "ucf101").iterdir()
    published = dataset_videos("ucf101")
    with FeatureStore(folder) as store:
        assert {v: len(store.read(v)) for v in store.records} == {
            v: published[v] for v in store.records
        }
        assert len(store.records) == 41


def test_every_ucf_clip_is_found_and_decodes_to_its_published_length(
    clips: Path, tmp_path: Path
) -> None:
    published = dataset_videos("ucf101")
    report = extract(
        dataset="ucf101",
        videos=published,
        video_root=clips / "ucf101",
        features=tmp_path,
        options=ExtractConfig(
            backbone="mobilenet_v3_small", weights="random:0", device="cpu", stride=50
        ),
    )
    assert report.index["totals"] | {"frames": 0} == {
        **{"listed": len(published), "stored": 41, "missing": len(published) - 41},
        **{"failed": 0, "pending": 0, "frames": 0},
    }
    assert unlike_published(published, list(report.records.values())) == []


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collection")
    make_collection(root, "day", per_action=1)
    return root


@pytest.fixture
def videos(collection: Path) -> dict[str, None]:
    return {f"{action}_00": None for action in ACTIONS}


def test_decoder_gives_pyavs_frames(collection: Path) -> None:
    path = collection / "spin" / "spin_00.mp4"
    expected = np.stack(frames_by_pyav(path))
    decoder = Decoder(block=5)
    try:
        for stride in (1, 3, 7, 20):
            decoder.start(path, stride)
            blocks = list(decoder.blocks())
            assert all(len(block) <= 5 for block in blocks)
            np.testing.assert_array_equal(np.concatenate(blocks), expected[::stride])
            assert decoder.facts.decoded_frames == len(expected) == decoder.facts.container_frames
            assert (decoder.facts.width, decoder.facts.height, decoder.facts.fps) == (128, 96, 12.0)
    finally:
        decoder.close()


def test_bad_files_are_named_and_the_decoder_goes_on(collection: Path, tmp_path: Path) -> None:
    good = collection / "spin" / "spin_00.mp4"
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder.mp4").mkdir()
    bad = {
        "empty": "file is empty",
        "noise": "not a video",
        "folder": "not a plain file",
        "no": "No such file",
    }
    decoder = Decoder(block=5)
    try:
        for name, reason in bad.items():
            decoder.start(tmp_path / f"{name}.mp4")
            with pytest.raises(DecodeError, match=f"{name}.mp4: .*{reason}"):
                list(decoder.blocks())
            decoder.start(good)
            assert sum(map(len, decoder.blocks())) == 12
    finally:
        decoder.close()


def test_a_cut_avi_is_noticed(clips: Path, tmp_path: Path) -> None:
    whole = next((clips / "ucf101" / "Archery").glob("*.avi"))
    data = whole.read_bytes()
    assert check_file(whole) == len(data)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        DecodeError, match=f"cut off: the AVI header says {len(data)} bytes, the file has"
    ):
        check_file(cut)


def test_a_dead_or_hung_decoder_is_replaced(collection: Path) -> None:
    path = collection / "spin" / "spin_00.mp4"
    decoder = Decoder(block=5)
    try:
        decoder._process.kill()
        decoder._process.join()
        with pytest.raises((DecodeError, BrokenPipeError)):
            decoder.start(path)
            list(decoder.blocks())
    finally:
        decoder.close()


def test_rerun_keeps_what_is_there_and_adds_what_was_missing(
    collection: Path, videos: dict[str, None], tmp_path: Path
) -> None:
    root = tmp_path / "videos"
    shutil.copytree(collection, root)
    hidden = root / "ring" / "ring_00.mp4"
    hidden.rename(tmp_path / "ring_00.mp4")
    broken = root / "grow" / "grow_00.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    arguments = {
        "dataset": "toy",
        "videos": videos,
        "video_root": root,
        "features": tmp_path / "features",
    }
    first = extract(**arguments, options=SMALL)
    statuses = {video: record.status for video, record in first.records.items()}
    assert statuses["ring_00"] == "missing" and statuses["grow_00"] == "failed"
    assert first.index["complete"] is False
    failures = (first.folder / "failures.csv").read_text()
    assert "ring_00" in failures and "grow_00.mp4: not a video" in failures
    shard = (first.folder / "shard-00000.h5").read_bytes()

    (tmp_path / "ring_00.mp4").rename(hidden)
    shutil.copy(collection / "grow" / "grow_00.mp4", broken)
    second = extract(**arguments, options=SMALL)
    assert second.new_videos == 2 and second.index["complete"] is True
    assert (first.folder / "shard-00000.h5").read_bytes() == shard
    third = extract(**arguments, options=SMALL)
    assert third.new_videos == 0 and third.index["shards"] == second.index["shards"]
    undisturbed = extract(**{**arguments, "features": tmp_path / "other"}, options=SMALL)
    with FeatureStore(third.folder) as a, FeatureStore(undisturbed.folder) as b:
        for video in videos:
            np.testing.assert_array_equal(a.read(video), b.read(video))


def test_the_command_reports_and_exits_3(collection: Path, tmp_path: Path, cli) -> None:
    root = tmp_path / "videos"
    shutil.copytree(collection, root / "a")
    shutil.copytree(collection, root / "b")
    common = ["--manifests", tmp_path / "manifests"]
    made = cli(
        *("manifest", "from-folder", "--benchmark", "toy", *common),
        *(f"--domain={d}={root / d}" for d in "ab"),
    )
    assert made.exit_code == 0, made.output
    (root / "a" / "grow" / "grow_00.mp4").write_bytes(b"garbage")
    (root / "a" / "spin" / "spin_00.mp4").unlink()
    quick = [
        "--backbone",
        "mobilenet_v3_small",
        "--weights",
        "random:0",
        "--features",
        tmp_path / "f",
    ]
    result = cli("extract", "--dataset", "a", "--videos", root / "a", *common, *quick, "--limit", 3)
    assert result.exit_code == 3, result.output
    assert "1 have no file (first: spin_00)" in result.output
    assert "1 could not be stored (first: grow_00" in result.output
    assert "1 are left to do (first: ring_00)" in result.output
    result = cli("extract", "--dataset", "b", "--videos", root / "b", *common, *quick)
    assert result.exit_code == 0 and "5 of 5 listed videos are stored, 60 frames" in result.output
    result = cli("extract", "--dataset", "b", "--videos", tmp_path / "none", *common)
    assert result.exit_code == 1 and "There is no folder" in result.output


def test_random_weights_are_seeded_and_useful() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8)
    images[1] //= 4
    first, again, other = (
        Backbone(ExtractConfig(backbone="resnet18", weights=f"random:{seed}", device="cpu"))
        for seed in (0, 0, 1)
    )
    assert first.config == again.config != other.config
    np.testing.assert_array_equal(first(images), again(images))
    features = first(images)
    assert features.shape == (4, 512) and np.abs(features).max() < 1000
    assert error(first(images), other(images)) > 0.1


@pytest.mark.parametrize(
    ("name", "width", "sizes"),
    [
        ("resnet101", 2048, (256, 224)),
        ("mobilenet_v2", 1280, (256, 224)),
        ("convnext_tiny", 768, (236, 224)),
        ("vit_b_16", 768, (256, 224)),
        ("swin_t", 768, (232, 224)),
    ],
)
def test_any_classification_model(name: str, width: int, sizes: tuple[int, int]) -> None:
    backbone = Backbone(
        ExtractConfig(backbone=name, weights="random:0", preset="torchvision", device="cpu")
    )
    assert backbone.width == width
    assert (backbone.preprocessing.resize, backbone.preprocessing.crop) == sizes


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = torchvision.models.resnet18(weights=None)
    for name in ("a.pth", "b.pth"):
        torch.save(model.state_dict(), tmp_path / name)
    a, b = (
        Backbone(ExtractConfig(backbone="resnet18", weights=str(tmp_path / name), device="cpu"))
        for name in ("a.pth", "b.pth")
    )
    assert a.config == b.config  # the numbers decide, not the file's name
    assert a.config["weights_sha256"] == state_sha256(model.state_dict())
    model.fc = torch.nn.Identity()
    x = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(a._model(x), model.eval()(x))


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


def test_weights_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def load(weights: object, backbone: str = "resnet18") -> Backbone:
        return Backbone(ExtractConfig(backbone=backbone, weights=str(weights), device="cpu"))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="not a state dict that can be loaded safely"):
        load(tmp_path / "evil.pth")
    assert not Path("evil").exists()
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not hold the weights of resnet18"):
        load(tmp_path / "other.pth")
    torch.save({"x": 3}, tmp_path / "number.pth")
    with pytest.raises(WeightsError, match="not a plain state dict"):
        load(tmp_path / "number.pth")
    with pytest.raises(WeightsError, match=r"There is no file none\.pth\. --weights takes"):
        load("none.pth")
    with pytest.raises(
        WeightsError, match="no imagenet1k_v9 weights for resnet18, only: imagenet1k_v1"
    ):
        load("imagenet1k_v9")
    with pytest.raises(ConfigError, match="no classification model 'resnet9000'"):
        load("random:0", "resnet9000")
    with pytest.raises(ConfigError, match="no linear layer at its end"):
        load("random:0", "squeezenet1_0")
    with pytest.raises(ConfigError, match="Try --preset torchvision"):
        load("random:0", "vit_b_16_") if False else Backbone(
            ExtractConfig(backbone="vit_h_14", weights="random:0", device="cpu")
        )


def test_published_weights_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real loading code up to the network, and from the cache that the message points to."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    options = ExtractConfig(backbone="resnet18", device="cpu")
    with pytest.raises(WeightsError) as caught:
        Backbone(options)
    text = str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints") in text
    assert "resnet18-f37072fd.pth" in text and "--weights random:0" in text


def test_config_names_what_changes_the_numbers() -> None:
    base = Backbone(SMALL).config
    assert json.loads(json.dumps(base)) == base
    for change in (
        {"stride": 2},
        {"preset": "torchvision"},
        {"precision": "bfloat16"},
        {"weights": "random:1"},
    ):
        options = ExtractConfig(**{**SMALL.__dict__, **change})
        assert Backbone(options).config != base, change
    for change in ({"batch": 3}, {"workers": 2}, {"limit": 1}):
        assert Backbone(ExtractConfig(**{**SMALL.__dict__, **change})).config == base, change
    with pytest.raises(ConfigError, match="--stride must be 1 or more, got 0"):
        ExtractConfig(stride=0)
