"""The search for presets: skewed classes, the record that a stopped search goes on from, and its table."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import presets
from benchmarks.planted_gap import Gap, halves

COUNTS = (60, 60, 60, 60)


def test_skewed_classes_of_the_target() -> None:
    labels = np.repeat(np.arange(4), COUNTS)
    plain, skewed = halves(labels), halves(labels, 8.0, 3)
    assert np.array_equal(plain.source, skewed.source)
    for part, full in (("target_train", 20), ("target_eval", 10)):
        whole, kept = (getattr(half, part) for half in (plain, skewed))
        assert set(kept) <= set(whole)
        # From 1 down to 1/8 by equal factors: 1, 1/2, 1/4, 1/8.
        sizes = sorted(np.bincount(labels[kept], minlength=4).tolist(), reverse=True)
        assert sizes == [max(1, round(full / factor)) for factor in (1, 2, 4, 8)]
    orders = {
        tuple(np.bincount(labels[halves(labels, 8.0, seed).target_train])) for seed in range(9)
    }
    assert len(orders) > 1  # which class is rare is the seed's choice


def test_problems_to_confirm_on_were_not_chosen_on() -> None:
    chosen_on = {gap.gap_seed for gap in presets.CHOOSE.values()}
    later = [gap.gap_seed for which in (presets.CONFIRM, presets.STRONG) for gap in which.values()]
    assert len(set(later)) == len(later) and not chosen_on & set(later)
    for problems in presets.SETS.values():
        assert any(gap.skew > 1 for gap in problems.values())
        assert {gap.family for gap in problems.values()} == {"gain", "mix"}


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 12)
    centres = random.normal(size=(3, 1, 8)) * 3
    path = tmp_path / "features.npz"
    np.savez(
        path,
        features=(centres[labels] + random.normal(size=(36, 25, 8))).astype(np.float16),
        label=labels,
        video=[f"v_{number}" for number in range(36)],
        classes=["ant", "bee", "cat"],
    )
    return path


def test_a_search_that_was_stopped_goes_on_and_its_table_is_the_record(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--frames 9 --width 8 --batch-size 4 --epochs 1"
    monkeypatch.setattr(presets, "SHARED", options)
    monkeypatch.setitem(presets.SETS, "choose", {"a": Gap(gain=0.1), "b": Gap(family="mix")})
    path = tmp_path / "record.jsonl"

    def search(*more: str) -> str:
        arguments = ["choose", "--npz", str(npz), "--record", str(path), *more]
        result = CliRunner().invoke(presets.main, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    one, two = "--recipe", "one=--method source-only"
    search(one, two, "--problem", "a", "--seeds", "0")
    first = path.read_text()
    output = search(one, two, "--recipe", "more=--method infomax")
    lines = path.read_text()
    assert lines.startswith(first)  # what stood there was not run again
    records = [json.loads(line) for line in lines.splitlines()]
    done = sorted((r["problem"], r["method"], r["seed"]) for r in records)
    assert done == sorted((p, m, s) for p in "ab" for m in ("one", "more") for s in (0, 1))
    [row] = [line for line in output.splitlines() if line.startswith("| one |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    means = []
    for problem, cell in zip("ab", cells[1:3]):
        values = [
            r["overall"][0] for r in records if (r["problem"], r["method"]) == (problem, "one")
        ]
        assert cell == f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"
        means.append(statistics.fmean(values))
    assert cells[3] == f"{statistics.fmean(means):.1f}"


def test_a_record_of_another_set_is_refused(npz: Path, tmp_path: Path) -> None:
    """Both sets call a problem gain: a result of one would stand for the other."""
    record = tmp_path / "record.jsonl"
    line = {"problem": "gain", "gap": presets.CHOOSE["gain"].name, "seed": 0, "method": "infomax"}
    record.write_text(json.dumps({**line, "overall": [50.0], "seconds": [1.0]}) + "\n")
    arguments = ["confirm", "--npz", npz, "--record", record, "--method", "infomax"]
    result = CliRunner().invoke(presets.main, [str(a) for a in [*arguments, "--seeds", "0"]])
    assert result.exit_code == 2 and len(record.read_text().splitlines()) == 1
    assert "has results of another problem called gain, with gap 'gain 1.2, shift" in result.output
    assert "gap seed 11'. Give another --record." in " ".join(result.output.split())
