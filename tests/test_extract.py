from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torchvision
from conftest import slow, touch
from PIL import Image
from torchvision import transforms

from commands.progress import ExtractProgress
from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.decode import FrameOptions, Video, kept_frames, prepare
from extract.preprocessing import preprocessing
from extract.report import Progress, unlike_published
from extract.run import extract
from extract.synthetic import ACTIONS, make_collection
from extract.weights import state_sha256
from store.datasets import dataset_videos
from store.errors import ConfigError, DecodeError, WeightsError
from store.machine import Process
from store.read import FeatureStore

SMALL = ExtractConfig(
    backbone="mobilenet_v3_small", weights="random:0", device="cpu", precision="float32"
)
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
    variation = np.linalg.norm(reference - reference.mean(axis=0))
    return float(np.linalg.norm(ours - reference) / variation)


def same_weights_without_head(backbone: Backbone) -> torch.nn.Module:
    """The same weights in a model whose head is taken off here, by hand."""
    model = torchvision.models.resnet101(weights=None)
    model.fc = torch.nn.Identity()
    model.load_state_dict(backbone._model.state_dict())
    return model.eval()


def check_hmdb_parity(clips: Path, tmp_path: Path, stride: int) -> None:
    videos = {video: dataset_videos("hmdb51")[video] for video in HMDB_LISTED}
    options = ExtractConfig(weights="random:0", device="cpu", precision="float32", stride=stride)
    report = extract(
        dataset="hmdb51",
        videos=videos,
        video_roots=[clips / "hmdb51"],
        features=tmp_path,
        options=options,
    )
    assert report.index["complete"] and report.index["width"] == 2048
    assert not unlike_published(videos, list(report.records.values()))
    backbone = Backbone(options)
    reference = same_weights_without_head(backbone)
    all_stored, all_expected = [], []
    with FeatureStore(report.folder) as store:
        for video, published in videos.items():
            record = store.records[video]
            assert record.decoded_frames == published
            stored = store.read(video)
            assert len(stored) == -(-record.decoded_frames // stride)
            path = clips / "hmdb51" / record.source
            expected = plain_pipeline(path, reference, stride)
            assert len(stored) == len(expected)
            computed = backbone(np.stack(list(Video(path, backbone.frames).frames())))
            assert error(computed[: len(expected)], expected) < 1e-3, video
            # What is stored is that, rounded to float16 and nothing else.
            np.testing.assert_array_equal(stored, computed.astype(np.float16))
            assert error(expected[1:], expected[:-1]) > 0.05, "the measure must tell frames apart"
            all_stored.append(stored[: len(expected)])
            all_expected.append(expected)
    assert error(np.concatenate(all_stored), np.concatenate(all_expected)) < 1e-3


def test_features_equal_the_plain_pipeline(clips: Path, tmp_path: Path) -> None:
    check_hmdb_parity(clips, tmp_path, stride=24)


@pytest.mark.slow
def test_features_equal_the_plain_pipeline_on_every_frame(clips: Path, tmp_path: Path) -> None:
    check_hmdb_parity(clips, tmp_path, stride=1)


@pytest.mark.slow
def test_the_ucf_clips_by_the_command(clips: Path, tmp_path: Path, cli) -> None:
    """Every frame of all clips; what ResNet-101 makes of frames is compared above."""
    result = cli(
        *("extract", "--dataset", "ucf101", "--videos", clips / "ucf101", "--weights", "random:0"),
        *("--features", tmp_path, "--device", "cpu", "--backbone", "resnet18"),
    )
    assert result.exit_code == 3, result.output
    assert "41 of 2,716 listed videos are stored" in result.output
    assert "another number of frames" not in result.output
    [folder] = (tmp_path / "ucf101").iterdir()
    published = dataset_videos("ucf101")
    with FeatureStore(folder) as store:
        lengths = {video: len(store.read(video)) for video in store.records}
        assert lengths == {video: published[video] for video in store.records}
        assert len(store.records) == 41


def test_every_ucf_clip_is_found_and_decodes_to_its_published_length(
    clips: Path, tmp_path: Path
) -> None:
    published = dataset_videos("ucf101")
    report = extract(
        dataset="ucf101",
        videos=published,
        video_roots=[clips / "ucf101"],
        features=tmp_path,
        options=ExtractConfig(**{**SMALL.__dict__, "frames_per_video": 2}),
    )
    missing = len(published) - 41
    assert report.index["totals"] == {
        **{"listed": len(published), "stored": 41, "missing": missing, "failed": 0, "pending": 0},
        **{"frames": 82, "damaged": 0},
    }
    stored = [record for record in report.records.values() if record.status == "ok"]
    assert all(r.decoded_frames == published[r.video] == r.container_frames for r in stored)
    assert unlike_published(published, stored) == []


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collection")
    make_collection(root, "day", per_action=1)
    return root


@pytest.fixture
def videos(collection: Path) -> dict[str, None]:
    return {f"{action}_00": None for action in ACTIONS}


@pytest.mark.parametrize(
    "size", [(320, 240), (240, 320), (57, 43), (224, 224), (640, 225), (9, 300)]
)
@pytest.mark.parametrize(
    ("resize", "crop", "name"), [(224, 224, "bilinear"), (232, 224, "bicubic")]
)
def test_prepare_is_torchvisions_resize_and_crop(size, resize: int, crop: int, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    mode = transforms.InterpolationMode(name)
    plain = transforms.Compose([transforms.Resize(resize, mode), transforms.CenterCrop(crop)])
    ours = prepare(image, FrameOptions(resize=resize, crop=crop, interpolation=name))
    np.testing.assert_array_equal(ours, np.asarray(plain(image)))


def test_which_frames_are_kept() -> None:
    def kept(count: int, **options: int) -> list[int]:
        return list(kept_frames(count, FrameOptions(resize=8, crop=8, **options)))

    assert kept(5) == [0, 1, 2, 3, 4]
    assert kept(7, stride=3) == [0, 3, 6]
    assert kept(10, frames_per_video=4) == [1, 3, 6, 8]
    assert kept(3, frames_per_video=4) == [0, 1, 2]
    for count in range(1, 40):
        for n in range(1, 45):
            chosen = kept(count, frames_per_video=n)
            assert len(chosen) == min(n, count) == len(set(chosen)) and chosen == sorted(chosen)


def test_video_gives_pyavs_frames_and_says_what_it_is(collection: Path) -> None:
    path = collection / "spin" / "spin_00.mp4"
    resize = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])
    expected = np.stack([np.asarray(resize(Image.fromarray(f))) for f in frames_by_pyav(path)])
    for stride in (1, 3, 7, 20):
        video = Video(path, FrameOptions(resize=64, crop=64, stride=stride))
        np.testing.assert_array_equal(np.stack(list(video.frames())), expected[::stride])
        facts = video.facts
        assert video.decoded_frames == facts.expected_frames == facts.container_frames == 12
        assert facts.kept_frames == len(expected[::stride])
        assert (facts.width, facts.height, facts.fps) == (128, 96, 12.0)


