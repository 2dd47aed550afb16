"""Several seeds in one command, and the tables of ablations."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from conftest import toy_arguments


def overall(run: Path) -> float:
    return float(json.loads((run / "done.json").read_text())["target_eval"]["overall"])


def test_seeds_go_into_no_folder_of_other_runs(cli, problem: Path) -> None:
    """Neither another method's, nor the same with other options: seeds.json was replaced without a word."""
    small = ("--method", "infomax", "--epochs", 2)
    assert cli(*toy_arguments(problem, "many", *small, "--seeds", "0,1")).exit_code == 0
    before = (problem / "many" / "seeds.json").read_bytes()
    for more, unlike in (
        (("--method", "source-only", "--epochs", 2), "method: infomax or source-only"),
        (("--method", "infomax", "--epochs", 2, "--dropout", 0.25), "dropout: 0.5 or 0.25"),
    ):
        for resume in ((), ("--resume",)):
            refused = cli(*toy_arguments(problem, "many", *more, "--seeds", "2", *resume))
            assert refused.exit_code == 1, refused.output
            assert "seed0 holds a run with other options" in refused.output
            assert unlike in refused.output
    assert (problem / "many" / "seeds.json").read_bytes() == before
    assert not (problem / "many" / "seed2").exists()
    assert cli(*toy_arguments(problem, "many", *small, "--seeds", "2")).exit_code == 0


def test_seeds_share_the_features_and_are_the_single_runs(cli, problem: Path, monkeypatch) -> None:
    from store.read import FeatureStore

    reads: list[str] = []
    read = FeatureStore.read
    monkeypatch.setattr(FeatureStore, "read", lambda s, v: (reads.append(v), read(s, v))[1])
    result = cli(*toy_arguments(problem, "many", "--seeds", "0,3,5", "--epochs", 2))
    assert result.exit_code == 0, result.output
    assert (
        len(reads) == len(set(reads)) == 72
    )  # 24 training and 12 evaluation videos of each domain, once
    for seed in (0, 3, 5):
        assert (
            cli(*toy_arguments(problem, f"one{seed}", "--seed", seed, "--epochs", 2)).exit_code == 0
        )
        assert (problem / f"one{seed}" / "predictions.csv").read_text() == (
            problem / "many" / f"seed{seed}" / "predictions.csv"
        ).read_text()
    each = [overall(problem / "many" / f"seed{seed}") for seed in (0, 3, 5)]
    summary = json.loads((problem / "many" / "seeds.json").read_text())
    assert summary["seeds"] == [0, 3, 5] and summary["selection"] == "last epoch"
    assert summary["overall"]["each"] == each
    assert summary["overall"]["mean"] == pytest.approx(sum(each) / 3)
    assert summary["overall"]["deviation"] == pytest.approx(statistics.stdev(each))
    assert f"overall: mean {sum(each) / 3:.2f} %, deviation {statistics.stdev(each):.2f}" in (
        result.output
    )
    again = cli(*toy_arguments(problem, "many", "--seeds", "0,3,5", "--epochs", 2, "--resume"))
    assert again.exit_code == 0


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--seeds", "0,1,"), "--seeds must be numbers or ranges like 0,1,5-7, got '0,1,'."),
        (("--seeds", "a"), "--seeds must be numbers or ranges like 0,1,5-7, got 'a'."),
        (("--seeds", "9" * 5000), "--seeds must be numbers or ranges like 0,1,5-7, got '999"),
        (("--seeds", "0,1", "--seed", 2), "Give either --seed or --seeds."),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_seeds(cli, problem: Path, more: tuple[Any, ...], text: str) -> None:
    result = cli(*toy_arguments(problem, "run", *more))
    assert result.exit_code == 2 and text in result.output


def ablate_arguments(problem: Path, run: str, *more: object) -> list[object]:
    return toy_arguments(problem, run, *more, command="ablate")


