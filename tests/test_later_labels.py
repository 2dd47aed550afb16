"""Labels that a target got after its runs: what is shown is by them and names them; no run is changed."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import toy_arguments
from scipy.stats import binomtest
from sklearn.metrics import recall_score
from test_report import write
from test_runs import RIGHT, WRONG, make_run
from test_unlabelled import label, predictions, take_labels_away

from store.manifest import read_manifest, write_manifest


def manifest(root: Path) -> Path:
    return root / "manifests" / "toy" / "right.csv"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed(cli, root: Path, *more: object) -> tuple[dict, str]:
    """The row of the one run, or folder of seeds, that there is, from --csv; and what was printed."""
    out = root / "runs.csv"
    out.unlink(missing_ok=True)
    result = cli("runs", "list", root / "runs", "--csv", out, *more)
    assert result.exit_code == 0, result.output
    [row] = pd.read_csv(out).to_dict("records")
    return row, result.output


def test_a_run_is_listed_by_the_labels_of_now(cli, problem: Path) -> None:
    truth = take_labels_away(problem)
    assert cli(*toy_arguments(problem, "runs/a", "--epochs", 1)).exit_code == 0
    run = problem / "runs" / "a"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    row, output = listed(cli, problem)
    assert "no labels" in output and "sha256" not in output and pd.isna(row["overall"])

    predicted = {r["video"]: r["predicted"] for r in predictions(run)}
    asked = (
        dict.fromkeys([*truth][::5], "c0"),  # at first wrong ones
        {video: truth[video] for video in [*truth][::3]},
        truth,
    )
    known: dict[str, str] = {}
    for some in asked:
        label(cli, problem, some)
        known |= some
        right = sum(predicted[video] == name for video, name in known.items())
        row, output = listed(cli, problem)
        assert row["overall"] == pytest.approx(100 * right / len(known))
        wilson = binomtest(right, len(known)).proportion_ci(method="wilson")
        assert (row["low"], row["high"]) == pytest.approx((100 * wilson.low, 100 * wilson.high))
        pairs = [*known.values()], [predicted[video] for video in known]
        mean = recall_score(*pairs, labels=sorted({*known.values()}), average="macro")
        assert row["class_mean"] == pytest.approx(100 * mean)
        assert row["videos"] == len(known) and pd.isna(row["overall_recorded"])
        assert row["labels"] == str(manifest(problem))
        assert row["labels_sha256"] == sha256(manifest(problem))
        shown = f"{row['overall']:.2f} ({row['low']:.1f} to {row['high']:.1f})*"
        assert shown in output.splitlines()[1]
        assert output.splitlines()[2] == (
            f"* by the labels that {len(known)} of 36 videos have in {manifest(problem)} now "
            f"(sha256 {sha256(manifest(problem))[:16]}); the run ended with none"
        )
        assert "Accuracies on right are transductive" in output.splitlines()[3]
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = cli("evaluate", run, "--device", "cpu").output
    what = "36 labelled target videos (transductive: in training too, without labels)"
    assert f"{what}: overall {row['overall']:.2f} %" in said


def test_what_a_run_recorded_is_beside_what_it_has_now(cli, problem: Path) -> None:
    truth = take_labels_away(problem)
    label(cli, problem, {video: truth[video] for video in [*truth][::3]})
    arguments = toy_arguments(problem, "runs/a", "--epochs", 1, "--seeds", "0,1")
    assert cli(*arguments).exit_code == 0
    row, output = listed(cli, problem)
    assert row["overall"] == row["overall_recorded"] and row["videos"] == 12
    assert pd.isna(row["labels"]) and "*" not in output
    assert output.splitlines()[2].startswith("Accuracies on right are transductive: these videos")
    recorded = row["overall"]

    label(cli, problem, truth)
    row, output = listed(cli, problem)
    tables = [predictions(problem / "runs" / "a" / f"seed{seed}") for seed in (0, 1)]
    shares = [100 * sum(truth[r["video"]] == r["predicted"] for r in t) / 36 for t in tables]
    assert row["overall"] == pytest.approx(sum(shares) / 2) and row["videos"] == 36
    assert row["overall_recorded"] == recorded
    assert "* by the labels that 36 of 36 videos" in output
    assert output.count("the run ended with labels of 12") == 1

    rows = read_manifest(manifest(problem))
    take_labels_away(problem)  # as by `from-folder` again: what was recorded is all that is known
    row, output = listed(cli, problem)
    assert row["overall"] == recorded and "*" not in output
    write_manifest(manifest(problem), rows)


def test_where_the_labels_cannot_be_looked_up(cli, problem: Path) -> None:
    truth = take_labels_away(problem)
    assert cli(*toy_arguments(problem, "runs/a", "--epochs", 1)).exit_code == 0
    run = problem / "runs" / "a"
    label(cli, problem, truth)
    (problem / "manifests").rename(problem / "moved")
    row, output = listed(cli, problem)
    assert pd.isna(row["overall"]) and "no labels" in output.splitlines()[1]
    assert f"{run}: labels that were added after it are not seen: There is no manifest" in output
    row, output = listed(cli, problem, "--manifests", problem / "moved")
    assert row["videos"] == 36 and "not seen" not in output

    path = problem / "moved" / "toy" / "right.csv"
    path.write_text(path.read_text().replace("c1", "elsewhere"))
    row, output = listed(cli, problem, "--manifests", problem / "moved")
    assert pd.isna(row["overall"])
    assert "has 1 class that the run does not know (first: elsewhere)" in output


def test_labels_of_classes_that_were_not_chosen_do_not_count(cli, problem: Path) -> None:
    truth = take_labels_away(problem)
    assert cli(*toy_arguments(problem, "runs/a", "--classes", "c2,c0")).exit_code == 0
    label(cli, problem, truth)
    row, _ = listed(cli, problem)
    predicted = {r["video"]: r["predicted"] for r in predictions(problem / "runs" / "a")}
    right = [predicted[video] == name for video, name in truth.items() if name != "c1"]
    assert row["videos"] == 24 and row["overall"] == pytest.approx(100 * sum(right) / 24)


def test_runs_are_compared_by_the_labels_of_now(cli, problem: Path) -> None:
    """One was trained before there were labels, one after some were known, and then there are more."""
    truth = take_labels_away(problem)
    assert cli(*toy_arguments(problem, "a", "--epochs", 1)).exit_code == 0
    some = {video: truth[video] for video in [*truth][::4]}
    label(cli, problem, {video: some[video] for video in [*some][:3]})
    assert cli(*toy_arguments(problem, "b", "--method", "infomax")).exit_code == 0
    label(cli, problem, some)
    result = cli("runs", "compare", problem / "a", problem / "b")
    assert result.exit_code == 0, result.output
    tables = [
        {
            r["video"]: r["predicted"] == some[r["video"]]
            for r in predictions(problem / name)
            if r["video"] in some
        }
        for name in ("a", "b")
    ]
    only = [sum(x[v] and not y[v] for v in some) for x, y in (tables, tables[::-1])]
    p = binomtest(only[0], sum(only)).pvalue if sum(only) else 1
    assert f"A: {100 * sum(tables[0].values()) / 9:.2f} %" in result.output
    assert (
        "9 videos that both predicted have a label (labels of 9 of 36 in A and of 9 of 36 in B): "
        f"{only[0]} only A has right, {only[1]} only B; McNemar's exact test, two-sided: p = {p:.2g}"
    ) in result.output
    for had in ("none", "labels of 3"):
        assert (
            f"(sha256 {sha256(manifest(problem))[:16]}); the run ended with {had}\n"
            in result.output
        )


def partly(folder: Path, classes: list[str | None], right: list[bool], **config: object) -> Path:
    """A run on videos v0, v1, ... of which some have no class; `right` is of those that have one."""
    run = make_run(folder, [True] * len(classes), **config)
    answers = iter(right)
    rows = ["video,class,predicted,probability"]
    for number, name in enumerate(classes):
        other = WRONG if name == RIGHT else RIGHT
        predicted = RIGHT if name is None else name if next(answers) else other
        rows.append(f"v{number},{name or ''},{predicted},0.9")
    (run / "predictions.csv").write_text("\n".join(rows) + "\n")
    done = json.loads((run / "done.json").read_text())
    share = 100 * sum(right) / max(1, len(right))
    fields = {**done["target_eval"], "overall": share, "videos": len(right)} if right else None
    (run / "done.json").write_text(json.dumps({**done, "target_eval": fields}))
    return run


def test_targets_with_labels_of_some_videos_are_compared_on_what_both_have(
    cli, tmp_path: Path
) -> None:
    """v2 to v9 have a label in both: 1 against 6 are right in one alone, p = 2 (C(7,0) + C(7,1)) / 2^7."""
    a = [RIGHT] * 10 + [None] * 2
    b = [None] * 2 + [RIGHT] * 10
    partly(tmp_path / "a", a, [True, True, True, True] + [False] * 6)
    partly(tmp_path / "b", b, [True, False] + [True] * 6 + [False, True])
    result = cli("runs", "compare", tmp_path / "a", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "8 videos that both predicted have a label (labels of 10 of 12 in A and" in result.output
    assert "1 only A has right, 6 only B" in result.output and "p = 0.12" in result.output
    assert "A: 25.00 %" in result.output and "B: 87.50 %" in result.output


def test_what_labels_of_some_videos_do_not_allow(cli, tmp_path: Path) -> None:
    a = partly(tmp_path / "a", [RIGHT, RIGHT, None, None], [True, False])
    for name, classes, config, message in (
        (
            "apart",
            [None, None, RIGHT, WRONG],
            {},
            "A has labels of 2 videos and B of 2, and no video is among",
        ),
        (
            "else",
            [RIGHT, WRONG, None, None],
            {},
            "1 of 2 videos has another true class in B than in A (first: v1)",
        ),
        (
            "there",
            [RIGHT, RIGHT, None, None],
            {"target": "x"},
            "The targets are hmdb and x, so the runs predicted other videos",
        ),
    ):
        other = partly(tmp_path / name, classes, [True, True], **config)
        result = cli("runs", "compare", a, other)
        assert result.exit_code == 1 and message in " ".join(result.output.split()), result.output
    none = partly(tmp_path / "none", [None] * 4, [])
    result = cli("runs", "compare", none, a)
    assert result.exit_code == 1
    assert f"None of the 4 videos that {none} predicted has a label" in result.output


def test_a_report_uses_them_for_every_run_and_without_features(cli, problem: Path) -> None:
    truth = take_labels_away(problem)
    for name, method in (("a", "infomax"), ("b", "source-only")):
        assert cli(*toy_arguments(problem, name, "--method", method)).exit_code == 0
    label(cli, problem, {video: truth[video] for video in [*truth][::3]})
    shutil.rmtree(problem / "features")
    _, page, output = write(cli, problem / "page.html", problem / "a", problem / "b")
    assert all(
        f"Run {number} is measured by the labels that 12 of 36" in output for number in (1, 2)
    )
    some = [*truth][::3]
    tables = [
        {r["video"]: r["predicted"] == truth[r["video"]] for r in predictions(problem / n)}
        for n in "ab"
    ]
    shares = [100 * sum(table[video] for video in some) / 12 for table in tables]
    first, second = page.rows("The runs compared", 2)
    assert first[2].startswith(f"{shares[0]:.2f} (") and second[2].startswith(f"{shares[1]:.2f} (")
    assert float(second[3]) == pytest.approx(shares[0] - shares[1], abs=0.006)


def test_a_folder_of_seeds_is_reported_as_its_runs(cli, problem: Path) -> None:
    for name, method, seeds in (("a", "infomax", "0,2,10"), ("b", "source-only", "0,1")):
        done = cli(*toy_arguments(problem, name, "--method", method, "--seeds", seeds))
        assert done.exit_code == 0, done.output
    _, page, _ = write(cli, problem / "page.html", problem / "a", problem / "b")
    rows = page.rows("The runs compared", 2)
    assert [row[0] for row in rows] == [
        *("1  a/seed0", "2  a/seed2", "3  a/seed10", "4  b/seed0", "5  b/seed1")
    ]
    summary = json.loads((problem / "a" / "seeds.json").read_text())["overall"]
    said = f"mean {summary['mean']:.2f} %, sample deviation {summary['deviation']:.2f}"
    assert f"3 seeds: {said}" in page.texts
    assert any(text.startswith("seed 0: ") and "(95 % interval" in text for text in page.texts)
    assert "Run 4 is source-only (paper)." in page.texts  # gains are over another method
    shares = []
    for run in (problem / "a" / "seed0", problem / "b" / "seed0"):
        with (run / "predictions.csv").open(newline="") as file:
            found = [r["predicted"] == "c1" for r in csv.DictReader(file) if r["class"] == "c1"]
        shares.append(100 * sum(found) / len(found))
    gains = {row[0]: float(row[3]) for row in page.rows("Accuracy per class")}
    assert gains["c1"] == pytest.approx(shares[0] - shares[1], abs=0.06)

    alone = write(cli, problem / "alone.html", problem / "a" / "seed2")[1]
    assert not any("sample deviation" in text for text in alone.texts)
    (problem / "a" / "seed2" / "done.json").unlink()
    stopped = cli("report", problem / "a", "--out", problem / "c.html")
    assert stopped.exit_code == 1 and "seed2 is unfinished: 3 of 3 epochs" in stopped.output
    mixed = cli("report", problem, "--out", problem / "c.html")
    assert mixed.exit_code == 1 and "holds 2 runs that are not seeds of one another" in mixed.output


def test_the_manifest_is_named_from_where_one_is(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = take_labels_away(problem)
    assert cli(*toy_arguments(problem, "runs/a", "--epochs", 1)).exit_code == 0
    label(cli, problem, truth)
    monkeypatch.chdir(problem)
    assert "36 of 36 videos have in manifests/toy/right.csv now" in cli("runs").output


def benchmarked(cli, root: Path, *more: object) -> tuple[dict[str, dict[str, str]], str]:
    """Rows of results.csv by method, and what was printed."""
    small = ("batch_size=8", "width=16", "compute=float32", "frames=9", "epochs=2")
    places = ("--features", root / "features", "--manifests", root / "manifests")
    given = ("--benchmark", "toy", *places, "--out", root / "out", "--device", "cpu", "--jobs", 1)
    sets = [word for text in small for word in ("--set", text)]
    pair = ("--source", "left", "--target", "right", "--seeds", 0)
    result = cli("benchmark", *given, *sets, *pair, "--methods", "source-only,infomax", *more)
    if result.exit_code:
        return {}, result.output
    with (root / "out" / "results.csv").open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}, result.output


@pytest.mark.slow
def test_benchmark_takes_the_labels_of_now(cli, problem: Path) -> None:
    truth = take_labels_away(problem)
    _, output = benchmarked(cli, problem)
    assert "None of the 36 videos of right of toy has a label" in output
    assert "manifest label labels.csv --benchmark toy --domain right" in output

    some = {video: truth[video] for video in [*truth][::3]}
    made: dict[Path, bytes] = {}
    for known in (some, truth):  # the second time no run is trained again
        label(cli, problem, known)
        rows, output = benchmarked(cli, problem)
        right: dict[str, list[bool]] = {}
        for method, row in rows.items():
            run = problem / "out" / row["run"]
            predicted = {r["video"]: r["predicted"] for r in predictions(run)}
            right[method] = [predicted[video] == name for video, name in known.items()]
            share = 100 * sum(right[method]) / len(known)
            assert row["status"] == "done" and int(row["videos"]) == len(known)
            assert row["transductive"] == "yes"
            assert float(row["overall"]) == pytest.approx(share, abs=1e-4)
        pairs = list(zip(*right.values(), strict=True))
        difference = 100 * sum(b - a for a, b in pairs) / len(known)
        assert f"| {difference:+.2f} |" in (problem / "out" / "table.md").read_text()
        with (problem / "out" / "summary.csv").open(newline="") as file:
            assert {row["transductive"] for row in csv.DictReader(file)} == {"yes"}
        assert f"({len(known)} of right)" in output
        assert "Accuracies on right are transductive" in output
        which = (
            f"by the labels that {len(known)} of 36 videos have in {manifest(problem)} now (sha256 "
        )
        assert (
            f"{which}{sha256(manifest(problem))[:16]})."
            in (problem / "out" / "table.md").read_text()
        )
        files = {p: p.read_bytes() for p in (problem / "out").rglob("seed0/*") if p.is_file()}
        assert not made or files == made
        made = files
    _, output = benchmarked(cli, problem, "--set", "learning_rate=0.1")
    assert "it is a run with other options" in output
    rows_of_target = read_manifest(manifest(problem))
    write_manifest(manifest(problem), rows_of_target[1:])
    _, output = benchmarked(cli, problem)
    assert "it is a run on other videos or labels" in output


def test_the_domain_without_labels_is_the_target_of_a_benchmark(cli, problem: Path) -> None:
    folder = problem / "manifests" / "toy"
    label(cli, problem, take_labels_away(problem))
    (folder / "right.csv").rename(folder / "first.csv")  # by name it would be the source
    given = ("--benchmark", "toy", "--manifests", problem / "manifests", "--show-plan")
    shown = cli("benchmark", *given, "--methods", "source-only", "--seeds", 0, "--out", "out")
    assert shown.output.splitlines() == ["out/left-first/source-only-paper/seed0"]


def test_benchmark_leaves_out_bounds_that_a_target_without_labels_cannot_train(
    cli, problem: Path
) -> None:
    label(cli, problem, take_labels_away(problem))
    note = (
        "Note: target-only is left out: it learns from the target's labels, and right came without."
    )
    plain = cli(
        "benchmark", "--benchmark", "toy", "--manifests", problem / "manifests", "--show-plan"
    )
    assert note in plain.output and "left-right/target-only" not in plain.output
    named = ("--methods", "target-only", "--features", problem / "features")
    refused = cli("benchmark", "--benchmark", "toy", "--manifests", problem / "manifests", *named)
    assert (
        refused.exit_code == 2 and "--method target-only learns from the target's" in refused.output
    )