def test_bad_files_say_what_is_wrong(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    Image.new("RGB", (64, 48)).save(tmp_path / "image.mp4", "jpeg")
    (tmp_path / "-x.mp4").write_text("hello")
    with av.open(str(tmp_path / "hollow.mp4"), "w") as container:
        container.add_stream("mpeg4", rate=25)
        container.start_encoding()
    bad = {
        "empty.mp4": "file is empty",
        "noise.mp4": "not a video that can be read: Invalid data",
        "folder": "the folder has no images",
        "images": "1.png is no readable image",
        "no.mp4": "No such file",
        "image.mp4": "what it holds is no format of video, whatever its name says .*Convert it",
        "-x.mp4": r"ffmpeg -i './-x.mp4' .* './-x.converted.mp4'$",
        "hollow.mp4": "it has no stream: nothing is in it",
    }
    for name, reason in bad.items():
        with pytest.raises(DecodeError, match=reason):
            list(Video(tmp_path / name, FrameOptions(resize=8, crop=8)).frames())


def damaged_video(path: Path, *, cut: bool) -> None:
    """A hundred frames with the index in front; the last two fifths missing, or a fifth zeroed."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 240, 320, 3), np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    if cut:
        del data[len(data) * 3 // 5 :]
    else:
        data[len(data) * 2 // 5 : len(data) * 3 // 5] = bytes(len(data) // 5)
    path.write_bytes(data)


def test_damaged_videos_are_refused_or_kept_as_far_as_they_are_whole(tmp_path: Path) -> None:
    damaged_video(tmp_path / "cut.mp4", cut=True)
    damaged_video(tmp_path / "hole.mp4", cut=False)
    arguments = dict(dataset="toy", videos={"cut": 100, "hole": 100}, video_roots=[tmp_path])
    few = dataclasses.replace(SMALL, frames_per_video=3)
    refused = extract(**arguments, features=tmp_path / "f", options=few)
    assert refused.index["totals"]["failed"] == 2
    keeping = dataclasses.replace(few, keep_damaged=True)
    kept = extract(**arguments, features=tmp_path / "f", options=keeping)
    assert kept.folder == refused.folder and kept.index["totals"]["damaged"] == 2
    assert kept.index["complete"]
    for video in ("cut", "hole"):
        text, record = refused.records[video].error, kept.records[video]
        assert "of 100 frames are missing or broken" in text and "--keep-damaged" in text
        assert record.status == "damaged" and record.decoder == "pyav"
        assert record.error and record.error in text
        assert 50 < record.decoded_frames < 100 and record.frames == 3
        assert record.missing_frames == 100 - record.decoded_frames
    with FeatureStore(kept.folder) as store:
        assert store.read("cut").shape[0] == 3


def test_features_that_are_not_finite_are_refused_and_recorded(
    collection: Path, videos: dict[str, None], tmp_path: Path
) -> None:
    model = torchvision.models.resnet18(weights=None)
    with torch.no_grad():
        model.layer4[1].bn2.bias[3] = float("nan")
    torch.save(model.state_dict(), tmp_path / "nan.pth")
    report = extract(
        dataset="toy",
        videos=videos,
        video_roots=[collection],
        features=tmp_path / "features",
        options=ExtractConfig(
            backbone="resnet18",
            weights=str(tmp_path / "nan.pth"),
            device="cpu",
            precision="float32",
        ),
    )
    assert report.index["totals"]["failed"] == len(videos)
    assert all("largest feature is nan" in record.error for record in report.records.values())
    assert not list(report.folder.glob("*.h5"))


def test_folders_of_images_are_videos_too(collection: Path, tmp_path: Path, cli) -> None:
    """Lossless images of a video's frames give the features of the video, in natural order."""
    frames = frames_by_pyav(collection / "spin" / "spin_00.mp4")
    for domain in "ab":
        folder = tmp_path / domain / "spin" / "spin_00"
        folder.mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"frame{number + 1}.png")
        touch(tmp_path / domain, *(f"still/{number}/frame1.png" for number in range(5)))
    common = ["--input", "frames", "--manifests", tmp_path / "m"]
    made = cli(
        *("manifest", "from-folder", "--benchmark", "toy", *common),
        *(f"--domain={d}={tmp_path / d}" for d in "ab"),
    )
    assert made.exit_code == 0, made.output
    checked = cli("manifest", "check", "--dataset", "a", "--videos", tmp_path / "a", *common)
    assert "6 of 6 listed videos are in" in checked.output
    options = {**SMALL.__dict__, "input": "frames"}
    arguments = {"dataset": "toy", "videos": {"spin_00": None}, "features": tmp_path / "f"}
    images = extract(**arguments, video_roots=[tmp_path / "a"], options=ExtractConfig(**options))
    video = extract(**arguments, video_roots=[collection], options=SMALL)
    assert images.folder != video.folder  # made differently: never mixed
    with FeatureStore(images.folder) as a, FeatureStore(video.folder) as b:
        np.testing.assert_array_equal(a.read("spin_00"), b.read("spin_00"))
        assert a.records["spin_00"].source == "spin/spin_00"


