"""`store export`, read by loops that do what TA3N's loader does, and back again by `store import`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import CONFIG, REPOSITORY, make_store

from benchmarks.exchange import benchmark
from store.manifest import Video, read_manifest, write_manifest
from store.read import FeatureStore

SINGLE = {**CONFIG, "stored_dtype": "float32"}
IDS = ("v_run_1", "v_run_2", "v_walk_1", "v_walk_2")


def features(width: int = 7) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {v: random.normal(size=(i + 2, width)).astype(np.float32) for i, v in enumerate(IDS)}


@pytest.fixture(params=["float16", "float32"])
def made(request, tmp_path, monkeypatch):
    """A store with a benchmark of its own, in the working folder: its folder and its arrays."""
    monkeypatch.chdir(tmp_path)
    rows = [
        Video(
            id=v,
            label=int("walk" in v),
            class_name="walk" if "walk" in v else "run",
            split="eval" if v.endswith("2") else "train",
            frames=None,
        )
        for v in IDS
    ]
    write_manifest(tmp_path / "manifests" / "mine" / "left.csv", rows)
    config = SINGLE if request.param == "float32" else CONFIG
    folder = make_store(tmp_path / "features", "left", features(), config)
    return folder, {v: x.astype(request.param) for v, x in features().items()}


def as_ta3n_reads(root: Path, list_file: str) -> dict[str, tuple[np.ndarray, int]]:
    """A list file and its tensors, by the steps of TA3N's loader."""
    found = {}
    for line in (root / list_file).read_text().splitlines():
        directory, count, label = line.strip().split(" ")
        rows = []
        for number in range(1, int(count) + 1):
            path = os.path.join(root, directory, f"img_{number:05d}.t7")
            row = torch.load(path, weights_only=True)
            assert row.shape == (7,) and row.dtype == torch.float32
            assert row.untyped_storage().nbytes() == 7 * 4
            rows.append(row)
        assert not os.path.exists(os.path.join(root, directory, f"img_{int(count) + 1:05d}.t7"))
        found[directory] = (torch.stack(rows).numpy(), int(label))
    return found


def test_ta3n_reads_every_number(made, cli) -> None:
    folder, arrays = made
    result = cli("store", "export", "--format", "t7", folder, "--out", "out")
    assert result.exit_code == 0, result.output
    read = {}
    for split, ending in (("train", "1"), ("val", "2")):
        part = as_ta3n_reads(Path("out"), f"list_left_{split}_mine-feature.txt")
        assert all(name.endswith(ending) for name in part) and len(part) == 2
        read |= part
    for video, x_TD in arrays.items():
        values, label = read[f"RGB-feature/{video}"]
        assert np.array_equal(values, x_TD.astype(np.float32)) and label == ("walk" in video)
    assert Path("out/classInd_mine.txt").read_text() == "0 run\n1 walk\n"
    assert json.loads(Path("out/exported.json").read_text())["dataset"] == "left"


@pytest.mark.parametrize("layout", ["t7", "npy"])
def test_there_and_back_is_exact_and_so_are_the_lists(made, cli, layout) -> None:
    folder, arrays = made
    assert cli("store", "export", "--format", layout, folder, "--out", "out").exit_code == 0
    dtype = arrays[IDS[0]].dtype.name
    home = Path("out") / ("RGB-feature" if layout == "t7" else ".")
    result = cli(
        *("store", "import", "--format", layout, home, "--dataset", "back", "--dtype", dtype),
        *("--benchmark", "again", "--classes", "out/classInd_mine.txt"),
        *("--list", "out/list_left_train_mine-feature.txt"),
        *("--list", "out/list_left_val_mine-feature.txt"),
    )
    assert result.exit_code == 0, result.output
    assert "largest error" not in result.output
    [back] = Path("features/back").iterdir()
    with FeatureStore(back) as store:
        assert store.records.keys() == arrays.keys()
        for video, x_TD in arrays.items():
            assert store.read(video).tobytes() == x_TD.tobytes()
    before, after = (
        {(v.id, v.label, v.class_name, v.split) for v in read_manifest(Path("manifests") / name)}
        for name in ("mine/left.csv", "again/back.csv")
    )
    assert before == after


def test_npy_has_the_stored_type_or_float32_and_is_never_rounded(made, cli) -> None:
    folder, arrays = made
    assert cli("store", "export", "--format", "npy", folder, "--out", "a").exit_code == 0
    wide = cli("store", "export", "--format", "npy", folder, "--out", "b", "--dtype", "float32")
    assert wide.exit_code == 0
    for video, x_TD in arrays.items():
        same, single = np.load(f"a/{video}.npy"), np.load(f"b/{video}.npy")
        assert same.dtype == x_TD.dtype and np.array_equal(same, x_TD)
        assert single.dtype == np.float32 and np.array_equal(single, x_TD)
    half = cli("store", "export", "--format", "npy", folder, "--out", "c", "--dtype", "float16")
    assert (half.exit_code == 0) is (x_TD.dtype == np.float16)


