"""`export`: programs that predict what the run predicts, and the examples of docs/export.md as they stand."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, Road, edited_json, slow

import adapt
from adapt import export, methods
from adapt.checkpoint import Trained
from adapt.config import AdaptConfig
from store import FeatureStore

DOC = (REPOSITORY / "docs" / "export.md").read_text(encoding="utf-8")
FROM_FRAMES, FROM_FEATURES = re.findall(r"```python\n(.*?)```", DOC, flags=re.DOTALL)


def features_of(road: Road) -> dict[str, np.ndarray]:
    [folder] = (road.root / "features" / "night").iterdir()
    with FeatureStore(folder) as store:
        return {video: store.read(video) for video in store.records}


def run_example(code: str, folder: Path) -> object:
    assert len([line for line in code.splitlines() if line]) <= 15
    assert not re.search(r"\b(adapt|extract|store|commands)\b", code)
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def test_from_features_with_the_lines_of_the_documentation(cli, road: Road, tmp_path: Path) -> None:
    result = cli("export", road.run, "--out", tmp_path / "features.pt2")
    # Four made-up inputs, and 8 videos of the target.
    assert result.exit_code == 0 and "on 12 inputs it predicts as the run does" in result.output
    [shard] = (road.root / "features" / "night").rglob("shard-00000.h5")
    shutil.copy(shard, tmp_path)
    found = run_example(FROM_FEATURES, tmp_path)
    [expected] = adapt.predict(
        road.run, [features_of(road)["spin/spin_01"]], device="cpu"
    ).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-4)


def turn(path: Path) -> None:
    """Write into an MP4 that a player is to turn it by a quarter, as telephones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    assert struct.unpack(">9i", data[matrix : matrix + 36])[::4] == (1 << 16, 1 << 16, 1 << 30)
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = quarter
    path.write_bytes(data)


@pytest.mark.slow
def test_from_a_video_with_the_lines_of_the_documentation(cli, road: Road, tmp_path: Path) -> None:
    result = cli("export", road.run, "--with-backbone", "--out", tmp_path / "frames.pt2")
    assert result.exit_code == 0, result.output
    clip = tmp_path / "clip.mp4"
    shutil.copy(road.root / "night" / "ring" / "ring_01.mp4", clip)
    answers = []
    for change in (lambda path: None, turn):
        change(clip)
        found = run_example(FROM_FRAMES, tmp_path)
        predicted = cli("predict", road.run, clip, "--device", "cpu").stdout
        [row] = pd.read_csv(io.StringIO(predicted)).to_dict("records")
        for (name, probability), column in zip(found, ("", "second_", "third_"), strict=True):
            assert name == row[column.removesuffix("_") or "class"]
            assert probability == pytest.approx(row[f"{column}probability"], abs=1e-3)
        answers.append(dict(found))
    first = next(iter(answers[0]))  # if nothing changed, the example could leave out the turn
    assert abs(answers[0][first] - answers[1].get(first, 0)) > 2e-3


