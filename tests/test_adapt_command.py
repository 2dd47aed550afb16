"""`adapt` and `evaluate` end to end on a small problem."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CONFIG, edited_json, make_store, toy_arguments

from adapt import methods
from store.manifest import read_manifest, write_manifest

SHARED = """quiet 
features manifests store allow-missing bank run device resume checkpoint-every config show-config seeds
baselines tensorboard
source target benchmark classes method preset seed select score-every epochs batch-size target-batch
source-sampling train-sampling
draws eval-draws compute optimiser momentum learning-rate rate-decay rate-gamma weight-decay gradient-clip
adversarial-weight adversarial-ramp frames encoder input-norm input-coral input-coral-epsilon width dropout
video-dropout initialisation statistics
"""
OWN = {
    "ma2l-td": """kernel levels discriminator-width discriminators adversarial-levels first-level reversal
        aggregation level-weights slot-reduction bound entropy-weight entropy-reduction diversity-weight""",
    "infomax": "entropy-weight diversity-weight",
    "dann": "frame-reversal video-reversal entropy-weight entropy-reduction",
    "ta3n": "frame-reversal relation-reversal video-reversal entropy-weight entropy-reduction",
    "dan": "mmd-weight mmd-ramp mmd-estimate",
    "jan": "mmd-weight mmd-ramp mmd-estimate",
    "mcc": "confusion-weight confusion-temperature",
    "mcd": "form encoder-steps discrepancy-reversal",
    "source-only": "",
    "target-only": "",
    "abg": """pooling video-graph frame-loss frame-reversal video-reversal domain-weight
        entropy-weight""",
    "tcon": "segment-weight video-weight attention-weight confident",
    "transferattn": "bottleneck-weight entropy-weight train-heads",
    "adabn": "when target-scale",
    "cdan": "multilinear domain-weight ramp-steps",
    "cdan-e": "multilinear domain-weight ramp-steps weighting",
    "coral": "classifier normalisation epsilon",
    "gfk": "classifier normalisation dimension",
    "sa": "classifier normalisation dimension",
}


def test_a_new_option_is_a_conscious_change() -> None:
    from cli import main

    command = main.commands["adapt"].made_for([])
    flags = [p.opts[0].removeprefix("--") for p in command.params]
    assert len(flags) == len(set(flags))
    assert set(flags) == {*SHARED.split(), *" ".join(OWN.values()).split()}
    for name in methods.names():
        own = [option.replace("_", "-") for option in methods.find(name).own]
        assert own == OWN[name].split()


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_a_run_describes_itself_and_evaluate_repeats_it(cli, problem: Path, preset: str) -> None:
    result = cli(*toy_arguments(problem, "run", "--preset", preset))
    assert result.exit_code == 0, result.output
    run = problem / "run"
    attends = {"attention.json"} if preset == "paper" else set()
    assert {path.name for path in run.iterdir()} - attends == {
        *("config.json", "environment.json", "metrics.jsonl", "checkpoint.pt"),
        *("predictions.csv", "done.json", "candidates"),
    }
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["preset"] == preset and config["config"]["frames"] == 9
    assert config["data"]["store"].startswith("fake-")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert {"source", "entropy", "adversarial", "reversal", "learning_rate"} <= set(lines[0])

    done = json.loads((run / "done.json").read_text())["target_eval"]
    assert f"overall {done['overall']:.2f} %" in result.output
    assert f"class mean {done['class_mean']:.2f} %" in result.output
    table = pd.read_csv(run / "predictions.csv")
    assert 100 * (table["class"] == table["predicted"]).mean() == pytest.approx(done["overall"])
    listed = read_manifest(problem / "manifests" / "toy" / "right.csv")
    assert table["video"].tolist() == [v.id for v in listed if v.split == "eval"]

    again = cli("evaluate", run, "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output
    assert f"overall {done['overall']:.2f} %" in again.output


def test_the_checkpoint_holds_what_predicts_and_nothing_that_runs(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    checkpoint = torch.load(problem / "run" / "checkpoint.pt", weights_only=True)
    assert set(checkpoint) == {"backbone_width", "classes", "config", "recipe", "model"}
    assert checkpoint["config"]["width"] == 16
    assert checkpoint["recipe"] == {"config": CONFIG, "weights": "none"}
    assert {name.split(".")[0] for name in checkpoint["model"]} == {"encoder", "classifier"}
    assert checkpoint["classes"] == ["c0", "c1", "c2"] and checkpoint["backbone_width"] == 16


def test_evaluate_says_when_it_comes_out_otherwise(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    done = problem / "run" / "done.json"
    with edited_json(done) as record:
        record["target_eval"]["class_mean"] = 12.5
    result = cli("evaluate", problem / "run", "--device", "cpu")
    assert result.exit_code == 1 and "overall and 12.50 class mean, now it" in result.output


def test_evaluate_says_when_the_videos_are_others(cli, problem: Path) -> None:
    """Even where the accuracy is the same, as 0 % of fewer videos is."""
    assert cli(*toy_arguments(problem, "run", "--epochs", 1)).exit_code == 0
    run, path = problem / "run", problem / "manifests" / "toy" / "right.csv"
    table = pd.read_csv(run / "predictions.csv")
    wrong = sorted(table["video"][table["class"] != table["predicted"]])
    assert len(wrong) > 1
    write_manifest(
        path, [v for v in read_manifest(path) if v.split == "train" or v.id in wrong[1:]]
    )
    others = table["class"].map({"c0": "c1", "c1": "c2", "c2": "c0"})  # as if all had been wrong
    table["predicted"] = table["predicted"].where(table["class"] != table["predicted"], others)
    table.to_csv(run / "predictions.csv", index=False)
    with edited_json(run / "done.json") as done:
        done["target_eval"] |= {"overall": 0.0, "class_mean": 0.0}
        done["predicted"] = {name: int((table["predicted"] == name).sum()) for name in others}
    result = cli("evaluate", run, "--device", "cpu")
    assert "overall 0.00 %" in result.output and result.exit_code == 1, result.output
    lost = sorted(set(table["video"]) - set(wrong[1:]))
    is_ = "video is" if len(lost) == 1 else "videos are"
    said = f"was evaluated on 12 videos, now there are {len(wrong) - 1}, and {len(lost)} {is_} not"
    assert said in result.output and f"(first: {lost[0]}): the manifests" in result.output


def test_evaluate_after_the_folders_moved(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    for name in ("features", "manifests"):
        (problem / name).rename(problem / f"moved-{name}")
    places = ("--features", problem / "moved-features", "--manifests", problem / "moved-manifests")
    assert cli("evaluate", problem / "run", "--device", "cpu", *places).exit_code == 0
    lost = cli("evaluate", problem / "run", "--device", "cpu")
    assert lost.exit_code == 1
    assert "are not there any more. Where they lie now: --features and --manifests." in lost.output


def test_evaluate_without_a_finished_run(cli, tmp_path: Path) -> None:
    result = cli("evaluate", tmp_path / "nothing")
    assert result.exit_code == 1
    assert f"There is no folder {tmp_path / 'nothing'}. To see the runs that there" in result.output
    assert result.output.endswith("runs list\n")
    (tmp_path / "nothing").mkdir()
    result = cli("evaluate", tmp_path / "nothing")
    assert "has no config.json: no run, or one that did not finish. To see" in result.output


def test_source_only(cli, problem: Path) -> None:
    result = cli(*toy_arguments(problem, "run", "--method", "source-only"))
    assert result.exit_code == 0 and "source-only, seed 0, last epoch" in result.output
    line = json.loads((problem / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert "source" in line and "adversarial" not in line and "entropy" not in line


def test_adaptation_gains_where_the_target_is_shifted(cli, tmp_path: Path) -> None:
    """Not a benchmark: that the pieces, joined by the command, learn what they are for."""
    from conftest import make_problem

    make_problem(tmp_path, shift=3.0, per_class=24, classes=4)
    more = ("--epochs", 30, "--batch-size", 16, "--learning-rate", 1e-3)
    accuracies = {}
    for name, method in (("source-only", ("--method", "source-only")), ("ma2l-td", ())):
        assert cli(*toy_arguments(tmp_path, name, *more, *method)).exit_code == 0
        done = json.loads((tmp_path / name / "done.json").read_text())
        accuracies[name] = done["target_eval"]["overall"]
    assert accuracies["ma2l-td"] >= accuracies["source-only"] + 10


def test_missing_features(cli, problem: Path) -> None:
    path = problem / "manifests" / "toy" / "right.csv"
    videos = list(read_manifest(path))
    extra = [dataclasses.replace(videos[-1], id=f"lost_{i}") for i in range(2)]
    write_manifest(path, [*videos, *extra])
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 1
    assert re.search(
        r"2 of 26 right train videos have no features in \S+ \(first: lost_0\)", result.output
    )
    assert "Run: python cli.py extract --dataset right --manifests" in result.output
    assert "--backbone fake --weights DIR/none" in result.output
    assert not (problem / "run").exists()
    allowed = cli(*toy_arguments(problem, "run", "--allow-missing"))
    assert allowed.exit_code == 0, allowed.output
    assert cli("evaluate", problem / "run", "--device", "cpu").exit_code == 0


def test_no_features_at_all(cli, problem: Path) -> None:
    (problem / "features" / "right").rename(problem / "away")
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 1
    missing = f"36 of 36 right videos have no features in {problem / 'features' / 'right'} (first: "
    assert f"{missing}right_0_0). Run: python cli.py extract --dataset right" in result.output
    assert "--dataset left" not in result.output


@pytest.fixture
def two_stores(problem: Path) -> tuple[Path, str]:
    """A second store of both domains, with stride 2; returns its name too."""
    for domain in ("left", "right"):
        videos = read_manifest(problem / "manifests" / "toy" / f"{domain}.csv")
        features = {v.id: np.ones((3, 16)) for v in videos}
        folder = make_store(problem / "features", domain, features, {**CONFIG, "stride": 2})
    return problem, folder.name


def test_several_stores_are_named_and_never_guessed(cli, two_stores: tuple[Path, str]) -> None:
    problem, second = two_stores
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 1
    assert "Several stores fit, made with different options. Choose one:" in result.output
    assert f"--store {second}" in result.output and "stride: " in result.output
    assert not (problem / "run").exists()

    chosen = cli(*toy_arguments(problem, "run", "--store", second))
    assert chosen.exit_code == 0
    config = json.loads((problem / "run" / "config.json").read_text())
    assert config["data"]["store"] == second
    unclear = cli(*toy_arguments(problem, "other", "--store", "fake"))
    assert (
        unclear.exit_code == 1
        and "2 stores begin with 'fake'. Both domains have: fake-" in unclear.output
    )
    absent = cli(*toy_arguments(problem, "other", "--store", "resnet"))
    assert (
        absent.exit_code == 1
        and "No store begins with 'resnet'. Both domains have: fake-" in absent.output
    )


def test_unlike_stores_are_refused_with_what_differs(cli, problem: Path) -> None:
    (problem / "features" / "right").rename(problem / "away")
    videos = read_manifest(problem / "manifests" / "toy" / "right.csv")
    make_store(
        problem / "features",
        "right",
        {v.id: np.ones((3, 16)) for v in videos},
        {**CONFIG, "stride": 2},
    )
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 1
    assert "were made differently and cannot be mixed" in result.output
    assert "differ in stride: 1 or 2." in result.output


def test_a_used_run_folder_is_refused(cli, problem: Path) -> None:
    (problem / "run").mkdir()
    (problem / "run" / "notes.txt").write_text("mine")
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 1
    assert "run is not empty. Give another --run, or remove it." in result.output
    assert (problem / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--frames", 32), "kernel 3 with 3 levels needs 9 frames, got frames=32. Use --frames 9"),
        (("--levels", 1), "--levels must be from 2 to 30, got 1."),
        (("--benchmark", "none"), "Benchmark 'none' does not have both 'left' and 'right'."),
        (("--target", "left"), "Source and target are both 'left'."),
        (("--target", "up"), "No benchmark has both 'left' and 'up'."),
        (("--preset", "best"), "--preset must be one of robust, light, paper, released"),
    ],
    ids=str,
)
def test_bad_options(cli, problem: Path, more: tuple[object, ...], text: str) -> None:
    result = cli(*toy_arguments(problem, "run", *more))
    assert result.exit_code in (1, 2) and text in result.output
    assert not (problem / "run").exists()


def test_damaged_features_are_found(cli, problem: Path) -> None:
    shard = next((problem / "features" / "left").rglob("shard-*.h5"))
    with h5py.File(shard) as file:
        offset = file["left_0_11"].id.get_offset()
    with shard.open("r+b") as stream:
        stream.seek(offset + 7)
        byte = stream.read(1)[0]
        stream.seek(offset + 7)
        stream.write(bytes([byte ^ 1]))
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 1
    assert "the features of left_0_11 were damaged after they were written" in result.output
    assert not (problem / "run").exists()


def test_statistics_of_the_target_change_prediction_and_nothing_of_training(
    cli, problem: Path
) -> None:
    for name, statistics in (("a", "running"), ("b", "target")):
        arguments = toy_arguments(problem, name, "--method", "infomax", "--statistics", statistics)
        assert cli(*arguments).exit_code == 0
        result = cli("evaluate", problem / name)
        assert result.exit_code == 0 and "the same as the run recorded" in result.output
    models = [
        torch.load(problem / name / "checkpoint.pt", weights_only=True)["model"] for name in "ab"
    ]
    changed = {key for key, value in models[0].items() if not torch.equal(value, models[1][key])}
    assert changed == {f"encoder.{n}.running_{s}" for n in (0, 2, 6) for s in ("mean", "var")}
