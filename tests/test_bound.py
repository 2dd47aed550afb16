"""The bound `target-only`: what it trains on, that it says so, and that nothing else gets target labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import toy_arguments
from test_robust import outcome

import adapt
from adapt import methods
from store.datasets import manifest_path
from store.manifest import Video, read_manifest, write_manifest
from store.read import FeatureStore

BOUND = ("--method", "target-only")
ADAPTING = [name for name in methods.names() if not methods.find(name).reads_target_labels]


def trained(cli, problem: Path, run: str, *more: object) -> str:
    result = cli(*toy_arguments(problem, run, *more))
    assert result.exit_code == 0, result.output
    return result.output


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "config.json").read_text())
    return found


def test_only_one_method_reads_target_labels() -> None:
    assert set(methods.names()) - set(ADAPTING) == {"target-only"}


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--preset", "own"),
        ("--preset", "shared", "--source-sampling", "largest-class"),
        ("--target-batch", "proportional", "--draws", 2),
    ],
    ids=str,
)
def test_it_is_source_only_with_the_target_as_its_source(
    cli, problem: Path, more: tuple[object, ...]
) -> None:
    """A source with the target's videos and labels under another name gives the same bits."""
    manifests = problem / "manifests"
    write_manifest(
        manifest_path("toy", "twin", manifests),
        read_manifest(manifest_path("toy", "right", manifests)),
    )
    features = problem / "features"
    (features / "twin").symlink_to(features / "right")
    never = ("--score-every", 0, *more)
    trained(cli, problem, "bound", *BOUND, *never)
    arguments = toy_arguments(problem, "twin", "--method", "source-only", *never)
    arguments[arguments.index("left")] = "twin"
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    assert outcome(problem / "bound") == outcome(problem / "twin")


def test_it_says_so_wherever_it_is_met(cli, problem: Path) -> None:
    shown = " ".join(cli("adapt", *BOUND, "-h").output.split())
    assert "Method target-only. Target only, READS TARGET LABELS: source only's training" in shown
    output = trained(cli, problem, "one", *BOUND)
    assert "--method target-only trains on the labels of right." in output
    assert "TRAINED ON THE TARGET'S LABELS: a bound, not adaptation" in output
    assert "24 labelled (right), 24 target" in output
    again = cli("evaluate", problem / "one", "--device", "cpu").output
    assert "TRAINED ON THE TARGET'S LABELS" in again
    assert record(problem / "one")["reads_target_labels"] is True
    assert "TRAINED ON" in trained(cli, problem, "many", *BOUND, "--seeds", "0,1")
    assert json.loads((problem / "many" / "seeds.json").read_text())["reads_target_labels"] is True


@pytest.mark.parametrize(("select", "reads"), [("last", False), ("im", False), ("oracle", True)])
def test_what_the_record_of_other_methods_says(
    cli, problem: Path, select: str, reads: bool
) -> None:
    more = ("--method", "dan", "--score-every", 1, "--select", select, "--seeds", "0")
    output = trained(cli, problem, "run", *more)
    assert "TRAINED ON" not in output and "trains on the labels" not in output
    assert record(problem / "run" / "seed0")["reads_target_labels"] is reads
    assert json.loads((problem / "run" / "seeds.json").read_text())["reads_target_labels"] is reads


def test_no_epoch_is_chosen_by_videos_of_the_source(cli, problem: Path) -> None:
    for rule in ("source-val", "dev"):
        refused = cli(*toy_arguments(problem, "run", *BOUND, "--select", rule))
        assert refused.exit_code == 2
        assert (
            f"--select {rule} needs held-out source videos, and --method target-only uses no video of "
            "the source. Choose another rule." in refused.output
        )
    assert not (problem / "run").exists()


def test_the_targets_videos_are_read_once(cli, problem: Path, monkeypatch) -> None:
    reads: list[str] = []
    read = FeatureStore.read
    monkeypatch.setattr(FeatureStore, "read", lambda s, v: (reads.append(v), read(s, v))[1])
    output = trained(cli, problem, "run", *BOUND, "--preset", "shared")
    assert len(reads) == len(set(reads)) == 36  # 24 to train, 12 to evaluate, none of the source
    assert all(video.startswith("right") for video in reads)
    assert output.count("right train videos have fewer features") == 1


@pytest.mark.parametrize("method", ADAPTING)
def test_no_other_method_gets_target_labels(problem: Path, method: str) -> None:
    """What it trains on, and the record of that, is the same with other training labels of the target."""
    folders = {"features": problem / "features", "manifests": problem / "manifests"}
    config = adapt.configure("left", "right", method=method, manifests=folders["manifests"])
    path = manifest_path("toy", "right", folders["manifests"])
    before = adapt.load(config, **folders)
    videos = read_manifest(path)
    write_manifest(path, [turned(v) if v.split == "train" else v for v in videos])
    after = adapt.load(config, **folders)
    assert after.record == before.record
    assert torch.equal(after.data.labels_V, before.data.labels_V)
    assert after.data.labels_V.tolist() == [
        v.label
        for v in read_manifest(manifest_path("toy", "left", folders["manifests"]))
        if v.split == "train"
    ]
    assert vars(after.data).keys() == {"source", "labels_V", "target", "classes", "device"}
    assert set(vars(after.data.target)) == set(vars(after.data.source))  # features alone


def turned(video: Video) -> Video:
    assert video.label is not None
    label = (video.label + 1) % 3
    return Video(
        id=video.id, label=label, class_name=f"c{label}", split=video.split, frames=video.frames
    )
