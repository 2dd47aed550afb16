"""Source only trained along with a run: the same as a run of its own, and the run does not notice it."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, make_problem, metrics, stopped_before, toy_arguments
from test_parallel import ENVIRONMENT
from test_unlabelled import take_labels_away

from adapt import alongside
from adapt.baselines import SOURCE_ONLY, TARGET_STATISTICS
from store.errors import RunError, StoreError

BOTH = [SOURCE_ONLY, TARGET_STATISTICS]
KEPT = ("checkpoint.pt", "predictions.csv")


def train(cli, root: Path, run: str, *more: object) -> str:
    result = cli(*toy_arguments(root, run, *more, "--baselines"))
    assert result.exit_code == 0, result.output
    return result.output


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "baselines.json").read_text())
    return found


def predicted(run: Path) -> dict[str, str]:
    with (run / "predictions.csv").open(newline="") as file:
        return {row["video"]: row["predicted"] for row in csv.DictReader(file)}


def cells(output: str, name: str) -> list[str]:
    [line] = [line for line in output.splitlines() if line.startswith(f"    {name}  ")]
    return line.split(name)[1].split()


@pytest.mark.parametrize(
    "more", [("--score-every", 1), ("--method", "infomax"), ("--method", "mcd")], ids=str
)
def test_the_run_does_not_notice_them(cli, problem: Path, more: tuple[object, ...]) -> None:
    states = []
    for name in ("without", "with"):
        option = "--no-baselines" if name == "without" else "--baselines"
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        assert cli(*toy_arguments(problem, name, *more, option)).exit_code == 0
        states.append((torch.get_rng_state(), np.random.get_state()[1], random.getstate()))
    assert (problem / "with" / "baselines.json").exists()
    assert not (problem / "without" / "baselines.json").exists()
    assert metrics(problem / "with") == metrics(problem / "without")
    for name in KEPT:
        assert (problem / "with" / name).read_bytes() == (problem / "without" / name).read_bytes()
    assert torch.equal(states[0][0], states[1][0]), "torch's generator was moved"
    assert (states[0][1] == states[1][1]).all() and states[0][2] == states[1][2]


@pytest.mark.parametrize(
    "more",
    [
        ("--seed", 3, "--draws", 2, "--eval-draws", 2),
        ("--method", "dann", "--preset", "shared"),
        ("--method", "infomax", "--input-coral", "source-to-target", "--select", "im"),
    ],
    ids=lambda more: str(more[1]),
)
def test_they_are_what_source_only_is_alone(cli, problem: Path, more: tuple[object, ...]) -> None:
    output = train(cli, problem, "run", *more)
    found, own = record(problem / "run"), json.loads((problem / "run" / "config.json").read_text())
    config, own = found["config"], own["config"]
    unlike = {name for name, value in config.items() if own.get(name, value) != value}
    assert unlike <= {"method", "preset", "select", "score_every", "statistics", "input_coral"}
    assert (config["method"], config["select"], config["input_coral"]) == (
        *("source-only", "last", "none"),
    )
    assert list(found["rows"]) == BOTH and found["left_out"] == {}
    (problem / "config.json").write_text(json.dumps(config))
    overall = json.loads((problem / "run" / "done.json").read_text())["target_eval"]["overall"]
    places = [f"--{name}={problem / name}" for name in ("features", "manifests")]
    for name, statistics in zip(BOTH, ("running", "target")):
        alone = cli(
            *("adapt", "--config", problem / "config.json", "--statistics", statistics, *places),
            *("--run", problem / statistics, "--device", "cpu", "--no-baselines"),
        )
        assert alone.exit_code == 0, alone.output
        row = found["rows"][name]
        assert row["predicted"] == predicted(problem / statistics)
        result = json.loads((problem / statistics / "done.json").read_text())["target_eval"]
        assert row["target_eval"] == result
        assert cells(output, name) == [
            *(f"{result['overall']:.2f}", f"{result['class_mean']:.2f}"),
            f"{overall - result['overall']:+.2f}",
        ]


def test_guesses_follow_from_the_labels(cli, tmp_path: Path) -> None:
    make_problem(tmp_path, classes=4)
    path = tmp_path / "manifests" / "toy" / "right.csv"
    lines = path.read_text().splitlines(keepends=True)
    dropped = [line for line in lines if line.startswith(("right_1_0,", "right_2_1,"))]
    path.write_text("".join(line for line in lines if line not in dropped))
    assert len(dropped) == 2
    result = cli(*toy_arguments(tmp_path, "run"))  # without baselines they stand there too
    assert result.exit_code == 0, result.output
    assert cells(result.output, "always the most frequent class")[:2] == [
        f"{100 * 4 / 14:.2f}",
        "25.00",
    ]
    assert cells(result.output, "guessing evenly")[:2] == ["25.00", "25.00"]
    assert SOURCE_ONLY not in result.output


@pytest.mark.parametrize(
    ("more", "left_out", "reason"),
    [
        (("--method", "source-only"), BOTH, "the run is source only itself"),
        (("--method", "target-only"), BOTH, "target-only loads no video of the source"),
        (("--method", "sa"), BOTH, "sa has neither encoder nor optimiser"),
        (("--method", "dann"), BOTH[1:], "the encoder has no batch norm"),
    ],
    ids=str,
)
def test_what_cannot_stand_there_is_named(
    cli, problem: Path, more: tuple[object, ...], left_out: list[str], reason: str
) -> None:
    output = train(cli, problem, "run", *more)
    found = record(problem / "run")
    assert list(found["left_out"]) == left_out
    assert list(found["rows"]) == [name for name in BOTH if name not in left_out]
    assert all(text.startswith(reason) for text in found["left_out"].values())
    assert f"not beside it ({'; '.join(left_out)}): {reason}" in output


def test_one_that_fails_does_not_stop_the_run(cli, problem: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise RunError("The source loss is not finite.")

    monkeypatch.setattr(alongside, "train", fail)
    output = train(cli, problem, "run")
    assert record(problem / "run")["rows"] == {}
    assert f"not beside it ({'; '.join(BOTH)}): The source loss is not finite." in output


def test_features_that_cannot_be_read_stop_the_run(cli, problem: Path, monkeypatch) -> None:
    """Of several processes one alone may fail so: it must not go on beside the others."""

    def fail(*_: object) -> None:
        raise StoreError("shard-00000.h5 cannot be read.")

    monkeypatch.setattr(alongside, "train", fail)
    result = cli(*toy_arguments(problem, "run", "--baselines"))
    assert result.exit_code == 1 and "shard-00000.h5 cannot be read." in result.output
    assert not (problem / "run" / "baselines.json").exists()


def test_without_labels_scores_stand_there(cli, problem: Path) -> None:
    take_labels_away(problem)
    output = train(cli, problem, "run", "--score-every", 1)
    rows = record(problem / "run")["rows"]
    last = json.loads((problem / "run" / "metrics.jsonl").read_text().splitlines()[-1])["scores"]
    heads = next(line for line in output.splitlines() if "entropy (low)" in line).split(" (")
    names = [head.split()[-1] for head in heads[:-1]]
    assert set(names) == {"im", "entropy", "snd", "bnm", "softmaxcorr"}
    assert cells(output, "this run") == [f"{last[name]:.4f}" for name in names]
    for name in BOTH:
        assert rows[name]["target_eval"] is None and len(rows[name]["predicted"]) == 36
        assert cells(output, name) == [f"{rows[name]['scores'][n]:.4f}" for n in names]
    assert " %" not in output and "overall" not in output

    # By hand: entropy and information maximisation of source only alone, from its stored model.
    (problem / "config.json").write_text(json.dumps(record(problem / "run")["config"]))
    places = [f"--{name}={problem / name}" for name in ("features", "manifests")]
    alone = cli(
        *("adapt", "--config", problem / "config.json", "--score-every", 1, "--device", "cpu"),
        *(*places, "--run", problem / "alone", "--no-baselines"),
    )
    assert alone.exit_code == 0, alone.output
    text = (problem / "alone" / "metrics.jsonl").read_text().splitlines()[-1]
    for name in names:
        assert rows[SOURCE_ONLY]["scores"][name] == pytest.approx(json.loads(text)["scores"][name])


def test_several_seeds_have_their_own_and_a_run_that_goes_on_keeps_them(cli, problem: Path) -> None:
    calm = train(cli, problem, "calm", "--seeds", "0,1")
    with stopped_before(2):
        arguments = toy_arguments(problem, "run", "--seeds", "0,1", "--baselines")
        assert cli(*arguments).exit_code == 130
    first = problem / "run" / "seed0" / "baselines.json"
    before = first.stat().st_mtime_ns
    output = train(cli, problem, "run", "--seeds", "0,1", "--resume")
    assert first.stat().st_mtime_ns == before, "it was trained again"
    shares = []
    for seed in (0, 1):
        a, b = (record(problem / name / f"seed{seed}") for name in ("calm", "run"))
        assert a.pop("seconds") > 0 and b.pop("seconds") > 0
        assert a == b and a["config"]["seed"] == seed
        shares.append(a["rows"][SOURCE_ONLY]["target_eval"]["overall"])
        for name in KEPT:
            kept = [problem / run / f"seed{seed}" / name for run in ("calm", "run")]
            assert kept[0].read_bytes() == kept[1].read_bytes()
    for said in (calm, output):
        assert "beside it, on the same videos, means over the seeds:" in said
        assert cells(said, SOURCE_ONLY)[0] == f"{np.mean(shares):.2f}"
    # Whether they were trained along is no option of the run: it goes on either way.
    assert cli(*toy_arguments(problem, "run", "--seeds", "0,1", "--resume")).exit_code == 0


def test_a_damaged_file_is_named(cli, problem: Path) -> None:
    train(cli, problem, "run")
    (problem / "run" / "baselines.json").write_text('{"rows": 3}')
    result = cli("report", problem / "run", "--out", problem / "a.html")
    assert result.exit_code == 1
    assert "baselines.json is damaged" in result.output
    assert "Remove it: the run itself does not need it." in result.output


@pytest.mark.slow
def test_several_processes_train_the_same(cli, problem: Path) -> None:
    train(cli, problem, "one")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--"),
            *map(str, ("cli.py", *toy_arguments(problem, "two", "--baselines"))),
        ],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    one, two = record(problem / "one"), record(problem / "two")
    assert list(two["rows"]) == BOTH and one["config"] == two["config"]
    for name in BOTH:
        assert one["rows"][name] == two["rows"][name]
