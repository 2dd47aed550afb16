"""`runs`: every run is listed, whole or not, and two are compared on the same videos."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY, edited_json, make_problem, toy_arguments

from adapt.runs import RunFolder
from store.errors import RunError

RIGHT, WRONG = "walk", "run"


def make_run(folder: Path, right: Sequence[bool] = (True, False), **config: object) -> Path:
    """A finished run's folder, as `adapt` leaves it, with these answers for videos v0, v1, ..."""
    folder.mkdir(parents=True)
    options = {
        **{"method": "dann", "preset": "own", "source": "ucf", "target": "hmdb"},
        **{"benchmark": "small", "seed": 0, "epochs": 3, **config},
    }
    data = {"recipe": {"config": {"backbone": "fake"}, "weights": "none"}}
    (folder / "config.json").write_text(json.dumps({"config": options, "data": data}))
    (folder / "metrics.jsonl").write_text("{}\n" * 3)
    (folder / "checkpoint.pt").write_bytes(b"")
    rows = [f"v{i},{RIGHT},{RIGHT if r else WRONG},0.9" for i, r in enumerate(right)]
    (folder / "predictions.csv").write_text(
        "\n".join(["video,class,predicted,probability", *rows]) + "\n"
    )
    share = 100 * sum(right) / len(right)
    accuracies = {
        "overall": share,
        "class_mean": share,
        "low": 1.0,
        "high": 99.0,
        "videos": len(right),
    }
    done = {"target_eval": accuracies, "selection": "last epoch", "checkpoint_sha256": "0"}
    (folder / "done.json").write_text(json.dumps(done))
    return folder


def without_labels(run: Path) -> Path:
    """The run as one on a target without labels."""
    table = run / "predictions.csv"
    table.write_text(re.sub(r"^(v\d+),\w+,", r"\1,,", table.read_text(), flags=re.MULTILINE))
    done = json.loads((run / "done.json").read_text())
    (run / "done.json").write_text(json.dumps({**done, "target_eval": None}))
    return run


