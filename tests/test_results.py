"""From summaries of benchmarks to docs/results.md: problems, tables, pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from adapt.summary import COLUMNS
from benchmarks.planted_gap import SOURCE, TARGET
from benchmarks.problems import GAPS, PLANTED, write
from benchmarks.results import BEGIN, END, results
from store.manifest import read_manifest
from store.read import find_stores


def invoke(command, *arguments: object):
    outcome = CliRunner().invoke(command, [str(a) for a in arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def summary(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "summary.csv", index=False)
    return folder


def row(method: str, preset: str, direction: tuple[str, str], overall: float, **more: object):
    values = {"method": method, "preset": preset, "source": direction[0], "target": direction[1]}
    values |= {"seeds": 5, "videos": 100, "overall": overall, "deviation": 1.25, "seconds": 3.0}
    values |= {"low": overall - 9, "high": overall + 9, "best": "no", "reads_target_labels": "no"}
    return values | more


THERE, BACK = ("real", "render"), ("render", "real")
AGAINST = {"difference": 7.5, "difference_low": 2.0, "difference_high": 13.0, "corrected": 0.03}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    exercises = [
        row("source-only", "shared", THERE, 40.0),
        row("source-only", "shared", BACK, 30.0),
        row("dann", "shared", THERE, 47.5, best="yes", **AGAINST),
        row("dann", "shared", BACK, 37.5, **{**AGAINST, "corrected": 0.05}),
        row("target-only", "shared", THERE, 80.0, reads_target_labels="yes", deviation=np.nan),
    ]
    given = [f"exercises={summary(tmp_path / 'exercises', exercises)}"]
    for problem, drop in zip(GAPS, (0, 20, 40)):
        rows = [
            row("source-only", "shared", (SOURCE, TARGET), 80.0 - drop),
            row("jan", "own", (SOURCE, TARGET), 85.0 - drop),
            row("jan", "shared", (SOURCE, TARGET), 90.0 - drop),
        ]
        given.append(f"{problem}={summary(tmp_path / problem, rows)}")
    invoke(results, "collect", tmp_path / "results.csv", *given)
    return tmp_path / "results.csv"


def test_the_tables_stand_between_their_marks_and_again(table: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    for _ in (1, 2):
        invoke(results, "tables", table, page)
        text = page.read_text()
        assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
        lines = [line for line in text.splitlines() if line.startswith("|")]
        at = next(i for i, line in enumerate(lines) if "dann" in line)
        assert lines[at] == (
            "| dann (shared) | **47.5 ± 1.2** | +7.5* (+2.0 to +13.0) "
            "| 37.5 ± 1.2 | +7.5 (+2.0 to +13.0) | 3 |"
        )
        assert lines[at - 1] == "| target-only (shared) (reads target labels) | 80.0 |  |  |  | 3 |"
        assert lines[at + 1] == "| source-only (shared) | 40.0 ± 1.2 |  | 30.0 ± 1.2 |  | 3 |"
    page.write_text("no marks")
    assert CliRunner().invoke(results, ["tables", str(table), str(page)]).exit_code == 2
    assert page.read_text() == "no marks"


def test_rows_that_plans_share_are_joined_only_if_they_say_the_same(
    table: Path, tmp_path: Path
) -> None:
    source_only, abg = row("source-only", "shared", THERE, 40.0), row("abg", "shared", THERE, 41.0)
    more = summary(tmp_path / "more", [{**source_only, "seconds": 9.0}, abg])
    unlike = summary(tmp_path / "unlike", [{**source_only, "overall": 40.5}])
    out, first = tmp_path / "x.csv", tmp_path / "exercises"

    def collect(*folders: Path):
        given = [f"exercises={folder}" for folder in folders]
        return CliRunner().invoke(results, ["collect", str(out), *given])

    assert collect(first, more).exit_code == 0
    found = pd.read_csv(out)
    assert found["method"].tolist() == [*pd.read_csv(first / "summary.csv")["method"], "abg"]
    assert found["seconds"].tolist() == [3.0] * 6
    before = out.read_bytes()
    refused = collect(first, more, unlike)
    assert refused.exit_code == 2 and "1 row occurs in two folders" in refused.output
    assert out.read_bytes() == before


def test_the_pictures_name_what_they_show_and_repeat(table: Path, tmp_path: Path) -> None:
    pictures = []
    for _ in (1, 2):
        invoke(results, "draw", table, tmp_path)
        names = ("results-intervals.svg", "results-gaps.svg")
        pictures.append([(tmp_path / name).read_text() for name in names])
    assert pictures[0] == pictures[1]
    intervals, gaps = pictures[0]
    for text in ("dann (shared)", "target-only (shared)", "real → render", "render → real"):
        assert f">{text}</text>" in intervals
    assert all(f">{text}</text>" in gaps for text in ("weak", "strong", "source-only"))


def test_a_planted_problem_is_a_benchmark_of_its_own_name(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "features": generator.random((24, 25, 8)).astype(np.float16),
        "label": np.repeat([0, 1], 12),
        "video": np.array([f"v_{i}" for i in range(24)]),
        "classes": np.array(["run", "walk"]),
    }
    np.savez(tmp_path / PLANTED, **arrays)
    output = invoke(write, "gap-medium", tmp_path / "made", "--data", tmp_path)
    assert "benchmark --benchmark gap-medium" in output
    for domain, count in ((SOURCE, 12), (TARGET, 12)):
        videos = read_manifest(tmp_path / "made" / "manifests" / "gap-medium" / f"{domain}.csv")
        assert len(videos) == count
        assert len(find_stores(tmp_path / "made" / "features", domain)) == 1
    again = CliRunner().invoke(write, ["gap-weak", str(tmp_path / "made"), "--data", str(tmp_path)])
    assert again.exit_code == 2 and "is not empty" in again.output
