"""Several seeds answer together: the mean of what each of them says, and only if nothing else differs."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from conftest import Road, toy_arguments

import adapt
from store.errors import RunError
from store.manifest import read_manifest

CPU = ("--device", "cpu")


def table_of(result: Result) -> pd.DataFrame:
    assert result.exit_code == 0, result.output
    return pd.read_csv(io.StringIO(result.stdout)).drop(columns=["split"], errors="ignore")


@pytest.fixture
def seeds(cli, problem: Path) -> Path:
    """Three seeds with random draws of frames, which differ from seed to seed."""
    for seed in (0, 1, 2):
        more = ("--seed", seed, "--eval-draws", 3)
        result = cli(*toy_arguments(problem, f"seeds/seed{seed}", *more))
        assert result.exit_code == 0, result.output
    return problem / "seeds"


def test_together_is_the_mean_of_each(cli, seeds: Path) -> None:
    each = [table_of(cli("predict", seeds / f"seed{n}", *CPU, "--all")) for n in (0, 1, 2)]
    together = table_of(cli("predict", seeds, *CPU, "--all"))
    columns = together.filter(like="p(").columns
    assert len(columns) > 1
    expected = np.mean([table[columns].to_numpy() for table in each], axis=0)
    np.testing.assert_allclose(together[columns], expected, atol=1e-4)
    assert not np.allclose(each[0][columns], each[1][columns], atol=1e-2)
    classes = together[columns].to_numpy().argmax(axis=1)
    said = np.mean([table["class"] == together["class"] for table in each])
    result = cli("predict", seeds, *CPU)
    assert (
        f"3 seeds answer together; a seed has the class that they name together for {100 * said:.1f} %"
        in (result.stderr)
    )
    assert ("They disagree" in result.stderr) == (said < 0.8)
    assert "seeds" not in cli("predict", seeds / "seed0", *CPU).stderr
    assert together["class"].tolist() == [columns[i][2:-1] for i in classes]
    (seeds.parent / "above").mkdir()
    shutil.move(seeds, seeds.parent / "above" / "seeds")  # as `benchmark` leaves them: deeper
    deeper = table_of(cli("predict", seeds.parent / "above", *CPU, "--all"))
    pd.testing.assert_frame_equal(deeper, together)


def test_python_and_the_command_say_the_same(seeds: Path) -> None:
    random = np.random.default_rng(0)
    features = [random.normal(size=(n, 16)).astype(np.float16) for n in (1, 4, 30)]
    each = [adapt.predict(seeds / f"seed{n}", features, device="cpu") for n in (0, 1, 2)]
    found = adapt.predict(seeds, features, device="cpu")
    expected = np.mean([one.probabilities for one in each], axis=0)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert found.classes == each[0].classes


def test_files_are_decoded_once_for_all_seeds(cli, road: Road, tmp_path: Path) -> None:
    """Two seeds say of a file what they say of its features, which are stored."""
    places = ("--source", "day", "--target", "night", *road.places, "--device", "cpu")
    small = ("--levels", 2, "--batch-size", 4, "--compute", "float32", "--no-baselines")
    more = (*small, "--epochs", 2, "--seeds", "0,1", "--run", tmp_path / "seeds")
    trained = cli("adapt", *places, *more)
    assert trained.exit_code == 0, trained.output
    video = road.root / "night" / "spin" / "spin_01.mp4"
    together = table_of(cli("predict", tmp_path / "seeds", video, *CPU, "--all"))
    stored = table_of(cli("predict", tmp_path / "seeds", *CPU, "--all"))
    P = together.filter(like="p(").to_numpy(float)
    of_features = stored[stored["video"] == "spin/spin_01"].filter(like="p(").to_numpy(float)
    np.testing.assert_allclose(P, of_features, atol=1e-3)
    each = [
        table_of(cli("predict", tmp_path / "seeds" / name, video, *CPU, "--all"))
        for name in ("seed0", "seed1")
    ]
    expected = np.mean([one.filter(like="p(").to_numpy(float) for one in each], axis=0)
    np.testing.assert_allclose(P, expected, atol=1e-5)


def test_runs_that_differ_in_more_are_refused(cli, seeds: Path, problem: Path) -> None:
    more = ("--seed", 3, "--eval-draws", 2)
    assert cli(*toy_arguments(problem, "seeds/seed3", *more)).exit_code == 0
    result = cli("predict", seeds, *CPU)
    assert result.exit_code == 1
    assert f"The 4 runs in {seeds} differ in more than their seed" in result.stderr
    assert "seed0 holds a run with other options, eval_draws: 3 or 2." in result.stderr
    with pytest.raises(RunError, match="differ in more than their seed"):
        adapt.predict(seeds, [np.zeros((3, 16))], device="cpu")


def test_a_copy_of_a_run_is_no_other_seed(cli, problem: Path) -> None:
    """Counted as a seed, it would weigh one answer twice and make the deviation smaller."""
    seeds = problem / "seeds"
    assert cli(*toy_arguments(problem, "seeds", "--seeds", "0,1")).exit_code == 0
    assert "2 seeds: mean" in cli("evaluate", seeds, *CPU).output
    shutil.copytree(seeds / "seed0", seeds / "seed7")
    twins = "seed0 and seed7 have the same seed, 0."
    predicted = cli("predict", seeds, *CPU)
    assert predicted.exit_code == 1 and twins in predicted.stderr
    with pytest.raises(RunError, match=twins):
        adapt.predict(seeds, [np.zeros((3, 16))], device="cpu")
    evaluated = cli("evaluate", seeds, *CPU)
    assert evaluated.exit_code == 0
    assert f"There is no mean over the seeds: {twins}" in " ".join(evaluated.output.split())
    assert "seeds: mean" not in evaluated.output
    compared = cli("runs", "compare", seeds, seeds / "seed1")
    assert compared.exit_code == 1 and twins in " ".join(compared.output.split())
    listed = cli("runs", "list", seeds)
    assert "±" not in listed.output and listed.output.count("ma2l-td (robust)") == 3


def test_seeds_that_call_the_classes_otherwise_do_not_answer_together(
    cli, seeds: Path, problem: Path
) -> None:
    """The classes were renamed between two seeds, and their labels stayed."""
    for path in (problem / "manifests" / "toy").glob("*.csv"):
        path.write_text(path.read_text().replace(",c0,", ",c9,"))
    more = ("--seed", 3, "--eval-draws", 3)
    assert cli(*toy_arguments(problem, "seeds/seed3", *more)).exit_code == 0
    refused = cli("predict", seeds, *CPU)
    assert refused.exit_code == 1
    assert "seed3 knows the classes c9, c1, c2, and seed0 c0, c1, c2" in refused.stderr


def test_a_seed_that_is_not_finished_is_named(cli, seeds: Path) -> None:
    (seeds / "seed1" / "done.json").unlink()
    result = cli("predict", seeds, *CPU)
    assert result.exit_code == 1
    assert f"1 of 3 runs in {seeds} is not finished (first: {seeds / 'seed1'})" in result.stderr


def test_evaluate_says_what_the_seeds_say_together(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "seeds", "--seeds", "0,1,2")).exit_code == 0
    tables = [
        table_of(cli("predict", run.parent, *CPU, "--all"))
        for run in sorted((problem / "seeds").glob("*/config.json"))
    ]
    listed = {v.id: v for v in read_manifest(problem / "manifests" / "toy" / "right.csv")}
    videos = tables[0]["video"]
    held_out = [listed[v].split == "eval" for v in videos]
    truth = np.array([listed[v].class_name for v in videos[held_out]])

    def accuracy(P: np.ndarray) -> float:
        names = [c[2:-1] for c in tables[0].filter(like="p(").columns]
        return 100 * float((np.array(names)[P.argmax(axis=1)] == truth).mean())

    each = [table.filter(like="p(").to_numpy()[held_out] for table in tables]
    overall = [accuracy(P) for P in each]
    result = cli("evaluate", problem / "seeds", *CPU)
    assert result.exit_code == 0, result.output
    assert (
        f"3 seeds: mean {np.mean(overall):.2f} ± {np.std(overall, ddof=1):.2f} %; together, by the "
        in (result.output)
    )
    assert (
        f"mean of their probabilities: {accuracy(np.mean(each, axis=0)):.2f} % (class"
        in result.output
    )
    assert "together" not in cli("evaluate", problem / "seeds" / "seed1", *CPU).output


def test_a_folder_of_one_run_stands_for_the_run(cli, road: Road, tmp_path: Path) -> None:
    shutil.copytree(road.run, tmp_path / "seeds" / "seed0")
    alone = table_of(cli("predict", road.run, *CPU, "--all"))
    pd.testing.assert_frame_equal(
        table_of(cli("predict", tmp_path / "seeds", *CPU, "--all")), alone
    )
    result = cli("export", tmp_path / "seeds", "--out", tmp_path / "a.pt2")
    assert result.exit_code == 0, result.output
    assert "made-up features" not in result.output  # those of the run's target were found


def test_evaluate_loads_features_once_for_all_runs_that_share_them(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs in a folder may have other directions and classes; each is judged on its own videos."""
    from adapt import evaluation

    more = ("--seeds", "0,1", "--epochs", 1, "--no-baselines")
    for name, given in {
        "a": more,
        "b": (*more, "--source", "right", "--target", "left"),
        "c": (*more, "--classes", "c0,c2"),
    }.items():
        result = cli(*toy_arguments(problem, f"all/{name}", *given))
        assert result.exit_code == 0, result.output
    runs = [problem / "all" / name / f"seed{seed}" for name in "abc" for seed in (0, 1)]
    alone = [cli("evaluate", run, *CPU).output.splitlines()[1] for run in runs]

    loaded = []
    load = evaluation.load_bank
    monkeypatch.setattr(
        evaluation,
        "load_bank",
        lambda *args, **kw: loaded.append(args[0].folder) or load(*args, **kw),
    )
    together = cli("evaluate", problem / "all", *CPU)
    assert together.exit_code == 0, together.output
    lines = [
        line for line in together.output.splitlines() if "target evaluation videos: ov" in line
    ]
    assert lines == alone and len({line.split(":")[0] for line in lines}) > 1
    assert [folder.parent.name for folder in loaded] == ["right", "left", "right"]