def test_again_writes_only_what_is_missing(made, cli) -> None:
    folder, _ = made
    arguments = ("store", "export", "--format", "t7", folder, "--out", "out")
    assert cli(*arguments).exit_code == 0
    kept = Path("out/RGB-feature/v_run_1/img_00001.t7").stat().st_ino
    cut = Path("out/RGB-feature/v_run_2/img_00002.t7")
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-1])
    Path("out/RGB-feature/v_walk_1/img_00001.t7").unlink()
    again = cli(*arguments)
    assert again.exit_code == 0 and "in this run 2 with 7 features" in again.output
    assert cut.read_bytes() == whole
    assert Path("out/RGB-feature/v_run_1/img_00001.t7").stat().st_ino == kept


def test_a_benchmark_that_lacks_videos_is_said(made, cli) -> None:
    folder, _ = made
    rows = read_manifest(Path("manifests/mine/left.csv"))
    more = [*rows[:2], Video(id="v_run_9", label=0, class_name="run", split="train", frames=None)]
    write_manifest(Path("manifests/small/left.csv"), more)
    arguments = ("store", "export", "--format", "t7", folder, "--out", "out")
    result = cli(*arguments, "--benchmark", "small")
    assert result.exit_code == 3 and "1 listed video is not in the store" in result.output
    assert {p.name for p in Path("out/RGB-feature").iterdir()} == {v.id for v in rows[:2]}
    assert not list(Path("out").glob("*mine*"))


def test_what_is_refused(made, cli, tmp_path) -> None:
    folder, _ = made
    export = ("store", "export", "--format", "t7")
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    assert "is not empty" in cli(*export, folder, "--out", "full").output
    assert cli(*export, folder, "--out", "out").exit_code == 0
    other = make_store(tmp_path / "features", "other", features(), CONFIG)
    refused = cli(*export, other, "--out", "out")
    assert refused.exit_code == 1 and "the export of another store" in refused.output
    assert "--dtype is read with" in cli(*export, folder, "--out", "x", "--dtype", "float16").output
    foreign = cli(*export, folder, "--out", "x", "--benchmark", "no")
    subset = cli("store", "subset", folder, "--out", "x", "--benchmark", "no")
    assert foreign.exit_code == subset.exit_code == 1 and foreign.output == subset.output
    assert "No benchmark 'no' lists videos of left. Those that do: mine." in foreign.output


@pytest.mark.parametrize("video", ["../../stolen", "/tmp/stolen", "a/../../b", "a\\b"])
def test_a_name_from_the_store_never_leaves_the_folder(cli, tmp_path, monkeypatch, video) -> None:
    """A store may be anybody's; HDF5 itself takes '..' as a name."""
    monkeypatch.chdir(tmp_path)
    folder = make_store(tmp_path / "features", "left", {"good": features()[IDS[0]]})
    with monkeypatch.context() as patched:
        read = FeatureStore.__init__

        def hostile(self, *arguments) -> None:
            read(self, *arguments)
            self.records = {video: self.records["good"]}

        patched.setattr(FeatureStore, "__init__", hostile)
        result = cli("store", "export", "--format", "npy", folder, "--out", tmp_path / "a" / "out")
    assert result.exit_code == 1 and "is no video id" in result.output
    assert not (tmp_path / "a").exists()


def test_an_export_that_was_killed_goes_on(tmp_path) -> None:
    folder = make_store(
        tmp_path / "features", "left", {f"v{i:03}": np.full((3, 4), i) for i in range(60)}
    )
    code = (
        "import sys, time, store.exporting as exporting\n"
        "write, count = exporting.tensor_bytes, [0]\n"
        "def slow(row):\n"
        "    count[0] += 1\n"
        "    if count[0] > 60:\n"
        "        time.sleep(60)\n"
        "    return write(row)\n"
        "exporting.tensor_bytes = slow\n"
        "from cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = ["store", "export", "--format", "t7", str(folder), "--out", "out", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command], cwd=tmp_path, env=environment
    )
    there = tmp_path / "out" / "RGB-feature"
    end = time.monotonic() + 60
    while len(list(there.glob("*"))) < 15 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_ino for path in there.iterdir()}
    assert 15 <= len(before) < 60
    for path in there.iterdir():
        assert len(list(path.iterdir())) == 3
    again = subprocess.run(
        [sys.executable, str(REPOSITORY / "cli.py"), *command], cwd=tmp_path, capture_output=True
    )
    assert again.returncode == 0, again.stderr
    assert {n: (there / n).stat().st_ino for n in before} == before
    for number in range(60):
        row = torch.load(there / f"v{number:03}" / "img_00003.t7", weights_only=True)
        assert row.tolist() == [number] * 4
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"RGB-feature", "exported.json"}


def test_the_benchmark_runs_and_its_bytes_are_the_floor(tmp_path) -> None:
    options = ["--videos", "3", "--frames", "4", "--rounds", "1", "--folder", str(tmp_path / "x")]
    result = CliRunner().invoke(benchmark, options)
    assert result.exit_code == 0, result.output
    rows = [line.split("|") for line in result.output.splitlines() if line.startswith("| ")][1:]
    assert {row[1].strip() for row in rows} >= {"store import", "store export", "torch.load"}
    assert all(row[5].strip() == "1.0" for row in rows if "the bytes" in row[1])
    for number in range(2):
        exported = tmp_path / "x" / f"round{number}" / "export" / "RGB-feature"
        assert len(list(exported.rglob("*.t7"))) == 12
