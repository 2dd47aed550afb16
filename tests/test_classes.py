"""`adapt --classes`: some classes of a benchmark, as if it had no others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from conftest import make_problem, toy_arguments
from test_study import ablate_arguments
from test_unlabelled import done_of, label, predictions, take_labels_away

import adapt
from adapt.config import AdaptConfig
from store.errors import ConfigError
from store.manifest import read_manifest, write_manifest


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Four classes, and the benchmark `two` with c1 and c3 alone, whose labels are 0 and 1."""
    make_problem(tmp_path, classes=4, shift=2.0)
    for domain in ("left", "right"):
        rows = read_manifest(tmp_path / "manifests" / "toy" / f"{domain}.csv")
        kept = [
            dataclasses.replace(row, label=["c1", "c3"].index(row.class_name))
            for row in rows
            if row.class_name in ("c1", "c3")
        ]
        write_manifest(tmp_path / "manifests" / "two" / f"{domain}.csv", kept)
    return tmp_path


@pytest.mark.parametrize("names", ["c1,c3", "c3, c1", '"c1",c3'])
def test_it_is_the_run_on_a_benchmark_that_has_these_alone(cli, four: Path, names: str) -> None:
    chosen = cli(*toy_arguments(four, "a", "--benchmark", "toy", "--classes", names))
    assert chosen.exit_code == 0, chosen.output
    assert f"left -> right (toy, classes {names})" in chosen.output
    assert cli(*toy_arguments(four, "b", "--benchmark", "two")).exit_code == 0
    for name in ("predictions.csv", "metrics.jsonl"):
        a, b = ((four / run / name).read_text() for run in "ab")
        if name == "metrics.jsonl":
            a, b = ([{**json.loads(x), "seconds": 0} for x in text.splitlines()] for text in (a, b))
        assert a == b
    assert done_of(four / "a")["target_eval"] == done_of(four / "b")["target_eval"]
    whole_target = [cli("predict", four / run, "--device", "cpu") for run in "ab"]
    assert whole_target[0].exit_code == 0 and whole_target[0].stdout == whole_target[1].stdout
    assert json.loads((four / "a" / "config.json").read_text())["config"]["classes"] == names
    again = cli("evaluate", four / "a", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output
    other = cli(*toy_arguments(four, "a", "--benchmark", "toy", "--resume"))
    assert other.exit_code == 1 and "holds a run with other options, classes: " in other.output


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "c1,c9",
            "1 of 2 classes of --classes is not in left (first: 'c9'). It has c0, c1, c2, c3.",
        ),
        ("C1,c3", "1 of 2 classes of --classes is not in left (first: 'C1')."),
        ("c1", "--classes must name two classes or more, got c1."),
        ("c1,,c2", "--classes must be different names and none blank, got 'c1,,c2'."),
        ("c1,c1", "--classes must be different names and none blank"),
        ('"c1', "--classes must be names with commas between them"),
    ],
)
def test_names_that_are_no_classes(cli, four: Path, names: str, message: str) -> None:
    refused = cli(*toy_arguments(four, "run", "--benchmark", "toy", "--classes", names))
    assert refused.exit_code in (1, 2) and message in refused.output
    assert not (four / "run").exists()


def test_a_benchmark_of_one_class_is_refused(cli, tmp_path: Path) -> None:
    make_problem(tmp_path, classes=1)
    refused = cli(*toy_arguments(tmp_path, "run"))
    assert refused.exit_code == 1
    assert (
        "toy have a single class (first: c0), so every prediction would be right" in refused.output
    )
    assert not (tmp_path / "run").exists()


def test_a_class_that_the_target_lacks(cli, four: Path) -> None:
    path = four / "manifests" / "toy" / "right.csv"
    write_manifest(path, [r for r in read_manifest(path) if r.class_name != "c3"])
    refused = cli(*toy_arguments(four, "run", "--benchmark", "toy", "--classes", "c1,c3"))
    assert refused.exit_code == 1
    assert "1 of 2 classes of --classes is not in right (first: 'c3'). It has c0, c1, c2." in (
        refused.output
    )


def test_a_target_without_labels_keeps_all_its_videos(cli, four: Path) -> None:
    truth = take_labels_away(four)
    arguments = ("--benchmark", "toy", "--classes", "c1,c3")
    assert cli(*toy_arguments(four, "run", *arguments)).exit_code == 0
    rows = predictions(four / "run")
    assert len(rows) == 48 and {row["predicted"] for row in rows} <= {"c1", "c3"}
    label(cli, four, truth)  # of all four classes: training must not notice, and two are evaluated
    assert cli(*toy_arguments(four, "labelled", *arguments)).exit_code == 0
    again = predictions(four / "labelled")
    assert [r["predicted"] for r in again] == [r["predicted"] for r in rows]
    known = [row for row in again if row["class"]]
    assert {row["class"] for row in known} == {"c1", "c3"} and len(known) == 24
    right = sum(row["class"] == row["predicted"] for row in known)
    done = done_of(four / "labelled")["target_eval"]
    assert done["videos"] == 24 and done["overall"] == pytest.approx(100 * right / 24)


def test_data_of_other_classes_are_not_trained_on(four: Path) -> None:
    places = {"manifests": four / "manifests"}
    chosen = adapt.configure("left", "right", benchmark="toy", classes="c1,c3", **places)
    data = adapt.load(chosen, features=four / "features", **places)
    assert data.data.classes == ("c1", "c3")
    other = adapt.configure("left", "right", benchmark="toy", classes="c1,c2", **places)
    with pytest.raises(ConfigError, match=r"of toy, classes c1,c2, and the loaded data is"):
        adapt.train(other, data, four / "run")


def test_no_published_figure_stands_beside_some_of_the_classes(cli, four: Path) -> None:
    more = ("--benchmark", "toy", "--classes", "c1,c3", "--epochs", 1, "--seeds", 0)
    assert cli(*ablate_arguments(four, "run", *more)).exit_code == 0
    assert "left -> right (toy, classes c1,c3), accuracy in %" in (
        (four / "run" / "table.md").read_text()
    )
    given = {"source": "ucf", "target": "hmdb", "classes": "a,b"}
    assert AdaptConfig.make(benchmark="ucf-hmdb-full", given=given).lists != "ucf-hmdb-full"