def test_a_feature_is_the_same_wherever_its_frame_stands_in_a_batch() -> None:
    """What makes a rerun after a kill give the same bytes, though batches are filled otherwise."""
    frames = np.random.default_rng(0).integers(0, 256, (24, 224, 224, 3), np.uint8)
    for name in ("resnet18", "mobilenet_v3_small"):
        backbone = Backbone(ExtractConfig(**{**SMALL.__dict__, "backbone": name}))
        whole = backbone(frames)
        np.testing.assert_array_equal(backbone(frames[5:9]), whole[5:9])
        np.testing.assert_array_equal(backbone(frames[::-1]), whole[::-1])


@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-4), ("auto", 0.1)])
def test_features_are_those_of_the_cpu(
    collection: Path, device: torch.device, precision: str, limit: float
) -> None:
    expected = Backbone(SMALL)
    backbone = Backbone(dataclasses.replace(SMALL, device=device.type, precision=precision))
    path = next(collection.rglob("*.mp4"))
    frames = np.stack(list(Video(path, backbone.frames).frames()))
    assert error(backbone(frames), expected(frames)) < limit


def test_rerun_keeps_what_is_there_and_adds_what_was_missing(
    collection: Path, videos: dict[str, None], tmp_path: Path
) -> None:
    root = tmp_path / "videos"
    shutil.copytree(collection, root)
    (tmp_path / "more").mkdir()
    (root / "ring" / "ring_00.mp4").rename(tmp_path / "more" / "ring_00.mp4")
    broken = root / "grow" / "grow_00.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    arguments = {"dataset": "toy", "videos": videos, "features": tmp_path / "features"}
    first = extract(**arguments, video_roots=[root], options=SMALL)
    statuses = {video: record.status for video, record in first.records.items()}
    assert statuses["ring_00"] == "missing" and statuses["grow_00"] == "failed"
    assert first.index["complete"] is False
    failures = (first.folder / "failures.csv").read_text()
    assert "ring_00" in failures and "grow/grow_00.mp4: cut off: its index (moov)" in failures
    shard = (first.folder / "shard-00000.h5").read_bytes()

    shutil.copy(collection / "grow" / "grow_00.mp4", broken)
    # The missing video turns up in a second folder.
    second = extract(
        **arguments, video_roots=[root, tmp_path / "more", root / "spin"], options=SMALL
    )
    assert second.new_videos == 2 and second.index["complete"] is True
    assert (first.folder / "shard-00000.h5").read_bytes() == shard
    third = extract(**arguments, video_roots=[root], options=SMALL)
    assert third.new_videos == 0 and third.index["shards"] == second.index["shards"]
    other = {**arguments, "features": tmp_path / "other"}
    undisturbed = extract(**other, video_roots=[collection], options=SMALL)
    with FeatureStore(third.folder) as a, FeatureStore(undisturbed.folder) as b:
        for video in videos:
            np.testing.assert_array_equal(a.read(video), b.read(video))


