"""`benchmark`: the whole plan, kills, failures, refusals. Workers are processes, as the user has them."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import (
    REPOSITORY,
    alive,
    edited_json,
    make_problem,
    metrics,
    slow,
    stopped_before,
    toy_arguments,
)

from adapt.config import AdaptConfig
from adapt.crew import _Member
from adapt.plan import Job
from adapt.published import PUBLISHED
from commands.benchmark import _crew
from store.errors import ConfigError
from store.locks import folder_lock
from store.machine import cores
from store.manifest import read_manifest, write_manifest
from store.program import code_sha256

BOTH = ("left-right", "right-left")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs that are compared to the bit have one thread each: sums over two have other last bits."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for processes that are started
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def arguments(root: Path, *more: object, out: str = "out") -> list[str]:
    places = ("--features", root / "features", "--manifests", root / "manifests")
    small = ("batch_size=8", "width=16", "compute=float32", "frames=9")
    given = [
        *("benchmark", "--benchmark", "toy", *places, "--out", root / out, "--device", "cpu"),
        *(word for text in small for word in ("--set", text)),
        *(() if "--epochs" in more else ("--epochs", 2)),
        *more,
    ]
    return [str(word) for word in given]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_whole_plan_and_again_without_features(cli, problem: Path) -> None:
    more = ("--methods", "dann,source-only,infomax", "--settings", "own,shared", "--seeds", "0,4")
    result = cli(*arguments(problem, *more, "--both-directions"))
    assert result.exit_code == 0, result.output
    assert "Note: infomax has no preset own." in result.output
    assert "20 of 20 runs to do" in result.output
    rows, out = rows_of(problem / "out"), problem / "out"
    assert len(rows) == 20 and {row["status"] for row in rows} == {"done"}
    names = list(dict.fromkeys((row["method"], row["preset"]) for row in rows))
    assert names == [  # in the order of the paper's tables
        *(("source-only", "own"), ("source-only", "shared"), ("dann", "own"), ("dann", "shared")),
        ("infomax", "shared"),
    ]
    table = (out / "table.md").read_text()
    assert table in result.output
    for row in rows:
        run = out / row["run"]
        assert row["run"] == (
            f"{row['source']}-{row['target']}/{row['method']}-{row['preset']}/seed{row['seed']}"
        )
        assert not (run / "baselines.json").exists(), "source only has rows of its own here"
        done = json.loads((run / "done.json").read_text())
        assert float(row["overall"]) == pytest.approx(done["target_eval"]["overall"], abs=1e-4)
        assert float(row["low"]) == pytest.approx(done["target_eval"]["low"], abs=1e-4)
        assert (row["epochs"], row["videos"]) == ("2", "12")
        assert (row["reads_target_labels"], row["transductive"]) == ("no", "no")
        spent = sum(
            json.loads(x)["seconds"] for x in (run / "metrics.jsonl").read_text().splitlines()
        )
        assert float(row["seconds"]) == pytest.approx(spent, abs=0.01)
    # 16 features: an encoder of two layers with batch norms, or of one layer, and a classifier of 3
    sizes = {"own": 16 * 16 + 16 + 16 * 3 + 3}
    sizes["shared"] = 32 + 2 * (16 * 16 + 16 + 32) + 16 * 3 + 3
    assert all(int(r["parameters"]) == sizes[r["preset"]] for r in rows)
    for row in names:
        for n, direction in enumerate(BOTH):
            each = [
                float(r["overall"])
                for r in rows
                if (r["method"], r["preset"]) == row and f"{r['source']}-{r['target']}" == direction
            ]
            line = next(x for x in table.splitlines() if x.startswith(f"| {row[0]} ({row[1]}) |"))
            cell = line.split(" | ")[1 + 3 * n].strip("*")
            assert cell == f"{statistics.fmean(each):.2f} ± {statistics.stdev(each):.2f}"
    again = cli("evaluate", out / "right-left" / "dann-own" / "seed4", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output

    for shard in (problem / "features").rglob("*.h5"):
        shard.unlink()  # what is finished is not trained, nor are its features read
    page = (out / "table.html").read_text()
    second = cli(*arguments(problem, *more, "--both-directions"))
    assert second.exit_code == 0, second.output
    assert "All 20 runs are finished already." in second.output
    assert (out / "table.html").read_text() == page and rows_of(out) == rows


@pytest.mark.slow
def test_two_at_a_time_give_what_one_does_and_what_adapt_does(cli, problem: Path) -> None:
    more = ("--methods", "source-only,infomax", "--seeds", "0-2")
    for jobs in (1, 2):
        result = cli(*arguments(problem, *more, "--jobs", jobs, out=f"out{jobs}"))
        assert result.exit_code == 0, result.output
    for row in rows_of(problem / "out1"):
        one, two = (problem / f"out{jobs}" / row["run"] for jobs in (1, 2))
        assert metrics(one) == metrics(two)
        assert (one / "predictions.csv").read_text() == (two / "predictions.csv").read_text()
    alone = toy_arguments(problem, "alone", "--method", "infomax", "--epochs", 2, "--frames", 9)
    assert cli(*alone, "--seed", 1).exit_code == 0
    assert metrics(problem / "alone") == metrics(
        problem / "out1" / "left-right" / "infomax-shared" / "seed1"
    )


def start(root: Path, *more: object, **extra: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "cli.py", *arguments(root, *more)]
    return subprocess.Popen(
        command,
        cwd=extra.pop("cwd", REPOSITORY),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(number) for number in tasks.split()]


def wait_until(true, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, slow(signal.SIGINT)])
def test_a_stopped_plan_goes_on_where_it_was(cli, problem: Path, number: signal.Signals) -> None:
    more = ("--methods", "source-only", "--seeds", "0,1", "--jobs", 1, "--checkpoint-every", 2)
    more = (*more, "--epochs", 40, "--set", "score_every=0")
    process = start(problem, *more)
    run = problem / "out" / "left-right" / "source-only-paper"
    wait_until(lambda: (run / "seed0" / "done.json").exists())
    wait_until(lambda: (run / "seed1" / "progress.pt").exists())
    workers = children_of(process.pid)
    assert workers
    os.kill(process.pid, number)
    output = process.communicate()[0]
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), output
    wait_until(lambda: not any(alive(worker) for worker in workers))
    assert not (run / "seed1" / "done.json").exists()
    assert [row["status"] for row in rows_of(problem / "out")] == ["done", "not run"]
    assert (problem / "out" / "table.md").exists() == (number == signal.SIGINT)
    first = (run / "seed0" / "environment.json").read_bytes()

    result = cli(*arguments(problem, *more))
    assert result.exit_code == 0, result.output
    assert "1 of 2 runs to do, 1 of them stopped before and going on" in result.output
    assert (run / "seed0" / "environment.json").read_bytes() == first
    assert len(metrics(run / "seed1")) == 40
    calm = cli(*arguments(problem, *more, out="calm"))
    assert calm.exit_code == 0
    other = problem / "calm" / "left-right" / "source-only-paper" / "seed1"
    assert metrics(run / "seed1") == metrics(other)


BAD = '''
"""Source only, but a step %s."""
import os, signal
from adapt.methods.source_only import Options, READS, SETTINGS, build
def losses(networks, source, target, config, progress):
    %s
'''


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The program in a folder of its own, into which methods can be dropped."""
    folder = tmp_path / "program"
    for name in ("adapt", "commands", "extract", "store", "data"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    shutil.copy(REPOSITORY / "cli.py", folder)
    return folder


@pytest.mark.slow
def test_methods_that_fail_are_named_and_the_others_are_done(copy: Path, problem: Path) -> None:
    methods = copy / "adapt" / "methods"
    (methods / "odd.py").write_text(BAD % ("divides by zero", "return 1 / 0"))
    (methods / "dying.py").write_text(BAD % ("dies", "os.kill(os.getpid(), signal.SIGKILL)"))
    (methods / "diverging.py").write_text(
        BAD
        % (
            "is not finite",
            "from adapt.methods import StepLosses\n"
            "    loss = networks.model(source.features_BTD).sum() * float('inf')\n"
            "    return StepLosses(total=loss, parts={'source': loss})",
        )
    )
    (methods / "broken.py").write_text("def (")
    names = "broken,diverging,dying,odd,source-only"
    process = start(problem, "--methods", names, "--seeds", 0, "--jobs", 1, cwd=copy)
    output = process.communicate()[0]
    assert process.returncode == 3, output
    out = problem / "out"
    rows = {row["method"]: row for row in rows_of(out)}
    assert [method for method, row in rows.items() if row["status"] == "done"] == ["source-only"]
    assert len(rows) == 4
    assert rows["odd"]["error"] == "ZeroDivisionError: division by zero"
    assert "ended by SIGKILL" in rows["dying"]["error"]
    assert "not finite" in rows["diverging"]["error"]
    assert "3 of 4 runs failed, 1 method left out; see the last table." in output
    assert "Left out: broken, whose file cannot be used. SyntaxError" in output
    table = (out / "table.md").read_text()
    assert "| odd (paper) [F] | - |" in table
    for line in ("| broken | 1 | SyntaxError", "| odd (paper) | 1 | ZeroDivisionError"):
        assert line in table
    assert "return 1 / 0" in (out / "failures.txt").read_text()
    assert "broken" in (out / "table.html").read_text()

    (methods / "odd.py").write_text(BAD % ("is right", "return fine(networks, source)"))
    with (methods / "odd.py").open("a") as file:
        file.write("from adapt.methods.source_only import losses\n")
    process = start(problem, "--methods", "odd,source-only", "--seeds", 0, cwd=copy)
    output = process.communicate()[0]
    assert process.returncode == 0 and "1 of 2 runs to do, 1 of them stopped" in output, output
    assert {row["status"] for row in rows_of(out)} == {"done"}
    assert not (out / "failures.txt").exists()


@pytest.mark.slow
def test_options_that_changed_are_refused_and_redone_on_demand(cli, problem: Path) -> None:
    more = ("--methods", "source-only", "--seeds", "0,1", "--jobs", 1)
    assert cli(*arguments(problem, *more)).exit_code == 0
    plan = (problem / "out" / "plan.json").read_text()
    refused = cli(*arguments(problem, *more, "--epochs", 3))
    assert refused.exit_code == 1
    assert "2 of 2 runs are there and not as asked for" in refused.output
    assert "epochs: 2 or 3" in refused.output and "--redo" in refused.output
    assert (problem / "out" / "plan.json").read_text() == plan
    redone = cli(*arguments(problem, *more, "--epochs", 3, "--redo"))
    assert redone.exit_code == 0, redone.output
    assert [row["epochs"] for row in rows_of(problem / "out")] == ["3", "3"]

    # A video less in a manifest: the run of before is another one.
    path = problem / "manifests" / "toy" / "left.csv"
    write_manifest(path, [v for v in read_manifest(path) if v.id != "left_0_11"])
    refused = cli(*arguments(problem, *more, "--epochs", 3))
    assert refused.exit_code == 1 and "a run on other videos or labels:" in refused.output
    assert cli(*arguments(problem, *more, "--epochs", 3, "--redo")).exit_code == 0

    # Damage is found, not printed.
    run = problem / "out" / "left-right" / "source-only-paper" / "seed0"
    table = (run / "predictions.csv").read_text()
    line = table.splitlines()[1]
    video, name, predicted, _ = line.split(",")
    wrong = "c0" if predicted != name else "c9"
    wrong = name if predicted != name else wrong
    (run / "predictions.csv").write_text(table.replace(line, f"{video},{name},{wrong},0.5"))
    broken = cli(*arguments(problem, *more, "--epochs", 3))
    assert broken.exit_code == 1 and "does not give the accuracy of done.json" in broken.output
    (run / "done.json").write_text("{}")
    broken = cli(*arguments(problem, *more, "--epochs", 3))
    assert broken.exit_code == 1 and "it is damaged: " in broken.output


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--methods", "nothing"), "--methods must be all or some of "),
        (("--methods", "dann,,ta3n"), "--methods must be names with commas between them"),
        (("--settings", "best"), "--settings must be all or some of "),
        (("--benchmark", "toys"), "There is no benchmark 'toys'. Choose one of kinetics-gameplay,"),
        (("--source", "up"), "--source up is no domain of toy, which has left, right."),
        (("--source", "left", "--target", "left"), "--source and --target are both left."),
        (("--set", "kernels=2"), "None of the methods reads --kernels."),
        (("--set", "epochs"), "--set must be name=value, got 'epochs'."),
        (("--set", "momentum=x"), "--momentum must be of type float, got 'x'."),
        (("--set", "input_norm=1"), "--input-norm must be true or false, got '1'."),
        (("--set", "seed=3"), "--set seed is what the plan itself sets."),
        (("--set", "dropout=2"), "source-only (paper): --dropout must be below 1"),
        (("--set", "dropout=0", "--set", "dropout=0.1"), "--set --dropout is given twice."),
        (("--set", "epochs=2"), "Give either --epochs or --set epochs."),
        (("--seeds", "0-"), "--seeds must be numbers or ranges"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_with_the_choices(cli, problem: Path, more, text: str) -> None:
    given = ("--methods", "source-only", *more) if "--methods" not in more else more
    result = cli(*arguments(problem, *given))
    assert result.exit_code == 2, result.output
    assert text in " ".join(result.output.split())
    assert not (problem / "out").exists()


def test_folders_of_something_else_or_in_use_are_refused(cli, problem: Path, monkeypatch) -> None:
    more = ("--methods", "source-only", "--seeds", 0)
    out = problem / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    refused = cli(*arguments(problem, *more))
    assert refused.exit_code == 1
    assert "holds other files (first: thesis.tex). Give another folder" in refused.output
    (out / "thesis.tex").unlink()
    (out / "plan.json").write_text('{"benchmark": "other"}')
    refused = cli(*arguments(problem, *more))
    assert refused.exit_code == 1 and "holds the benchmark other." in refused.output
    (out / "plan.json").write_text('{"benchmark": "toy"}')
    run = out / "left-right" / "source-only-paper" / "seed0"
    run.mkdir(parents=True)
    (run / "mine.txt").touch()
    for redo in ((), ("--redo",)):
        refused = cli(*arguments(problem, *more, *redo))
        assert refused.exit_code == 1 and "holds no run but other files." in refused.output
    (run / "mine.txt").unlink()
    with folder_lock(out, wait=False):
        refused = cli(*arguments(problem, *more))
    assert refused.exit_code == 1 and "Another process works on the benchmark" in refused.output
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = cli(*arguments(problem, *more))
    assert refused.exit_code == 2 and "Start it without torchrun." in refused.output


def test_three_domains_need_a_pair(cli, problem: Path) -> None:
    folder = problem / "manifests" / "toy"
    shutil.copy(folder / "left.csv", folder / "middle.csv")
    refused = cli(*arguments(problem, "--methods", "source-only"))
    assert refused.exit_code == 2
    assert "toy has 3 domains, left, middle, right. Say which two" in refused.output
    shown = cli(
        *arguments(problem, "--methods", "source-only", "--seeds", 0, "--show-plan"),
        *("--source", "right", "--target", "left"),
    )
    assert shown.output.splitlines() == [
        str(problem / "out" / "right-left" / "source-only-paper" / "seed0")
    ]


def test_the_pair_of_a_published_benchmark_is_the_papers(cli, tmp_path: Path) -> None:
    for name, published in PUBLISHED.items():
        given = ("--benchmark", name, "--methods", "source-only", "--seeds", "0", "--show-plan")
        shown = cli("benchmark", *given, "--out", tmp_path)
        source, target = published.directions[0]
        assert shown.output.splitlines() == [
            str(tmp_path / f"{source}-{target}" / "source-only-paper" / "seed0")
        ]


def plan_of(changes: dict[str, str], *methods: str, presets=None, folder: Path = Path("x")):
    from adapt.plan import Asked, make_plan

    asked = Asked(
        benchmark="ucf-hmdb-full",
        directions=[("ucf", "hmdb")],
        methods=methods,
        presets=presets,
        seeds=[0, 1],
        changes=changes,
    )
    return make_plan(asked, folder)


def test_options_go_to_the_methods_that_read_them() -> None:
    from adapt import methods

    plan = plan_of({"epochs": "7", "momentum": "0.5", "kernel": "2"}, "all")
    assert {job.config.method for job in plan.jobs} == set(methods.names())
    for job in plan.jobs:
        values = job.config.as_dict()
        assert values.get("epochs", 7) == 7 and values.get("kernel", 2) == 2
        assert values.get("momentum", 0.5) == 0.5  # read with SGD alone, and left out elsewhere
        assert job.config.preset == methods.find(job.config.method).default_preset
    assert {j.config.as_dict().get("momentum") for j in plan.jobs} == {None, 0.5}
    [note] = [note for note in plan.notes if note.startswith("--kernel")]
    assert "dann" in note and "ma2l-td" not in note


def test_an_option_that_several_values_of_another_make_readable_reaches_the_runs() -> None:
    changes = {"input_coral": "target-to-source", "input_coral_epsilon": "0.5"}
    for job in plan_of(changes, "dann", "source-only").jobs:
        assert job.config.as_dict()["input_coral_epsilon"] == 0.5


def test_an_option_that_another_keeps_from_being_read_is_said() -> None:
    plan = plan_of({"momentum": "0.5"}, "dann", "infomax")  # own: sgd; shared: adam
    assert [job.config.as_dict().get("momentum") for job in plan.jobs[:2]] == [0.5, None]
    [note] = plan.notes
    assert note == "--momentum is read only with --optimiser sgd, so not by infomax (shared)."
    with pytest.raises(ConfigError, match="optimiser sgd, which none of the runs has"):
        plan_of({"momentum": "0.5"}, "infomax")
    with pytest.raises(
        ConfigError, match="source-to-target or target-to-source, which none of the"
    ):
        plan_of({"input_coral_epsilon": "0.5"}, "dann", "infomax")


def test_presets_that_a_method_lacks_are_said() -> None:
    def rows(jobs: list[Job]) -> set[tuple[str, str]]:
        return {job.row for job in jobs}

    plan = plan_of({}, "ma2l-td", "dann", "infomax", presets=["own", "shared"])
    assert rows(plan.jobs) == {
        *(("dann", "own"), ("dann", "shared"), ("infomax", "shared"), ("ma2l-td", "robust"))
    }
    assert sorted(plan.notes) == [
        "infomax has no preset own.",
        "ma2l-td has no preset own or shared: it is trained with robust.",
    ]
    every = plan_of({}, "ma2l-td", presets=["all"])
    assert [preset for _, preset in dict.fromkeys(job.row for job in every.jobs)] == [
        *("robust", "light", "paper", "released")
    ]


def test_a_process_that_dies_in_the_middle_of_a_word_costs_its_run_alone() -> None:
    config = AdaptConfig.make(benchmark="toy", given={"source": "left", "target": "right"})
    member = object.__new__(_Member)
    member.pipe, theirs = multiprocessing.Pipe()
    member._job = Job(config=config, folder=Path("run"))
    member._process = SimpleNamespace(join=lambda: None, exitcode=-9)  # type: ignore[assignment]
    os.write(theirs.fileno(), struct.pack("!i", 100) + b"half of it")
    theirs.close()
    event, ended, broken = member.receive()
    assert (event.kind, ended, broken) == ("failed", True, True) and "SIGKILL" in event.text


def test_large_networks_are_trained_first_within_a_seed() -> None:
    from adapt.benchmark import Benchmark
    from adapt.plan import Asked
    from adapt.standing import Videos

    plan = plan_of({}, "source-only", "ma2l-td", "ta3n")
    assert [job.config.method for job in plan.jobs][:3] == ["source-only", "ta3n", "ma2l-td"]
    both = [("ucf", "hmdb"), ("hmdb", "ucf")]
    asked = Asked(
        benchmark="ucf-hmdb-full",
        directions=both,
        methods=["all"],
        presets=None,
        seeds=[0, 1],
        changes={},
    )
    used: Any = {
        "record": None,
        "record_then": None,
        "labels": {},
        "which_labels": "",
        "width": 2048,
        "classes": 12,
    }
    videos = [Videos(**used)] * len(plan.jobs)
    found = Benchmark(asked=asked, plan=plan, folder=Path("x"), videos=videos, states=[])
    order = [(job.config.seed, job.config.method) for job in found.todo()]
    assert order == [(s, m) for s in (0, 1) for m in ("ma2l-td", "ta3n", "source-only")]


def test_the_time_left_is_that_of_runs_of_the_same_row() -> None:
    from adapt.crew import Event
    from commands.progress import BenchmarkProgress

    jobs = plan_of({"epochs": "10"}, "source-only", "dann").jobs  # two seeds of each
    now = [0.0]
    progress = BenchmarkProgress("toy", jobs, {}, 1, lambda: now[0])
    assert progress.seconds_left() == float("inf")
    slow = {("source-only", "paper"): [4.0], ("dann", "own"): [100.0]}
    assert BenchmarkProgress("toy", jobs, slow, 1).seconds_left() == 208
    assert BenchmarkProgress("toy", jobs, slow, 2).seconds_left() == 104
    progress(Event(kind="started", job=jobs[0]))
    now[0] = 2.0
    progress(Event(kind="epoch", job=jobs[0], epoch=1))
    assert progress.seconds_left() == 18 + 3 * 20  # nothing else is known of the others
    now[0] = 20.0
    progress(Event(kind="done", job=jobs[0]))
    progress(Event(kind="started", job=jobs[1]))
    now[0] = 30.0
    progress(Event(kind="epoch", job=jobs[1], epoch=9))  # goes on after epoch 8: 10 s an epoch
    assert progress.seconds_left() == 10 + 2 * 20


def test_the_users_own_benchmark_needs_no_option(cli, tmp_path: Path, monkeypatch) -> None:
    make_problem(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = ("--methods", "source-only", "--seeds", "0", "--epochs", "1", "--device", "cpu")
    result = cli("benchmark", "--benchmark", "toy", *given)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "benchmarks" / "toy" / "table.html").exists()


@pytest.mark.slow
def test_runs_of_other_code_are_said_and_stay(cli, problem: Path) -> None:
    more = ("--methods", "source-only", "--seeds", "0,1")
    assert cli(*arguments(problem, *more)).exit_code == 0
    assert "another state of this program" not in cli(*arguments(problem, *more)).output
    row = problem / "out" / "left-right" / "source-only-paper"
    with edited_json(row / "seed1" / "environment.json") as found:
        assert found["code_sha256"] == code_sha256()
        found["code_sha256"] = "0" * 64
    result = cli(*arguments(problem, *more))
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert "1 of 2 runs was trained by another state of this program (first: " in said
    assert "All 2 runs are finished already." in said


def test_a_run_that_goes_on_with_other_code_says_so_and_keeps_both(cli, problem: Path) -> None:
    options = toy_arguments(problem, "run", "--method", "source-only", "--checkpoint-every", 1)
    with stopped_before(2):
        assert cli(*options).exit_code == 130
    record = problem / "run" / "environment.json"
    with edited_json(record) as found:
        found["code_sha256"] = "0" * 64
    with stopped_before(2):
        stopped = cli(*options, "--resume")
    assert "was begun by another state of this program" in " ".join(stopped.output.split())
    result = cli(*options, "--resume")  # the same code as before: nothing more to say
    assert result.exit_code == 0 and "another state" not in result.output
    environment = json.loads(record.read_text())
    assert environment["code_sha256"] == code_sha256()
    assert [then["code_sha256"] for then in environment["earlier"]] == ["0" * 64]


def test_the_code_is_known_by_names_and_bytes_of_what_decides_a_number(tmp_path: Path) -> None:
    """A copy elsewhere is the same code until one byte of it is another."""
    for package in ("adapt", "extract", "store"):
        shutil.copytree(
            REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc")
        )
    ask = "from store.program import code_sha256; print(code_sha256())"

    def asked() -> str:
        command = [sys.executable, "-c", ask]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    assert asked() == code_sha256()
    module = tmp_path / "adapt" / "methods" / "dan.py"
    module.write_text(module.read_text() + "#")
    assert asked() not in ("", code_sha256())


@pytest.mark.parametrize(
    ("said", "threads"), [("3", 3), ("03", 3), ("0", cores()), ("2,1", cores())]
)
def test_the_threads_of_a_process_are_those_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    given = {"features": tmp_path, "root": tmp_path, "store": None, "allow_missing": False}
    given |= {"bank": "auto", "device": "cpu", "jobs": 1, "checkpoint_every": 0}
    assert _crew(given, "toy", []).threads == threads
