"""Runs that are repeated, killed, resumed, or fed with awkward data."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, config_for, make_problem, make_store, metrics, toy_arguments

from store.locks import machine
from store.manifest import Video, read_manifest, write_manifest


def outcome(run: Path) -> tuple[Any, ...]:
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    done = json.loads((run / "done.json").read_text())["target_eval"]
    weights = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.items()}
    return metrics(run), weights, done, (run / "predictions.csv").read_text()


@pytest.mark.parametrize("more", [("--preset", "paper"), ("--preset", "released")], ids=str)
def test_same_seed_same_bits(cli, problem: Path, more: tuple[str, ...]) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = cli(*toy_arguments(problem, name, "--seed", seed, *more))
        assert result.exit_code == 0, result.output
    assert outcome(problem / "a") == outcome(problem / "b")
    assert metrics(problem / "a") != metrics(problem / "c")


def test_the_first_seed_leaves_nothing_behind_for_the_second(cli, problem: Path) -> None:
    """Global random state or anything else of an earlier run must not matter."""
    assert cli(*toy_arguments(problem, "first", "--seed", 5)).exit_code == 0
    torch.rand(3)
    np.random.default_rng().random()
    assert cli(*toy_arguments(problem, "second", "--seed", 5)).exit_code == 0
    assert outcome(problem / "first") == outcome(problem / "second")


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir()}


LONG = ("--epochs", 80, "--checkpoint-every", 7)


def start(problem: Path, run: str) -> subprocess.Popen[bytes]:
    more = ("--resume",) if (problem / run).exists() else ()
    arguments = [str(a) for a in toy_arguments(problem, run, *LONG, *more)]
    return subprocess.Popen(
        [sys.executable, "cli.py", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def epochs_logged(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_is_as_undisturbed(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "calm", *LONG)).exit_code == 0
    moments = random.Random(0)
    went_on = False
    for _ in range(3):
        goal = epochs_logged(problem / "killed") + moments.randrange(25)
        process = start(problem, "killed")
        while process.poll() is None and epochs_logged(problem / "killed") < goal:
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        went_on |= (problem / "killed" / "progress.pt").is_file()
    assert went_on and not (problem / "killed" / "done.json").exists()
    last = cli(*toy_arguments(problem, "killed", *LONG, "--resume"))
    assert last.exit_code == 0, last.output
    assert outcome(problem / "killed") == outcome(problem / "calm")
    assert {p.name for p in (problem / "killed").iterdir()} == {
        p.name for p in (problem / "calm").iterdir()
    }


def test_resuming_a_finished_run_says_its_result(cli, problem: Path) -> None:
    first = cli(*toy_arguments(problem, "run"))
    before = outcome(problem / "run")
    again = cli(*toy_arguments(problem, "run", "--resume"))
    assert again.exit_code == 0
    assert first.output.splitlines()[-3:] == again.output.splitlines()[-3:]
    assert outcome(problem / "run") == before


def test_what_cannot_be_resumed(cli, problem: Path) -> None:
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    other = cli(*toy_arguments(problem, "run", "--resume", "--seed", 3))
    assert other.exit_code == 1
    assert "run holds a run with other options, seed: 0 or 3. Repeat its options" in other.output
    arguments = toy_arguments(problem, "run", "--resume")
    at = arguments.index("--run")
    lacking = cli(*arguments[:at], *arguments[at + 2 :])
    assert lacking.exit_code == 2
    assert "--resume needs --run, the folder of the run to go on with." in lacking.output
    (problem / "else").mkdir()
    (problem / "else" / "notes.txt").write_text("mine")
    foreign = cli(*toy_arguments(problem, "else", "--resume"))
    assert foreign.exit_code == 1 and "else has no config.json: no run" in foreign.output


@pytest.mark.parametrize(
    ("domain", "where", "change", "same"),
    [
        ("left", "train", "label", False),
        ("left", "train", "drop", False),
        ("left", "train", "order", False),
        ("right", "train", "drop", False),
        ("right", "eval", "label", False),
        ("right", "train", "label", True),  # nothing looks at it
        ("left", "eval", "drop", True),  # nothing uses it
    ],
)
def test_a_run_is_not_resumed_with_other_videos(
    cli, problem: Path, domain: str, where: str, change: str, same: bool
) -> None:
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    path = problem / "manifests" / "toy" / f"{domain}.csv"
    videos = list(read_manifest(path))
    first, second, *_ = (i for i, v in enumerate(videos) if v.split == where and v.label == 0)
    if change == "label":
        videos[first] = dataclasses.replace(videos[first], label=1, class_name="c1")
    elif change == "drop":
        del videos[first]
    else:
        videos[first], videos[second] = videos[second], videos[first]
    write_manifest(path, videos)
    result = cli(*toy_arguments(problem, "run", "--resume"))
    assert result.exit_code == (0 if same else 1), result.output
    if not same:
        assert (
            "run holds a run on other videos or labels:\n  then 24 left train, 24 " in result.output
        )


@pytest.mark.slow
def test_two_processes_in_one_run_folder(cli, problem: Path) -> None:
    process = start(problem, "run")
    while process.poll() is None and not epochs_logged(problem / "run"):
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)  # it holds the folder as long as the test looks
    before = contents(problem / "run")
    try:
        refused = cli(*toy_arguments(problem, "run", *LONG, "--resume"))
        after = contents(problem / "run")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert refused.exit_code == 1
    assert (
        f"Another process is training in {problem / 'run'}. Let it finish, or stop it"
        in refused.output
    )
    assert after == before
    again = cli(*toy_arguments(problem, "run", *LONG, "--resume"))
    assert again.exit_code == 0  # a killed one lets go


def test_leftovers_and_damage_of_a_killed_write(cli, problem: Path) -> None:
    run = problem / "run"
    run.mkdir()
    name = f".config.json.{machine()}.4194999.01234567.partial"  # no process has so high a number
    (run / name).write_text("{")
    assert cli(*toy_arguments(problem, "run", "--resume")).exit_code == 0
    assert not list(run.glob(".*"))
    for name in ("done.json", "checkpoint.pt"):
        (run / name).unlink()
    for damaged in (b"PK damaged", b""):
        (run / "progress.pt").write_bytes(damaged)
        result = cli(*toy_arguments(problem, "run", "--resume"))
        assert result.exit_code == 1
        assert "progress.pt is damaged or not from this run" in result.output


def test_a_loss_that_is_not_finite_stops_the_run(cli, problem: Path) -> None:
    """The reversal is off in the first epoch, so that one is good; then it explodes."""
    more = ("--bound", "none", "--adversarial-weight", 1e39)
    result = cli(*toy_arguments(problem, "run", *more, "--epochs", 9, "--checkpoint-every", 1))
    assert result.exit_code == 1
    said = result.output.strip().splitlines()[-1]
    assert said.startswith("Error: The ")
    assert " is not finite " in said and " epoch 2. Try a smaller --learning-rate" in said
    kept = torch.load(problem / "run" / "progress.pt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(t.isfinite().all() for t in kept["networks"].values())
    assert not (problem / "run" / "done.json").exists()
    assert not (problem / "run" / "checkpoint.pt").exists()


def test_the_message_names_term_step_and_epoch() -> None:
    from adapt.watch import LossWatch
    from store.errors import RunError

    watch = LossWatch(config_for({}, preset="released", source="a", target="b"))
    for value in (1.0, 2.0, float("inf"), float("nan")):
        watch.add({"source": torch.tensor(1.0), "adversarial": torch.tensor(value)})
    with pytest.raises(RunError) as caught:
        watch.means(7)
    assert str(caught.value) == (
        "The adversarial loss is not finite at step 3 of 4 in epoch 7. Try a smaller "
        "--learning-rate or a smaller --adversarial-weight or --bound layernorm or --compute float32."
    )


Listed = list[tuple[int, str, int]]
"""(label, split, frames) of every video of a domain."""


def make_domains(root: Path, domains: dict[str, Listed]) -> None:
    draws = np.random.default_rng(0)
    for domain, listed in domains.items():
        videos, features = [], {}
        for number, (label, split, frames) in enumerate(listed):
            video = f"{domain}_{number}"
            videos.append(
                Video(id=video, label=label, class_name=f"c{label}", split=split, frames=None)
            )
            features[video] = 2 * label + draws.normal(size=(frames, 16))
        write_manifest(root / "manifests" / "toy" / f"{domain}.csv", videos)
        make_store(root / "features", domain, features)


def split(*counts: int, frames: int = 12, of: str = "train") -> Listed:
    return [(label, of, frames) for label, n in enumerate(counts) for _ in range(n)]


AWKWARD: dict[str, tuple[Listed, Listed]] = {
    "sizes differ": (split(40, 30), split(3, 2) + split(1, 1, of="eval")),
    "a class with one video": (split(9, 1), split(1, 9) + split(2, 2, of="eval")),
    "batch larger than both domains": (split(1, 1), split(2, 1) + split(1, 1, of="eval")),
    "one frame": (split(5, 5, frames=1), split(5, 5, frames=1) + split(2, 2, frames=1, of="eval")),
    "class missing in target": (split(5, 5, 5), split(5, 5) + split(2, 2, of="eval")),
    "class missing in target eval": (split(5, 5), split(5, 5) + split(3, of="eval")),
}


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_domains_work(cli, tmp_path: Path, name: str, preset: str) -> None:
    left, right = AWKWARD[name]
    make_domains(tmp_path, {"left": left, "right": right})
    result = cli(*toy_arguments(tmp_path, "run", "--preset", preset))
    assert result.exit_code == 0, result.output
    lines = metrics(tmp_path / "run")
    assert all(np.isfinite(v) for line in lines for v in line.values())
    done = json.loads((tmp_path / "run" / "done.json").read_text())["target_eval"]
    assert done["videos"] == Counter(s for _, s, _ in right)["eval"]
    assert cli("evaluate", tmp_path / "run", "--device", "cpu").exit_code == 0


@pytest.mark.parametrize(
    ("taught", "said"),
    [
        (2, "1 of 3 classes has no left training video (first: c2): it cannot be learned."),
        (1, "2 of 3 classes have no left training video (first: c1): they cannot be learned."),
    ],
)
def test_a_class_that_the_source_cannot_teach_is_said(
    cli, tmp_path: Path, taught: int, said: str
) -> None:
    eval_ = split(2, 2, 2, of="eval")
    make_domains(tmp_path, {"left": split(*[5] * taught), "right": split(5, 5, 5) + eval_})
    result = cli(*toy_arguments(tmp_path, "run"))
    assert result.exit_code == 0
    assert said in result.output


@pytest.mark.parametrize(
    ("left", "right", "text"),
    [
        (split(5, 5), split(5, 5), "The right manifest of toy has no eval videos. Mark some in"),
        (
            split(5, 5),
            split(2, 2, of="eval"),
            "The right manifest of toy has no train videos. Mark some in",
        ),
        (
            split(5, 5, of="eval"),
            split(5, 5) + split(2, 2, of="eval"),
            "The left manifest of toy has no train videos. Mark some in",
        ),
    ],
    ids=["no eval", "no target train", "no source train"],
)
def test_missing_splits_are_refused(
    cli, tmp_path: Path, left: Listed, right: Listed, text: str
) -> None:
    make_domains(tmp_path, {"left": left, "right": right})
    result = cli(*toy_arguments(tmp_path, "run"))
    assert result.exit_code == 1 and text in result.output
    assert not (tmp_path / "run").exists()


def test_every_bank_gives_the_same_run(cli, tmp_path: Path) -> None:
    make_problem(tmp_path)
    for bank in ("auto", "device", "host", "mapped"):
        result = cli(*toy_arguments(tmp_path, bank, "--bank", bank))
        assert result.exit_code == 0, result.output
        assert outcome(tmp_path / bank) == outcome(tmp_path / "auto")