def test_the_file_describes_itself(cli, road: Road, tmp_path: Path) -> None:
    assert cli("export", road.run / "checkpoint.pt", "--out", tmp_path / "a.pt2").exit_code == 0
    extra = {"model.json": ""}
    program = torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    about = json.loads(extra["model.json"])
    assert about["classes"] == ["blinds", "grow", "orbit", "ring", "spin"]
    assert about["preprocessing"]["resize"] == about["preprocessing"]["crop"] == 224
    assert about["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert about["recipe"]["weights"] == "random:0" and about["width"] == 1024
    assert about["run"]["target"] == "night"
    assert {v.dtype for v in program.state_dict.values()} <= {torch.float32, torch.int64}


CASES = {
    **{name: ("--method", name) for name in methods.names()},
    "draws": ("--preset", "released"),
    "shared ta3n": ("--method", "ta3n", "--preset", "shared", "--frames", 7),
}


SLOW = ("abg", "transferattn")


@pytest.mark.parametrize("case", [slow(c) if c in SLOW else c for c in CASES])
def test_every_method_with_any_number_of_frames_and_videos(cli, problem: Path, case: str) -> None:
    more = CASES[case]
    reads = methods.find(
        more[more.index("--method") + 1] if "--method" in more else "ma2l-td"
    ).reads
    small = {"epochs": 1, "batch_size": 8, "width": 16, "compute": "float32", "levels": 3}
    trained = cli(
        *("adapt", "--source", "left", "--target", "right", "--device", "cpu", *more),
        *("--features", problem / "features", "--manifests", problem / "manifests"),
        *(f"--{n.replace('_', '-')}={value}" for n, value in small.items() if n in reads),
        *("--run", problem / "run", "--no-baselines"),
    )
    assert trained.exit_code == 0, trained.output
    result = cli("export", problem / "run", "--out", problem / "a.pt2")
    assert result.exit_code == 0, result.output
    extra = {"model.json": ""}
    module = torch.export.load(problem / "a.pt2", extra_files=extra).module()
    one = json.loads(extra["model.json"])["videos"] == "one at a time"
    random = np.random.default_rng(1)
    for videos, frames in ((1, 1), (4, 2), (2, 40)):
        x = random.normal(size=(videos, frames, 16)).astype(np.float16)
        given = torch.from_numpy(x).float().split(1 if one else videos)
        found = torch.cat([module(part) for part in given]).detach().numpy()
        expected = adapt.predict(problem / "run", list(x), device="cpu").probabilities
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_videos_of_a_single_frame_are_no_reason_to_refuse() -> None:
    config = AdaptConfig.make(
        benchmark="toy",
        given={"method": "source-only", "source": "left", "target": "right", "width": 8},
    )
    model = methods.find("source-only").build(config, 16, 3).model.eval()
    names = ["a", "b", "c"]
    trained = Trained(model, names, backbone_width=16, config=config, recipe=None)
    video = np.random.default_rng(0).normal(size=(1, 16)).astype(np.float16)
    cases = export.feature_cases(trained, [video])
    data = export.exported(export.WholeVideos(model, config), cases, {}, "pt2")
    module = torch.export.load(io.BytesIO(data)).module()
    found = module(torch.from_numpy(video)[None].float())[0]
    torch.testing.assert_close(found, export.by_run(trained, video))


def test_a_program_that_predicts_otherwise_is_refused(
    cli, road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = export.WholeVideos.from_picked

    def shifted(self, picked):
        return honest(self, picked + 0.05)

    monkeypatch.setattr(export.WholeVideos, "from_picked", shifted)
    for more in ((), ("--with-backbone",)):
        result = cli("export", road.run, "--out", tmp_path / "a.pt2", *more)
        assert result.exit_code == 1 and "The exported model is wrong" in result.output
        assert not list(tmp_path.iterdir())


def test_without_its_features_it_is_tried_on_made_up_ones(cli, road: Road, tmp_path: Path) -> None:
    run = road.copied_run(tmp_path / "run")
    with edited_json(run / "config.json") as record:
        record["data"]["features"] = str(tmp_path / "gone")
    result = cli("export", run, "--out", tmp_path / "a.pt2")
    assert result.exit_code == 0 and "on 4 inputs it predicts" in result.output
    assert "tried on made-up features alone" in result.stderr


REFUSED = {
    "suffix": (["--out", "{tmp}/a.pt"], 2, "--out must end in .pt2"),
    "standing": (["--out", "{tmp}/standing.pt2"], 2, "exists, and is not replaced"),
    "unread": (["--out", "{tmp}/a.pt2", "--weights", "random:0"], 2, "only with --with-backbone"),
    "weights": (
        ["--out", "{tmp}/a.pt2", "--with-backbone", "--weights", "random:1"],
        1,
        "were made otherwise: weights_sha256",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(cli, road: Road, tmp_path: Path, case: str) -> None:
    (tmp_path / "standing.pt2").write_text("mine")
    arguments, code, message = REFUSED[case]
    result = cli("export", road.run, *(a.format(tmp=tmp_path) for a in arguments))
    assert result.exit_code == code and message in " ".join(result.output.split()), result.output
    assert [p.name for p in tmp_path.iterdir()] == ["standing.pt2"]
    assert (tmp_path / "standing.pt2").read_text() == "mine"


def test_onnx_without_its_packages(
    cli, road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    result = cli("export", road.run, "--out", tmp_path / "a.onnx", "--format", "onnx")
    assert result.exit_code == 2
    assert "needs onnx, onnxscript, onnxruntime, which are not installed" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("more", [(), ("--with-backbone",)])
def test_onnx(cli, road: Road, tmp_path: Path, more: tuple[str, ...]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result = cli("export", road.run, "--out", tmp_path / "a.onnx", "--format", "onnx", *more)
    assert result.exit_code == 0, result.output
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["model.json"])
    assert about["classes"][0] == "blinds"
    if not more:
        x = features_of(road)["spin/spin_01"]
        [given] = session.get_inputs()
        [found] = session.run(None, {given.name: x[None].astype(np.float32)})
        expected = adapt.predict(road.run, [x], device="cpu").probabilities
        np.testing.assert_allclose(found, expected, atol=1e-4)


class BranchesOnVideos(torch.nn.Module):
    """Features (B, F, D) -> (B, 2), in parts of two videos."""

    def forward(self, features):
        return torch.cat([part.mean(dim=1)[:, :2] for part in features.split(2)])


def test_code_that_branches_on_the_number_of_videos_takes_one_at_a_time() -> None:
    x = torch.rand(3, 5, 4)
    case = export.Case(x, x.mean(dim=1)[:, :2])
    data = export.exported(BranchesOnVideos(), [case], {}, "pt2")
    extra = {"model.json": ""}
    module = torch.export.load(io.BytesIO(data), extra_files=extra).module()
    assert json.loads(extra["model.json"]) == {"videos": "one at a time"}
    for frames in (1, 9):
        y = torch.rand(1, frames, 4)
        torch.testing.assert_close(module(y), y.mean(dim=1)[:, :2])
