"""Several processes that train one run: the numbers are those of one process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, make_problem, metrics, slow, toy_arguments

from adapt import checkpoint, methods
from adapt.runs import RunFolder

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SMALL = {"source": "a", "target": "b", "levels": 3, "width": 6, "discriminator_width": 8}
CASES = {
    "paper": {"preset": "paper"},
    "released": {"preset": "released", "draws": 1},
    "shared": {
        "preset": "paper",
        **{"discriminators": "shared", "aggregation": "mean", "level_weights": "equal"},
    },
    "fewer target videos": {"preset": "paper", "target_videos": 6},
    "shared, fewer target videos": {
        "preset": "paper",
        **{"discriminators": "shared", "target_videos": 6},
    },
    "source-only": {"method": "source-only"},
    "robust": {"preset": "robust"},
    "light": {"preset": "light"},
    "infomax": {"method": "infomax"},
    "dan": {"method": "dan", "epochs": 3},
    "jan": {"method": "jan", "preset": "shared", "mmd_estimate": "tll"},
    "mcc": {"method": "mcc"},
    "target-only": {"method": "target-only"},
    "dann": {"method": "dann", "epochs": 3},
    "ta3n": {"method": "ta3n", "epochs": 3},
    "adabn": {"method": "adabn", "initialisation": "default"},
    "adabn, shared": {"method": "adabn", "preset": "shared"},
    "cdan": {"method": "cdan", "ramp_steps": 40},
    "cdan, random": {"method": "cdan", "multilinear": "random", "ramp_steps": 40},
    "cdan-e": {"method": "cdan-e", "ramp_steps": 40, "target_videos": 6},
    "cdan-e, tll": {"method": "cdan-e", "weighting": "tll", "ramp_steps": 40},
}

QUICK = ("paper",)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=300,
    )


def steps(path: Path, launcher: Sequence[object], given: dict[str, Any]) -> dict[str, Any]:
    script = Path(__file__).with_name("parallel_steps.py")
    reads = methods.find(str(given.get("method", "ma2l-td"))).reads
    small = {name: value for name, value in SMALL.items() if name in reads}
    process = run(*launcher, script, path, json.dumps(small | given))
    assert process.returncode == 0, process.stderr
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


@pytest.mark.parametrize(
    "case",
    [case if case in QUICK else slow(case) for case in CASES],
)
def test_two_processes_take_the_steps_of_one(tmp_path: Path, case: str) -> None:
    """Losses, gradients, parameters, statistics and random state, dropout on, in float64."""
    one = steps(tmp_path / "one.pt", [sys.executable], CASES[case])
    two = steps(tmp_path / "two.pt", [*TORCHRUN, "2"], CASES[case])
    assert (one["world"], two["world"]) == (1, 2)
    assert torch.equal(one["random"], two["random"])
    close = {"rtol": 1e-8, "atol": 1e-12}
    for a, b in zip(one["losses"], two["losses"], strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, **close)
    still = (
        "model.encoder.0.bias",
        "model.encoder.4.bias",
    )  # gradients of pure rounding, which Adam scales up
    for name, parameter in one["parameters"].items():
        if name not in still:
            torch.testing.assert_close(two["parameters"][name], parameter, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_what_is_joined_over_the_processes(tmp_path: Path) -> None:
    script = Path(__file__).with_name("gathered_rows.py")
    found = {}
    for name, launcher in (("one", [sys.executable]), ("two", [*TORCHRUN, "2"])):
        process = run(*launcher, script, tmp_path / name)
        assert process.returncode == 0, process.stderr
        found[name] = torch.load(tmp_path / name, weights_only=True)
    for name, value in found["one"].items():
        torch.testing.assert_close(found["two"][name], value, rtol=1e-12, atol=1e-12)


def same_run(one: Path, two: Path) -> None:
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for a, b in zip(metrics(one), metrics(two), strict=True):
        assert a.keys() == b.keys()  # a score jumps where a video or a cluster changes sides
        for name, value in a.items():
            assert name.startswith("score ") or value == pytest.approx(b[name], rel=2e-3)
    # float32 sums in another order may move a video that lies on a boundary
    results = [dataclasses.asdict(RunFolder(folder).result()) for folder in (one, two)]
    assert results[0]["videos"] == results[1]["videos"]
    assert abs(results[0]["overall"] - results[1]["overall"]) < 20


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_torchrun_trains_the_run_of_one_process(cli, problem: Path, preset: str) -> None:
    assert cli(*toy_arguments(problem, "one", "--preset", preset)).exit_code == 0
    process = run(*TORCHRUN, 2, "--", "cli.py", *toy_arguments(problem, "two", "--preset", preset))
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("target evaluation videos") == 1  # only the first process speaks
    assert len(metrics(problem / "two")) == 3
    same_run(problem / "one", problem / "two")
    assert json.loads((problem / "two" / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(cli, problem: Path, monkeypatch) -> None:
    """A run that was stopped may be resumed on another number of processes."""
    kept = ("--checkpoint-every", 1)
    assert cli(*toy_arguments(problem, "whole", *kept)).exit_code == 0

    def stop(run: RunFolder, state: dict[str, Any]) -> None:
        keep(run, state)
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    keep = checkpoint.keep
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "keep", stop)
        assert cli(*toy_arguments(problem, "resumed", *kept)).exit_code == 130
    process = run(
        *TORCHRUN, 2, "--", "cli.py", *toy_arguments(problem, "resumed", *kept, "--resume")
    )
    assert process.returncode == 0, process.stderr
    assert "after epoch 2 of 3" in process.stderr
    same_run(problem / "whole", problem / "resumed")


@pytest.mark.slow
def test_several_seeds_on_several_processes(problem: Path) -> None:
    process = run(*TORCHRUN, 2, "--", "cli.py", *toy_arguments(problem, "s", "--seeds", "0,1"))
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("overall: mean") == 1
    assert json.loads((problem / "s" / "seeds.json").read_text())["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch-size", 7), "cannot share a batch of 7 videos equally. Choose --batch-size"),
        slow(("--run", "."), ". is not empty."),
    ],
    ids=["batch", "folder"],
)
def test_what_one_process_refuses_ends_all(
    problem: Path, more: Sequence[object], message: str
) -> None:
    process = run(*TORCHRUN, 2, "--", "cli.py", *toy_arguments(problem, "run", *more))
    assert process.returncode != 0
    assert message in process.stderr
    assert not (problem / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unlike", "said"),
    [("seed", "they differ in features."), ("labels", "they differ in videos and labels.")],
)
def test_processes_with_other_data_are_refused(tmp_path: Path, unlike: str, said: str) -> None:
    """As on two machines, of which one has features of its own or older manifests."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, seed in zip(folders, (0, unlike == "seed")):
        make_problem(folder, seed=seed)
    if unlike == "labels":
        manifest = folders[1] / "manifests" / "toy" / "left.csv"
        first, rest = manifest.read_text().split("left_0_5,0,c0", 1)
        manifest.write_text(f"{first}left_0_5,1,c1{rest}")
    script = Path(__file__).with_name("rank_folders.py")
    here = toy_arguments(Path(), "run")
    process = run(*TORCHRUN, 2, "--", script, *folders, *here)
    assert process.returncode != 0
    assert "loaded other data than the first one" in process.stderr and said in process.stderr
    assert not any((folder / "run").exists() for folder in folders)


@pytest.mark.slow
def test_a_process_that_ends_alone_ends_all_with_one_sentence(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        make_problem(folder)
    [shard] = (folders[1] / "features" / "left").rglob("shard-*.h5")
    shard.unlink()
    script = Path(__file__).with_name("rank_folders.py")
    process = run(*TORCHRUN, 2, "--", script, *folders, *toy_arguments(Path(), "run"))
    assert process.returncode != 0
    assert shard.name in process.stderr
    assert "RuntimeError" not in process.stderr
    assert not (folders[0] / "run" / "done.json").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all(problem: Path) -> None:
    process = run(
        *TORCHRUN, 2, "--", "cli.py", *toy_arguments(problem, "r", "--learning-rate", "1e30")
    )
    assert process.returncode != 0
    assert "not finite" in process.stderr


def test_half_of_torchruns_variables(cli, problem: Path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 2
    assert "RANK, MASTER_ADDR, MASTER_PORT is not set" in result.output
