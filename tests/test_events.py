"""--tensorboard: what TensorBoard's own reader finds, against metrics.jsonl."""

from __future__ import annotations

import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import stopped_before, toy_arguments

from adapt import events
from adapt.runs import RunFolder

MORE = ("--score-every", 2, "--epochs", 4, "--checkpoint-every", 1)


def train(cli, root: Path, run: str, *more: object) -> None:
    result = cli(*toy_arguments(root, run, *MORE, *more))
    assert result.exit_code == 0, result.output


def read_back(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every tag's steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert len(list((run / "tensorboard").iterdir())) == 1
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags}


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What must stand there, written out for MA2L-TD with 3 levels."""
    tags = {f"loss/{n}": (n,) for n in ("source", "entropy", "adversarial", "diversity")}
    tags |= {"loss/level_attention": ("level_attention",), "rate/reversal": ("reversal",)}
    tags |= {"rate/learning_rate": ("learning_rate",)}
    for level in ("level 1, 9 slots", "level 2, 7 slots", "level 3, 1 slot"):
        tag = "level_weights/" + level.replace(", ", "_").replace(" ", "_")
        tags[tag] = ("level_weights", level)
    tags |= {
        "accuracy/held-out_source": ("scores", "source-val"),
        "accuracy/target": ("scores", "oracle"),
        "accuracy/target_class_mean": ("scores", "oracle-class-mean"),
    }
    for name in ("im", "entropy", "snd", "bnm", "softmaxcorr", "ami", "dev", "dev-largest-weight"):
        tags[f"score/{name}"] = ("scores", name)
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines(run):
        for tag, place in tags.items():
            value: Any = line
            for key in place:
                value = value.get(key, {})
            if value != {}:
                single = struct.unpack("f", struct.pack("f", value))[0]  # an event is a float32
                found.setdefault(tag, []).append((line["epoch"], single))
    return found


def test_the_events_are_the_metrics(cli, problem: Path) -> None:
    train(cli, problem, "run", "--tensorboard")
    run = problem / "run"
    assert read_back(run) == expected(run)
    assert [step for step, _ in read_back(run)["score/im"]] == [2, 4]
    train(cli, problem, "plain")
    assert not (problem / "plain" / "tensorboard").exists()
    kept = [(problem / name / "checkpoint.pt").read_bytes() for name in ("run", "plain")]
    assert kept[0] == kept[1], "the run has noticed it"


def test_no_step_stands_there_twice_after_going_on(cli, problem: Path) -> None:
    arguments = toy_arguments(problem, "run", *MORE[:-1], 2, "--tensorboard")
    with stopped_before(4):  # kept after epoch 2, so that the third is trained again
        assert cli(*arguments).exit_code == 130
    assert [step for step, _ in read_back(problem / "run")["loss/source"]] == [1, 2, 3]
    assert cli(*arguments, "--resume").exit_code == 0
    found = read_back(problem / "run")
    assert [step for step, _ in found["loss/source"]] == [1, 2, 3, 4]
    assert found == expected(problem / "run")


def test_a_finished_run_gets_its_events_later(cli, problem: Path) -> None:
    train(cli, problem, "run")
    train(cli, problem, "run", "--resume", "--tensorboard")
    assert read_back(problem / "run") == expected(problem / "run")


def test_each_seed_has_its_own(cli, problem: Path) -> None:
    train(cli, problem, "many", "--seeds", "0,1", "--tensorboard")
    for seed in (0, 1):
        run = problem / "many" / f"seed{seed}"
        assert read_back(run) == expected(run)


def test_without_the_package_it_is_refused_before_anything(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    result = cli(*toy_arguments(problem, "run", "--tensorboard"))
    assert result.exit_code == 2
    assert "--tensorboard needs the package tensorboard, which is not installed." in result.output
    assert "pip install '.[tensorboard]'" in result.output
    assert not (problem / "run").exists()


def test_a_fit_and_odd_names_have_tags_too(cli, problem: Path) -> None:
    result = cli(*toy_arguments(problem, "run", "--method", "sa", "--tensorboard"))
    assert result.exit_code == 0, result.output
    assert set(read_back(problem / "run")) >= {"accuracy/target", "score/im"}
    assert RunFolder(problem / "run").is_finished()
    odd = events.scalars({"epoch": 3, "a <b>": 1, "words": "none", "group": {"x, y": 2.0}})
    assert odd == {"loss/a_b_": 1.0, "group/x_y": 2.0}
