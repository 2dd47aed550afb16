"""A target without labels from `adapt` to `evaluate`: no accuracy until some labels are added.

Above 250 lines: every command that prints an accuracy is met without one.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config_for, edited_json, make_problem, make_store, slow, toy_arguments
from test_study import ablate_arguments

import adapt
from adapt import methods
from adapt.listing import DataOptions
from adapt.loading import load
from adapt.runs import RunFolder
from store.errors import RunError
from store.manifest import Video, read_manifest, write_manifest

CLASSES = ("c0", "c1", "c2")


def take_labels_away(root: Path) -> dict[str, str]:
    """Make the target of `make_problem` one without labels; returns the true class of each video."""
    path = root / "manifests" / "toy" / "right.csv"
    rows = read_manifest(path)
    bare = {"label": None, "class_name": None, "split": "both"}
    write_manifest(path, [dataclasses.replace(row, **bare) for row in rows])
    return {row.id: str(row.class_name) for row in rows}


@pytest.fixture
def bare(problem: Path) -> Path:
    take_labels_away(problem)
    return problem


def label(cli, root: Path, classes: dict[str, str]) -> None:
    path = root / "labels.csv"
    path.write_text("video,class\n" + "".join(f"{v},{c}\n" for v, c in classes.items()))
    places = ("--benchmark", "toy", "--domain", "right", "--manifests", root / "manifests")
    done = cli("manifest", "label", path, *places)
    assert done.exit_code == 0, done.output


def predictions(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def done_of(run: Path) -> dict:
    return json.loads((run / "done.json").read_text())


ADAPTING = [name for name in methods.names() if not methods.find(name).reads_target_labels]
SMALL = {
    **{"epochs": 3, "batch_size": 8, "width": 16, "compute": "float32", "score_every": 1},
    **{"levels": 3, "discriminator_width": 16},
}


@pytest.mark.parametrize(
    "method",
    [slow(m) if m in ("abg", "transferattn") else m for m in ADAPTING],
)
def test_a_run_ends_with_predictions_and_no_accuracy(cli, bare: Path, method: str) -> None:
    reads = methods.find(method).reads
    arguments = [
        *("adapt", "--source=left", "--target=right", "--device=cpu", "--method", method),
        *(f"--{name}={bare / name}" for name in ("features", "manifests", "run")),
        *(f"--{n.replace('_', '-')}={value}" for n, value in SMALL.items() if n in reads),
    ]
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    rows = predictions(bare / "run")
    listed = read_manifest(bare / "manifests" / "toy" / "right.csv")
    assert [row["video"] for row in rows] == [video.id for video in listed]
    assert {row["class"] for row in rows} == {""}
    counts = Counter(row["predicted"] for row in rows)
    done = done_of(bare / "run")
    assert done["target_eval"] is None
    assert done["no_accuracy"] == "none of 36 videos has a label"
    assert done["predicted"] == {name: counts[name] for name in CLASSES}
    assert "oracle" not in done["rules"] and "im" in done["rules"]
    assert "no accuracy, because none of 36 target videos has a label" in result.output
    said = result.output.split("predicted for 36 target videos: ")[1].splitlines()[0]
    assert {name: int(count) for name, count in (x.split() for x in said.split(", "))} == (
        done["predicted"]
    )
    assert "overall" not in result.output and " %" not in result.output
    text = (bare / "run" / "metrics.jsonl").read_text() + (bare / "run" / "done.json").read_text()
    assert "oracle" not in text and "overall" not in text

    again = cli("evaluate", bare / "run", "--device", "cpu")
    assert again.exit_code == 0, again.output
    assert "the same as the run recorded" in again.output and " %" not in again.output
    resumed = cli(*arguments, "--resume")
    assert resumed.exit_code == 0 and "no accuracy, because none of 36" in resumed.output


def test_all_videos_train_and_the_same_are_predicted(bare: Path) -> None:
    config = config_for({"levels": 3}, source="left", target="right")
    places = DataOptions(features=bare / "features", manifests=bare / "manifests")
    loaded = load(config, places, torch.device("cpu"))
    assert len(loaded.data.target) == len(loaded.held_out) == 36
    assert loaded.held_out_bank is loaded.data.target  # not loaded twice
    assert "36 right train, 36 right eval (0 with a label)" in loaded.record.videos
    assert len(loaded.data.source) == 24 and len(loaded.source_held_out) == 12


def test_training_does_not_see_labels_that_are_added(cli, bare: Path) -> None:
    assert cli(*toy_arguments(bare, "before")).exit_code == 0
    videos = [v.id for v in read_manifest(bare / "manifests" / "toy" / "right.csv")]
    label(cli, bare, dict.fromkeys(videos, "c0"))  # wrong ones
    assert cli(*toy_arguments(bare, "after")).exit_code == 0
    before, after = ((bare / name / "checkpoint.pt").read_bytes() for name in ("before", "after"))
    assert before == after
    for a, b in zip(predictions(bare / "before"), predictions(bare / "after"), strict=True):
        assert {**a, "class": "c0"} == b


def test_labels_added_later_give_an_accuracy(cli, problem: Path) -> None:
    truth = take_labels_away(problem)
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    some = {video: truth[video] for video in list(truth)[::3]}
    label(cli, problem, some)
    predicted = {row["video"]: row["predicted"] for row in predictions(problem / "run")}
    right = 100 * sum(predicted[v] == c for v, c in some.items()) / len(some)

    now = cli("evaluate", problem / "run", "--device", "cpu")
    assert now.exit_code == 0, now.output
    what = "12 labelled target videos (transductive: in training too, without labels)"
    assert f"{what}: overall {right:.2f} %" in now.output
    assert "the same predictions as the run recorded, which had other labels: no acc" in now.output
    assert "predicted for 36 target videos: " in now.output
    assert done_of(problem / "run")["target_eval"] is None  # what the run ended with stays

    assert cli(*toy_arguments(problem, "second")).exit_code == 0
    done = done_of(problem / "second")["target_eval"]
    assert done["overall"] == pytest.approx(right) and done["videos"] == 12
    assert done["transductive"] is True and "no_accuracy" not in done_of(problem / "second")
    classes = {row["video"]: row["class"] for row in predictions(problem / "second")}
    assert classes == {video: some.get(video, "") for video in truth}
    same = cli("evaluate", problem / "second", "--device", "cpu")
    assert "the same as the run recorded" in same.output

    label(cli, problem, truth)
    more = cli("evaluate", problem / "second", "--device", "cpu")
    overall = 100 * sum(predicted[v] == c for v, c in truth.items()) / len(truth)
    assert (
        f"36 labelled target videos (transductive: in training too, without labels): overall {overall:.2f}"
        in (more.output)
    )
    assert f"which had other labels: {right:.2f} % on {what}" in more.output
    stale = cli(*toy_arguments(problem, "second", "--resume"))
    assert stale.exit_code == 1 and "holds a run on other videos or labels" in stale.output
    assert "(12 with a label)" in stale.output and "(36 with a label)" in stale.output


def test_evaluate_finds_predictions_that_are_others(cli, bare: Path) -> None:
    assert cli(*toy_arguments(bare, "run")).exit_code == 0
    path = bare / "run" / "predictions.csv"
    first = predictions(bare / "run")[0]
    other = next(name for name in CLASSES if name != first["predicted"])
    line = f"{first['video']},,{first['predicted']},"
    path.write_text(path.read_text().replace(line, f"{first['video']},,{other},"))
    found = cli("evaluate", bare / "run", "--device", "cpu")
    assert found.exit_code == 1 and "has other numbers of predictions of each" in found.output
    with edited_json(bare / "run" / "done.json") as done:  # as if the run had ended so
        done["predicted"][first["predicted"]] -= 1
        done["predicted"][other] += 1
    found = cli("evaluate", bare / "run", "--device", "cpu")
    assert found.exit_code == 1
    assert "1 of 36 predictions is not those that the run recorded (first: right_0_0)" in (
        found.output
    )


def test_a_domain_without_labels_is_no_source(cli, bare: Path) -> None:
    for command in ("adapt", "ablate"):
        turned = ("--source", "right", "--target", "left")
        refused = cli(*toy_arguments(bare, "run", *turned, command=command))
        assert refused.exit_code == 1
        assert "right of toy is a domain without labels, so it can only be the --target" in (
            refused.output
        )
        assert "--domain right=DIR, or choose another --source" in refused.output
        assert not (bare / "run").exists()
    config = adapt.configure("right", "left", manifests=bare / "manifests")
    with pytest.raises(Exception, match="right of toy is a domain without labels"):
        adapt.load(config, features=bare / "features", manifests=bare / "manifests")


def test_several_seeds_have_no_accuracy_either(cli, bare: Path) -> None:
    result = cli(*toy_arguments(bare, "many", "--seeds", "0,1"))
    assert result.exit_code == 0, result.output
    assert "2 seeds, last epoch, no accuracy, because no target video has a label" in result.output
    assert " %" not in result.output
    for seed in (0, 1):
        predicted = done_of(bare / "many" / f"seed{seed}")["predicted"]
        ordered = sorted(predicted.items(), key=lambda item: -item[1])
        said = ", ".join(f"{name} {count}" for name, count in ordered)
        assert f"  seed {seed} predicted: {said}\n" in result.output
    summary = json.loads((bare / "many" / "seeds.json").read_text())
    assert summary["overall"] is None and summary["class_mean"] is None
    assert summary["no_accuracy"] == "no labels"
    again = cli("evaluate", bare / "many", "--device", "cpu")
    assert again.output.count("the same as the run recorded") == 2


def test_a_table_of_ablations_says_that_there_are_no_labels(cli, bare: Path) -> None:
    result = cli(*ablate_arguments(bare, "run", "--epochs", 1, "--seeds", 0))
    assert result.exit_code == 0, result.output
    table = (bare / "run" / "table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 6
    assert all(row.endswith(" | no labels | - | - | no labels | - |") for row in rows)
    assert "left -> right (toy), no labels, so there is no accuracy" in table


def test_what_reads_target_labels_is_refused(cli, bare: Path) -> None:
    oracle = ("--score-every", 1, "--select", "oracle")
    refused = cli(*toy_arguments(bare, "run", *oracle))
    assert refused.exit_code == 2
    assert "--select oracle reads the labels of the target, and no video of right has one" in (
        refused.output
    )
    refused = cli(*toy_arguments(bare, "run", "--method", "target-only"))
    assert refused.exit_code == 2
    assert "--method target-only learns from the target's labels, and right of toy is a domain" in (
        refused.output
    )
    assert not (bare / "run").exists()
    label(cli, bare, {"right_0_0": "c0"})  # they are for the accuracy alone
    assert cli(*toy_arguments(bare, "run", "--method", "target-only")).exit_code == 2
    assert cli(*toy_arguments(bare, "run", *oracle)).exit_code == 0


def test_the_python_interface_has_none(cli, bare: Path) -> None:
    folders = {"features": bare / "features", "manifests": bare / "manifests"}
    config = adapt.configure(
        "left", "right", method="infomax", epochs=1, manifests=folders["manifests"]
    )
    assert adapt.train(config, adapt.load(config, **folders), bare / "run") is None
    assert adapt.evaluate(bare / "run") is None
    assert RunFolder(bare / "run").result() is None
    with pytest.raises(RunError, match="run has no accuracy, because its target had no labels"):
        RunFolder(bare / "run").accuracy()
    label(cli, bare, {"right_0_0": "c0", "right_1_3": "c1"})
    found = adapt.evaluate(bare / "run")
    assert found is not None and found.videos == 2 and found.transductive


@pytest.mark.parametrize("record", [{}, {"target_eval": {}}, {"target_eval": []}])
def test_a_lost_accuracy_is_not_taken_for_none(cli, bare: Path, record: dict) -> None:
    assert cli(*toy_arguments(bare, "run")).exit_code == 0
    done = done_of(bare / "run")
    del done["target_eval"]
    (bare / "run" / "done.json").write_text(json.dumps({**done, **record}))
    found = cli("evaluate", bare / "run", "--device", "cpu")
    assert found.exit_code == 1 and "done.json is damaged" in found.output


@pytest.mark.parametrize("frames", [12, 1])
def test_a_single_video(cli, tmp_path: Path, frames: int) -> None:
    make_problem(tmp_path)
    path = tmp_path / "manifests" / "toy" / "right.csv"
    one = Video(id="only one", label=None, class_name=None, split="both", frames=None)
    write_manifest(path, [one])
    features = np.random.default_rng(0).normal(size=(frames, 16))
    for old in (tmp_path / "features" / "right").glob("*/*"):
        old.unlink()
    make_store(tmp_path / "features", "right", {"only one": features})
    result = cli(*toy_arguments(tmp_path, "run"))
    assert result.exit_code == 0, result.output
    assert [row["video"] for row in predictions(tmp_path / "run")] == ["only one"]
    assert "none of 1 target video has a label" in result.output


def test_a_class_that_the_source_never_shows(cli, problem: Path) -> None:
    """A label may name any class of the benchmark; what no source video teaches is said on loading."""
    truth = take_labels_away(problem)
    path = problem / "manifests" / "toy" / "left.csv"
    rows = read_manifest(path)
    write_manifest(path, [r for r in rows if r.class_name != "c2" or r.split == "eval"])
    label(cli, problem, {v: c for v, c in truth.items() if c == "c2"})
    result = cli(*toy_arguments(problem, "run"))
    assert result.exit_code == 0
    assert "1 of 3 classes has no left training video (first: c2): it cannot be learned." in (
        result.output
    )
    assert "12 labelled target videos" in result.output


def test_missing_features_of_a_target_without_labels(cli, bare: Path) -> None:
    path = bare / "manifests" / "toy" / "right.csv"
    lost = Video(id="lost", label=None, class_name=None, split="both", frames=None)
    write_manifest(path, [*read_manifest(path), lost])
    refused = cli(*toy_arguments(bare, "run"))
    assert refused.exit_code == 1
    assert "1 of 37 right train videos has no features" in refused.output
    assert cli(*toy_arguments(bare, "run", "--allow-missing")).exit_code == 0
    assert len(predictions(bare / "run")) == 36