def test_every_run_is_listed(cli, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_run(runs / "one")
    for seed, right in ((2, [True, True]), (10, [True, False]), (3, [False, False])):
        make_run(runs / "several" / f"seed{seed}", right, seed=seed)
    stopped = make_run(runs / "several" / "seed4", seed=4)
    (stopped / "done.json").unlink()
    for name, file, text in (
        ("cut", "done.json", '{"target_eval"'),
        ("bare", "done.json", '{"target_eval": {"overall": 3}}'),
        ("strange", "config.json", '{"architectures": []}'),
    ):
        (make_run(runs / name) / file).write_text(text)
    (make_run(runs / "lost") / "checkpoint.pt").unlink()
    out = tmp_path / "runs.csv"
    result = cli("runs", runs, "--csv", out)
    assert result.exit_code == 0, result.output
    lines = {line.split()[-1]: line for line in result.output.splitlines() if " is " not in line}
    one = lines[str(runs / "one")]
    for part in ("dann (own)", "ucf -> hmdb", "small", "50.00 (1.0 to 99.0)", "last epoch"):
        assert part in one
    # 100, 50 and 0: mean 50, sample deviation 50.
    assert (
        "2-3,10" in lines[str(runs / "several")] and "50.00 ± 50.00" in lines[str(runs / "several")]
    )
    for said in (
        f"{stopped} is unfinished: 3 of 3 epochs",
        f"{runs / 'cut'} is damaged: ",
        f"{runs / 'bare'} is damaged: {runs / 'bare' / 'done.json'} is damaged: it does not hold",
        f"{runs / 'strange'} is damaged: config.json holds no config of a run",
        f"{runs / 'lost'} is damaged: checkpoint.pt is not there any more",
    ):
        assert said in result.output
    table = pd.read_csv(out).set_index("folder")
    assert len(table) == 6
    row = table.loc[str(runs / "several")]
    assert (row["overall"], row["overall_deviation"], row["finished"]) == (50, 50, 3)
    assert row["state"] == "1 of 4 not finished" and math.isnan(row["low"])
    again = cli("runs", "list", runs, "--csv", out)
    assert again.exit_code == 2 and "exists, and is not replaced" in again.output


DAMAGED_DONE = {
    "class_mean": {"target_eval": {"overall": 50.0, "class_mean": None, "low": 1.0, "high": 99.0}},
    "videos": {"target_eval": {**dict.fromkeys(("overall", "class_mean", "low", "high"), 50.0)}},
    "text": {
        "target_eval": {
            **dict.fromkeys(("overall", "class_mean", "low", "high"), 50.0),
            "videos": "2",
        }
    },
    "nan": {
        "target_eval": {
            **dict.fromkeys(("overall", "class_mean", "low"), 50.0),
            **{"high": math.nan, "videos": 2},
        }
    },
    "epoch": {"epoch": "last"},
    "selection": {"selection": None},
    "predicted": {"predicted": {"walk": None}},
    "predicted, a list": {"predicted": [1]},
    "rules": {"rules": {"last": {"epoch": None}}},
    "rules, a list": {"rules": {"last": []}},
    "digest": {"checkpoint_sha256": 0},
}


@pytest.mark.parametrize("case", DAMAGED_DONE)
def test_a_damaged_done_mark_is_damage_wherever_a_run_is_read(
    cli, tmp_path: Path, case: str
) -> None:
    whole, run = make_run(tmp_path / "whole", [True, False]), make_run(tmp_path / "cut")
    with edited_json(run / "done.json") as done:
        done |= DAMAGED_DONE[case]
    said = f"{run / 'done.json'} is damaged: it does not hold"
    listed = cli("runs", "list", tmp_path)
    assert listed.exit_code == 0 and f"{run} is damaged: {said}" in listed.output
    for arguments in (
        ("runs", "compare", whole, run),
        ("report", run, "--out", tmp_path / "page.html"),
    ):
        result = cli(*arguments)
        assert result.exit_code == 1 and said in result.output, result.output


@pytest.mark.parametrize("text", ['{"epoch', "{}", "null", '{"epoch": 1, "seconds": null}'])
def test_damaged_metrics_are_said(tmp_path: Path, text: str) -> None:
    path = make_run(tmp_path / "run") / "metrics.jsonl"
    path.write_text(f'{{"epoch": 1, "seconds": 0.5}}\n{text}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged: .*\. Train again\."):
        RunFolder(path.parent).metrics()


def test_a_run_below_a_folder_whose_name_is_not_utf8(cli, tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    root.mkdir()
    make_problem(root)
    trained = cli(*toy_arguments(root, "run", "--epochs", 1))
    assert trained.exit_code == 0, trained.output
    (root / "run" / "config.json").read_text(encoding="utf-8")
    assert RunFolder(root / "run").read()[1].features == str((root / "features").resolve())
    again = cli("evaluate", root / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output


def test_seeds_with_other_options_are_listed_one_by_one(cli, tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / "a" / f"seed{seed}", seed=seed, epochs=3 + seed)
    result = cli("runs", tmp_path)
    assert len(result.output.splitlines()) == 3 and "±" not in result.output
    assert f"{tmp_path / 'a' / 'seed1'}" in result.output


def test_a_target_without_labels_is_listed(cli, tmp_path: Path) -> None:
    without_labels(make_run(tmp_path / "a"))
    result = cli("runs", tmp_path)
    assert result.exit_code == 0 and "no labels" in result.output


def test_where_there_are_no_runs(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = cli("runs", tmp_path)
    assert result.exit_code == 1 and "There is no run in " in result.output
    monkeypatch.chdir(tmp_path)
    result = cli("runs")
    assert result.exit_code == 1 and "There is no folder runs." in result.output


def test_runs_that_were_trained_are_read(cli, problem: Path) -> None:
    """The folders as `adapt` makes them; the listing agrees with what `adapt` said."""
    said = cli(*toy_arguments(problem, "runs/several", "--seeds", "0,1"))
    assert said.exit_code == 0, said.output
    result = cli("runs", problem / "runs")
    [line] = result.output.splitlines()[1:]
    summary = json.loads((problem / "runs" / "several" / "seeds.json").read_text())["overall"]
    assert f"{summary['mean']:.2f} ± {summary['deviation']:.2f}" in line and " 0-1 " in line
    one, other = (problem / "runs" / "several" / f"seed{seed}" for seed in (0, 1))
    result = cli("runs", "compare", one, other)
    assert result.exit_code == 0 and "their options and features agree" in result.output


def test_two_runs_by_the_exact_test(cli, tmp_path: Path) -> None:
    """1 against 8: p = 2 (C(9, 0) + C(9, 1)) / 2^9 = 0.039."""
    a = [True] * 3 + [True] + [False] * 8
    b = [True] * 3 + [False] + [True] * 8
    make_run(tmp_path / "a", a)
    make_run(tmp_path / "b", b, method="infomax", preset="shared")
    result = cli("runs", "compare", tmp_path / "a", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "12 videos: 1 only A has right, 8 only B" in result.output
    assert "p = 0.039" in result.output
    assert "they differ in method: dann or infomax, preset: own or shared" in result.output


def test_folders_of_seeds_by_the_bootstrap(cli, tmp_path: Path) -> None:
    for seed, right in ((0, [True, False, False, True]), (1, [True, True, False, False])):
        make_run(tmp_path / "a" / f"seed{seed}", right, seed=seed)
    make_run(tmp_path / "b", [True, True, True, True])
    result = cli("runs", "compare", tmp_path / "a", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "A: 50.00 %  dann (own), seeds 0-1" in result.output
    assert "4 videos: B - A = +50.00 points" in result.output


def test_what_cannot_be_compared(cli, tmp_path: Path) -> None:
    whole = make_run(tmp_path / "whole", [True, False])
    other = make_run(tmp_path / "other", [True, False, True])
    stopped = make_run(tmp_path / "stopped")
    (stopped / "done.json").unlink()
    unlabelled = without_labels(make_run(tmp_path / "unlabelled"))
    damaged = make_run(tmp_path / "damaged")
    (damaged / "predictions.csv").write_text("a,b\n1,2\n")
    for folder, message in (
        (other, "1 video is only in B (first: v2)"),
        (stopped, "is unfinished: 3 of 3 epochs. Finish it, or remove it."),
        (unlabelled, "None of the 2 videos that"),
        (damaged, "predictions.csv is damaged"),
        (tmp_path, "holds 5 runs that are not seeds of one another"),
    ):
        result = cli("runs", "compare", whole, folder)
        assert result.exit_code == 1 and message in " ".join(result.output.split()), result.output


def test_equal_ids_of_two_targets_are_not_the_same_videos(cli, tmp_path: Path) -> None:
    """Folders of classes give both domains a video walk/001; a test on pairs of them means nothing."""
    one = make_run(tmp_path / "one", [True, True, False])
    back = make_run(tmp_path / "back", [True, False, False], source="hmdb", target="ucf")
    result = cli("runs", "compare", one, back)
    assert result.exit_code == 1
    assert "The targets are hmdb and ucf, so the runs predicted other videos" in result.output


def test_predictions_that_are_not_those_of_the_run_are_refused(
    cli, problem: Path, tmp_path: Path
) -> None:
    """Changed by hand, or copied from another run: no accuracy is computed from them."""
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    run, table = problem / "run", problem / "run" / "predictions.csv"
    saved = pd.read_csv(table)
    saved.to_csv(table, index=False, lineterminator="\r\n", quoting=1)  # as a spreadsheet saves it
    assert cli("runs", "compare", run, run).exit_code == 0
    better = saved.assign(predicted=saved["class"])
    share = 100 * (saved["class"] == saved["predicted"]).mean()
    others = saved.assign(predicted=saved["predicted"].map({"c0": "c1", "c1": "c2", "c2": "c0"}))
    assert share < 100
    for changed, message in (
        (better, f"gives 100.00 % of 12 videos, and done.json has {share:.2f} % of 12 videos"),
        (saved[:-1], "of 11 videos, and done.json has"),
        (others, "done.json"),
    ):
        changed.to_csv(table, index=False)
        for command in (("compare", run, run), ("report", run, "--out", tmp_path / "a.html")):
            words = ("runs", *command) if command[0] == "compare" else command
            result = cli(*words)
            assert result.exit_code == 1 and message in " ".join(result.output.split())
            assert "or it is another run's" in " ".join(result.output.split())


def test_an_accuracy_between_two_roundings_is_still_the_runs_own(cli, tmp_path: Path) -> None:
    """1 of 800 is 0.125 %, which is written as 0.12 or 0.13 by the last bit of how it was computed."""
    run = make_run(tmp_path / "run", [True] + [False] * 799)
    done = json.loads((run / "done.json").read_text())
    for share in (0.125, 0.12500000000000003, 0.12499999999999999):
        done["target_eval"]["overall"] = share
        (run / "done.json").write_text(json.dumps(done))
        assert cli("runs", "compare", run, run).exit_code == 0


def test_runs_are_listed_without_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    code = (
        "import sys, cli\n"
        f"cli.main(['runs', {str(tmp_path)!r}], standalone_mode=False)\n"
        f"cli.main(['runs', 'compare', *2 * [{str(tmp_path / 'a')!r}]], standalone_mode=False)\n"
        "print(sorted({'torch', 'pandas', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_folder_named_with_a_raised_digit_is_listed(cli, tmp_path: Path) -> None:
    """`²` is a digit, and no number."""
    make_run(tmp_path / "cm2²")
    make_run(tmp_path / "cm10")
    result = cli("runs", "list", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.output.index("cm2²") < result.output.index("cm10")