def test_a_damaged_index_is_made_anew_from_the_shards(
    collection: Path, videos: dict[str, None], tmp_path: Path
) -> None:
    arguments = {"dataset": "toy", "videos": videos, "video_roots": [collection]}
    first = extract(**arguments, features=tmp_path, options=SMALL)
    for name in ("index.json", "videos.csv", "failures.csv"):
        (first.folder / name).write_text("{ damaged")
    again = extract(**arguments, features=tmp_path, options=SMALL)
    assert again.new_videos == 0 and again.index["totals"] == first.index["totals"]
    with FeatureStore(again.folder) as store:
        assert set(store.records) == set(videos)


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
    quick = ["--backbone", "mobilenet_v3_small", "--weights", "random:0", "--device", "cpu"]
    quick += ["--features", tmp_path / "f", *common]
    result = cli("extract", "--dataset", "a", "--videos", root / "a", *quick, "--limit", 3)
    assert result.exit_code == 3, result.output
    assert "1 video has no file (first: spin/spin_00: " in result.output
    assert (
        "1 video could not be stored (first: grow/grow_00: grow/grow_00.mp4: not a video that"
        in (result.output)
    )
    assert "1 video is left to do (first: ring/ring_00)" in result.output
    result = cli("extract", "--dataset", "b", "--videos", root / "b", *quick)
    assert result.exit_code == 0, result.output
    assert "5 of 5 listed videos are stored, 60 frames" in result.output
    result = cli("extract", "--dataset", "b", "--videos", tmp_path / "none", *common)
    assert result.exit_code == 1 and "There is no folder" in result.output