@pytest.mark.parametrize("preset", [None, "released"])
def test_ablations(cli, problem: Path, preset: str | None) -> None:
    more = ("--epochs", 1, "--seeds", "0,1", *(("--preset", preset) if preset else ()))
    preset = preset or "paper"  # whose table it is, whatever `adapt` trains by default
    result = cli(*ablate_arguments(problem, "run", *more))
    assert result.exit_code == 0, result.output
    table = (problem / "run" / "table.md").read_text()
    assert table in result.output
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        *("MA2L-TD", "one discriminator per level", "frame and video level only"),
        *("equal level weights", "average pooling", "source only"),
    ]
    assert all(row.endswith("| - |") for row in rows)  # nothing is published for this benchmark
    for folder, change in {
        "full": {},
        "shared": {"discriminators": "shared"},
        "two-levels": {"adversarial_levels": "frame-video", "first_level": True},
        "equal": {"level_weights": "equal"},
        "source-only": {"method": "source-only"},
    }.items():
        for seed in (0, 1):
            path = problem / "run" / folder / f"seed{seed}"
            config = json.loads((path / "config.json").read_text())["config"]
            if folder == "source-only":
                full = json.loads((problem / "run" / "full" / "seed0" / "config.json").read_text())
                for name in ("frames", "width", "learning_rate", "draws", "source_sampling"):
                    assert config[name] == full["config"][name]
                assert config["method"] == "source-only" and "kernel" not in config
                continue
            assert config["preset"] == preset
            full = problem / "run" / "full" / f"seed{seed}" / "config.json"
            assert config == {**json.loads(full.read_text())["config"], **change}
            assert f"{overall(path):.2f}" in table
    # The authors' code pools by the mean already: that row is the full method, trained once.
    assert (problem / "run" / "pooling").exists() == (preset == "paper")


def test_the_defaults_in_the_help_are_those_that_it_trains_with(cli, problem: Path) -> None:
    shown = json.loads(cli(*ablate_arguments(problem, "run", "--show-config")).output)
    said = " ".join(cli("ablate", "-h").output.split())
    for name in ("preset", "rate_decay", "adversarial_weight", "statistics", "learning_rate"):
        flags = rf"--{name.replace('_', '-')}(, --settings)? (FLOAT|\[)"
        found = re.search(rf"{flags}.*?\[default: ([^;\]]*)", said)
        assert found and found.group(3) == str(shown[name])
    assert shown["preset"] == "paper"


def test_sweep(cli, problem: Path) -> None:
    arguments = ablate_arguments(problem, "run", "--epochs", 1, "--seeds", "0")
    at = arguments.index("--levels")
    result = cli(*arguments[:at], *arguments[at + 2 :], "--sweep", "kernel,levels")
    assert result.exit_code == 0, result.output
    frames = {}
    for path in (problem / "run").glob("*/seed0/config.json"):
        config = json.loads(path.read_text())["config"]
        frames[config["kernel"], config["levels"]] = config["frames"]
    assert frames == {(2, 4): 7, (3, 3): 9, (3, 4): 23, (3, 5): 53, (4, 3): 16, (4, 4): 55}
    refused = cli(*arguments, "--sweep", "kernel,levels")
    assert refused.exit_code == 2 and "sets --kernel, --levels and --frames itself." in (
        refused.output
    )


def test_reported_figures_stand_beside_ours_only_for_their_benchmark() -> None:
    from adapt.accuracy import accuracy
    from adapt.study import ABLATIONS, SWEEP, Seeds, table

    ours = Seeds(seeds=[0], results=[accuracy([0, 1, 1, 1], [0, 1, 0, 1])])
    for pair, first in ((("ucf", "hmdb"), "85.00"), (("hmdb", "ucf"), "86.59")):
        text = table("ucf-hmdb-full", pair, ABLATIONS, [ours] * len(ABLATIONS))
        assert text.splitlines()[2] == f"| MA2L-TD | 75.00 | - | 75.00 | 75.00 | {first} |"
        assert "seeds 0, last epoch" in text
    assert "85.00" not in table("ucf-hmdb-small", ("ucf", "hmdb"), ABLATIONS, [ours] * 6)
    sweep = table("ucf-hmdb-full", ("ucf", "hmdb"), SWEEP, [ours] * len(SWEEP))
    assert "| kernel 3, 4 levels | 75.00 | - | 75.00 | 75.00 | 84.13 |" in sweep
