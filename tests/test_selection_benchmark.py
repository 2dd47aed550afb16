"""The benchmark of selection rules: losses against numbers worked out by hand, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from benchmarks import selection


def write_run(folder: Path, scores: list[dict[str, float]]) -> None:
    """A finished run whose epochs 5, 10, ... have these scores; the others have none."""
    folder.mkdir(parents=True)
    lines = []
    for number, found in enumerate(scores, start=1):
        lines.append({"epoch": 5 * number - 1, "seconds": 0.1})
        lines.append(
            {"epoch": 5 * number, "seconds": 0.1, "scores": {**found, "oracle-class-mean": 0.0}}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "done.json").write_text("{}")


def told(*problems: str) -> Result:
    return CliRunner().invoke(selection.main, list(problems))


def cells(result: Result, beginning: str) -> dict[str, str]:
    head, *lines = [line.strip("|").split("|") for line in result.output.splitlines()]
    [line] = [line for line in lines if "|".join(line).strip().startswith(beginning)]
    return {name.strip(): value.strip() for name, value in zip(head, line)}


def test_losses_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    # im takes epoch 10 (lost 80 - 60), entropy the lowest, epoch 15 (70), the last one is epoch 15 too.
    first = [
        {"oracle": 80.0, "im": 0.2, "entropy": 0.9},
        {"oracle": 60.0, "im": 0.5, "entropy": 0.5},
        {"oracle": 70.0, "im": 0.1, "entropy": 0.1},
    ]
    # im takes epoch 5 (lost 50 - 44), entropy epoch 10 (0), last 0.
    second = [
        {"oracle": 44.0, "im": 0.9, "entropy": 0.9},
        {"oracle": 50.0, "im": 0.5, "entropy": 0.5},
    ]
    write_run(tmp_path / "a" / "infomax" / "seed0", first)
    write_run(tmp_path / "a" / "infomax" / "seed1", second)
    write_run(tmp_path / "b" / "robust" / "seed0", first)
    result = told(f"near={tmp_path / 'a'}", f"far={tmp_path / 'b'}")
    assert result.exit_code == 0, result.output
    near = cells(result, "near | infomax")
    assert (near["runs"], near["oracle"], near["last"]) == ("2", "65.0", "5.0")
    assert (near["im"], near["entropy"], near["snd"]) == ("13.0", "5.0", "")
    assert cells(result, "far | robust")["im"] == "20.0"
    mean, worst = cells(result, "all | mean"), cells(result, "all | largest loss")
    assert (mean["runs"], mean["im"], worst["im"]) == ("3", "15.3", "20.0")


def test_an_unfinished_run_is_left_out(tmp_path: Path) -> None:
    scores = [{"oracle": 80.0, "im": 0.2}]
    write_run(tmp_path / "infomax" / "seed0", scores)
    write_run(tmp_path / "infomax" / "seed1", scores)
    (tmp_path / "infomax" / "seed1" / "done.json").unlink()
    assert cells(told(f"a={tmp_path}"), "a | infomax")["runs"] == "1"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "'a' is not NAME=FOLDER" in told("a").output
    assert f"No finished run lies below {tmp_path}" in told(f"a={tmp_path}").output
    write_run(tmp_path / "infomax" / "seed0", [{"im": 0.2}])
    assert "has no scored epoch with an accuracy on the target" in told(f"a={tmp_path}").output