def test_the_last_line_of_progress_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    at_end = Progress(
        **dict(videos_done=5, videos=5, frames_done=60, frames=60),
        **dict(seconds=4.0, decoders=1.0, backbone=3.0, store=0.0),
    )
    with ExtractProgress("ucf101", Process()) as progress:
        progress(dataclasses.replace(at_end, videos_done=4))
        progress(at_end)
        progress(dataclasses.replace(at_end, seconds=4.1))
    said = "ucf101: 5/5, 15.0 frames/s, backbone-bound (75 %), 0:00 left\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f", "float32"),
        ("fpu avx512f avx512_bf16", "bfloat16"),
        ("fpu amx_tile amx_bf16", "bfloat16"),
        (None, "float32"),
    ],
)
def test_auto_precision_is_that_of_the_hardware(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, expected: str
) -> None:
    """Two teammates with the same machine make the same store, however busy it is."""
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr("store.machine._CPU_FLAGS", tmp_path / "cpuinfo")
    auto = Backbone(dataclasses.replace(SMALL, precision="auto"))
    named = Backbone(dataclasses.replace(SMALL, precision=expected))
    assert auto.precision == auto.config["compute_dtype"] == expected
    assert auto.config == named.config


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_store_of_another_precision_is_named(
    collection: Path,
    videos: dict[str, None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments = {"videos": videos, "video_roots": [collection], "features": tmp_path / "f"}
    auto = dataclasses.replace(SMALL, precision="auto")
    (tmp_path / "cpuinfo").write_text("flags : fpu amx_bf16\n")
    monkeypatch.setattr("store.machine._CPU_FLAGS", tmp_path / "cpuinfo")
    extract(**arguments, dataset="unlike", options=dataclasses.replace(SMALL, stride=3))
    source = extract(**arguments, dataset="source", options=auto).folder
    assert not warnings(caplog)  # nothing to say: the other store differs by more
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\n")
    target = extract(**arguments, dataset="target", options=auto)
    assert warnings(caplog) == [
        f"{source} was computed in bfloat16, this machine computes in float32 (--precision auto): this "
        "run makes another store, and adapt cannot use the two together. To go on as there: "
        "--precision bfloat16"
    ]
    assert target.index["config"]["compute_dtype"] == "float32"
    caplog.clear()
    as_told = dataclasses.replace(SMALL, precision="bfloat16")
    report = extract(**arguments, dataset="target", options=as_told)
    assert report.folder.name == source.name and not warnings(caplog)


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
    ("name", "width", "sizes", "interpolation"),
    [
        slow("resnet50", 2048, (256, 224), "bilinear"),
        slow("resnet101", 2048, (256, 224), "bilinear"),
        ("mobilenet_v2", 1280, (256, 224), "bilinear"),
        ("convnext_tiny", 768, (236, 224), "bilinear"),
        slow("vit_b_16", 768, (256, 224), "bilinear"),
        ("swin_t", 768, (232, 224), "bicubic"),
    ],
)
def test_any_classification_model(name: str, width: int, sizes, interpolation: str) -> None:
    options = ExtractConfig(backbone=name, weights="random:0", preset="torchvision", device="cpu")
    backbone = Backbone(options)
    assert backbone.width == width
    assert (backbone.frames.resize, backbone.frames.crop) == sizes
    assert backbone.frames.interpolation == interpolation
    assert (backbone.config["resize"], backbone.config["crop"]) == sizes
    features = backbone(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8))
    assert features.shape == (2, width) and np.isfinite(features).all()
    assert not np.array_equal(features[0], features[1])


def test_published_weights_have_sizes_of_their_own() -> None:
    for weights, resize in (("imagenet1k_v1", 256), ("imagenet1k_v2", 232)):
        options = ExtractConfig(weights=weights, preset="torchvision")
        assert preprocessing(options)[0].resize == resize


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = torchvision.models.resnet18(weights=None)
    for name in ("a.pth", "b.pth"):
        torch.save(model.state_dict(), tmp_path / name)
    a, b = (
        Backbone(dataclasses.replace(SMALL, backbone="resnet18", weights=str(tmp_path / name)))
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
    known = "no imagenet1k_v9 weights for resnet18, only: imagenet1k_v1"
    with pytest.raises(WeightsError, match=known):
        load("imagenet1k_v9")
    for seed in (str(1 << 64), "9" * 5000):
        with pytest.raises(WeightsError, match=r"takes a seed below 2\^64, got 'random:"):
            load(f"random:{seed}")
    with pytest.raises(ConfigError, match="no classification model 'resnet9000'"):
        load("random:0", "resnet9000")
    with pytest.raises(ConfigError, match="no linear layer at its end"):
        load("random:0", "squeezenet1_0")


@pytest.mark.slow
def test_an_image_size_that_a_model_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    small = (FrameOptions(resize=192, crop=192), [0.5] * 3, [0.5] * 3)
    monkeypatch.setattr("extract.backbone.preprocessing", lambda options: small)
    with pytest.raises(ConfigError, match=r"does not take images of 192 x 192 .*Try --preset"):
        Backbone(ExtractConfig(backbone="maxvit_t", weights="random:0", device="cpu"))


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
    # A damaged download in that very process is not taken for the weights.
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="Cannot get the imagenet1k_v1 weights"):
        Backbone(options)


def test_config_names_what_changes_the_numbers() -> None:
    base = Backbone(SMALL).config
    assert json.loads(json.dumps(base)) == base
    changes = {"stride": 2, "frames_per_video": 3, "preset": "torchvision", "input": "frames"}
    for name, value in {**changes, "precision": "bfloat16", "weights": "random:1"}.items():
        assert Backbone(ExtractConfig(**{**SMALL.__dict__, name: value})).config != base, name
    for name in ("batch", "workers", "limit"):
        assert Backbone(ExtractConfig(**{**SMALL.__dict__, name: 3})).config == base, name
    with pytest.raises(ConfigError, match="--stride must be 1 or more, got 0"):
        ExtractConfig(stride=0)
    with pytest.raises(ConfigError, match="--stride or --frames-per-video, not both"):
        ExtractConfig(stride=2, frames_per_video=3)
