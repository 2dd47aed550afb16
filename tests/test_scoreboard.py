"""From finished runs to the numbers of the table, and from these to Markdown and HTML."""

from __future__ import annotations

import csv
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from adapt.accuracy import accuracy, wilson
from adapt.config import AdaptConfig
from adapt.outcomes import Outcome
from adapt.plan import Job
from adapt.published import PUBLISHED, Published
from adapt.score_table import tables
from adapt.scoreboard import baselines_of, scoreboard
from adapt.summary import summary_csv
from adapt.table_text import Table, as_markdown, as_page
from store.datasets import benchmarks
from store.errors import RunError

PAIR = ("ucf", "hmdb")
VIDEOS = 40


def config(method: str, preset: str, seed: int = 0, direction=PAIR, benchmark="ucf-hmdb-full"):
    given = {"method": method, "seed": seed, "source": direction[0], "target": direction[1]}
    return AdaptConfig.make(benchmark=benchmark, preset=preset, given=given)


def outcome(
    method: str, preset: str, seed: int, right: np.ndarray, direction=PAIR, **more
) -> Outcome:
    made = config(method, preset, seed, direction)
    labels = [i % 4 for i in range(len(right))]
    predicted = [label if r else 9 for label, r in zip(labels, right)]
    return Outcome(
        job=Job(config=made, folder=Path(f"{method}-{preset}-{seed}")),
        accuracy=accuracy(predicted, labels),
        videos=more.pop("videos", tuple(f"v{i}" for i in range(len(right)))),
        right_V=np.asarray(right, float),
        epoch=3,
        seconds=seed + 1.0,
        parameters=(1000, 2500),
        selection="last epoch",
        reads_target_labels=more.pop("bound", False),
        compute=more.pop("compute", "float32"),
    )


def right(share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(VIDEOS) < share


ROWS = {
    ("source-only", "paper"): 0.4,
    ("source-only", "shared"): 0.5,
    ("dann", "own"): 0.6,
    ("ma2l-td", "robust"): 0.8,
}
CONFIGS = {row: config(*row) for row in ROWS}


@pytest.fixture
def outcomes() -> list[Outcome]:
    return [
        outcome(*row, seed, right(share, 10 * n + seed))
        for n, (row, share) in enumerate(ROWS.items())
        for seed in (0, 1, 2)
    ]


def test_a_cell_is_mean_deviation_and_wilsons_interval(outcomes: list[Outcome]) -> None:
    cell = scoreboard([PAIR], CONFIGS, [0, 1, 2], outcomes).cells[("dann", "own"), PAIR]
    each = [100 * right(0.6, 20 + seed).mean() for seed in (0, 1, 2)]
    assert cell.overall == pytest.approx(statistics.fmean(each))
    assert cell.overall_deviation == pytest.approx(statistics.stdev(each))
    theirs = stats.binomtest(
        round(sum(each) / 100 * VIDEOS), 3 * VIDEOS
    )  # three times the videos: the width is sqrt(3) smaller, the centre nearly the same
    narrow = theirs.proportion_ci(method="wilson")
    assert cell.low < 100 * narrow.low and cell.high > 100 * narrow.high
    one = scoreboard([PAIR], CONFIGS, [0], [o for o in outcomes if o.job.config.seed == 0])
    single = one.cells[("dann", "own"), PAIR]
    assert single.overall_deviation is None
    assert (single.low, single.high) == pytest.approx(
        (single.outcomes[0].accuracy.low, single.outcomes[0].accuracy.high)
    )
    expected = stats.binomtest(int(right(0.6, 20).sum()), VIDEOS).proportion_ci(method="wilson")
    assert wilson(right(0.6, 20).sum(), VIDEOS) == pytest.approx((expected.low, expected.high))


def test_comparisons_are_over_the_same_videos_and_seeds(outcomes: list[Outcome]) -> None:
    board = scoreboard([PAIR], CONFIGS, [0, 1, 2], outcomes)
    mine = np.mean([right(0.8, 30 + seed) for seed in (0, 1, 2)], axis=0)
    theirs = np.mean([right(0.5, 10 + seed) for seed in (0, 1, 2)], axis=0)
    found = board.against_baseline[("ma2l-td", "robust"), PAIR]
    assert found.other == ("source-only", "shared") and found.seeds == 3
    assert found.difference == pytest.approx(100 * (mine - theirs).mean())
    assert found.low < found.difference < found.high
    again = stats.permutation_test(
        (3 * (mine - theirs),),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=20000,
        random_state=np.random.default_rng(0),
    )
    assert found.p == pytest.approx(again.pvalue, abs=0.01)
    assert len(board.against_baseline) == 2 and len(board.against_best) == 3
    assert found.corrected == pytest.approx(2 * found.p)  # the smaller of two
    assert board.best == {PAIR: ("ma2l-td", "robust")}

    less = [o for o in outcomes if not (o.job.row == ("dann", "own") and o.job.config.seed == 1)]
    board = scoreboard([PAIR], CONFIGS, [0, 1, 2], less)
    assert board.against_best[("dann", "own"), PAIR].seeds == 2
    difference = np.mean([right(0.6, 20 + s) * 1.0 - right(0.8, 30 + s) for s in (0, 2)])
    assert board.against_best[("dann", "own"), PAIR].difference == pytest.approx(100 * difference)
    [main, *_, runs] = tables("ucf-hmdb-full", board, {}, "One run at a time.")
    assert any("(2 of 3 seeds)" in cell for row in main.rows for cell in row)
    [row] = [row for row in runs.rows if row[0] == "dann (own)"]
    assert row[4:] == ["2.0", "1,000", "2,500"]  # 1 s and 3 s


def test_who_reads_target_labels_is_never_the_best(outcomes: list[Outcome]) -> None:
    bound = outcome("infomax", "shared", 0, np.ones(VIDEOS), bound=True)
    configs = {**CONFIGS, ("infomax", "shared"): config("infomax", "shared")}
    board = scoreboard([PAIR], configs, [0, 1, 2], [*outcomes, bound])
    assert board.best == {PAIR: ("ma2l-td", "robust")}
    text = as_markdown(tables("ucf-hmdb-full", board, {}, ""))
    assert "| infomax (shared) [T] |" in text and "[T]: reads labels of the target" in text


def test_runs_of_several_number_types_are_said(outcomes: list[Outcome]) -> None:
    def text(compute: str) -> str:
        other = outcome("infomax", "shared", 0, right(0.5, 1), compute=compute)
        configs = {**CONFIGS, ("infomax", "shared"): config("infomax", "shared")}
        return as_markdown(
            tables("mine", scoreboard([PAIR], configs, [0, 1, 2], [*outcomes, other]), {}, "")
        )

    assert "Some runs computed in bfloat16 and others in float32" in text("bfloat16")
    assert "Some runs computed" not in text("")  # a method without a choice
    assert "mean ± sample deviation over the seeds 0, 1, 2." in text("")


def test_runs_on_other_videos_are_not_compared(outcomes: list[Outcome]) -> None:
    other = outcome("infomax", "shared", 0, right(0.5, 1), videos=tuple(map(str, range(VIDEOS))))
    with pytest.raises(RunError, match="evaluated on different videos"):
        scoreboard([PAIR], CONFIGS, [0, 1, 2], [*outcomes, other])


def test_source_only_of_the_same_settings_is_the_one_compared_with() -> None:
    rows = [
        *(("source-only", preset) for preset in ("paper", "own", "shared")),
        *(("dann", preset) for preset in ("own", "shared", "paper")),
        *(("infomax", "shared"), ("ma2l-td", "robust"), ("ma2l-td", "paper"), ("ta3n", "own")),
    ]
    found = baselines_of({row: config(*row) for row in rows})
    for method, preset in rows[3:]:
        same = {"robust": "shared"}.get(preset, preset)
        assert found[method, preset] == ("source-only", same), (method, preset)
    assert baselines_of({("dann", "own"): config("dann", "own")}) == {}


def shown(benchmark: str, directions, rows=ROWS) -> list[Table]:
    found = [
        outcome(*row, 0, right(share, n), direction)
        for direction in directions
        for n, (row, share) in enumerate(rows.items())
    ]
    board = scoreboard(directions, {row: CONFIGS[row] for row in rows}, [0], found)
    return tables(benchmark, board, {("broken", ""): ["a <b> & | c"]}, "One run at a time.")


def test_reported_figures_stand_beside_ours_only_for_their_benchmark() -> None:
    both = [PAIR, PAIR[::-1]]
    text = as_markdown(shown("ucf-hmdb-full", both))
    lines = [line for line in text.splitlines() if line.startswith("| ma2l-td")]
    assert "85.00" in lines[0] and lines[0].endswith("| 86.59 |")
    assert "ucf -> hmdb: reported" in text and "best of 300 epochs" in text
    assert "no multiple of 1/571" in text
    own = as_markdown(shown("mine", both))
    assert "reported" not in own and "85.00" not in own
    unclear = as_markdown(shown("kinetics-gameplay", [PAIR]))
    assert "direction unclear: reported" in unclear and "| 31.45 |" in unclear
    assert "Direction unclear: the paper prints" in unclear


def test_published_figures_are_of_benchmarks_and_domains_that_exist() -> None:
    known = benchmarks(Path("none"))
    assert set(PUBLISHED) == set(known)
    for name, published in PUBLISHED.items():
        assert isinstance(published, Published) and published.notes
        for direction in published.directions:
            assert set(direction) == set(known[name])


def test_what_the_notes_say_of_figures_that_are_no_shares_of_the_videos() -> None:
    def is_share(figure: str, videos: int) -> bool:
        return figure in {f"{100 * n / videos:.2f}" for n in range(videos + 1)}

    full, olympic = PUBLISHED["ucf-hmdb-full"].figures, PUBLISHED["ucf-olympic"].figures
    assert is_share(full["ucf", "hmdb"]["ma2l-td"], 360)
    assert not is_share(full["hmdb", "ucf"]["ma2l-td"], 571)
    assert not is_share(olympic["olympic", "ucf"]["ma2l-td"], 240)
    unclear = PUBLISHED["kinetics-gameplay"].unclear
    baselines = [name for name in unclear if name not in ("abg", "ma2l-td")]
    assert [name for name in baselines if not is_share(unclear[name], 749)] == ["source-only"]
    assert len(baselines) == 6


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[int] = []
        self.text = ""

    def handle_starttag(self, tag, attributes) -> None:
        assert not {"src", "href"} & {name for name, _ in attributes}
        if tag == "meta":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(dict(attributes).get("colspan", 1))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data


def test_the_page_is_whole_and_loads_nothing() -> None:
    made = shown("ucf-hmdb-full", [PAIR])
    text = as_page("Benchmark <x>", made)
    page = Page()
    page.feed(text)
    assert page.open == [] and "Benchmark <x>" in page.text and "a <b> & | c" in page.text
    assert "<b> &" not in text and "prefers-color-scheme: dark" in text
    assert "url(" not in text and "@import" not in text
    columns = [sum(len(titles) for _, titles in table.groups) for table in made]
    bodies = [len(table.rows) for table in made]
    assert sorted(set(page.rows)) and all(page.rows.count(c) >= b for c, b in zip(columns, bodies))
    for table, count in zip(made, columns):
        assert all(len(row) == count for row in table.rows), table.title
    for line in as_markdown(made).splitlines():
        assert not line.startswith("|") or len(line.split("|")) - 2 in columns


def test_the_summary_has_the_numbers_of_the_tables(outcomes: list[Outcome]) -> None:
    bound = [outcome("target-only", "paper", s, right(0.9, 70 + s), bound=True) for s in (0, 1, 2)]
    configs = CONFIGS | {("target-only", "paper"): config("target-only", "paper")}
    rows = list(
        csv.DictReader(
            summary_csv(scoreboard([PAIR], configs, [0, 1, 2], [*outcomes, *bound])).splitlines()
        )
    )
    assert [(r["method"], r["preset"]) for r in rows] == list(configs)
    for row in rows:
        each = [o for o in [*outcomes, *bound] if o.job.row == (row["method"], row["preset"])]
        right_SV = np.array([o.right_V for o in each])
        shares = 100 * right_SV.mean(axis=1)
        assert float(row["overall"]) == pytest.approx(shares.mean(), abs=1e-4)
        assert float(row["deviation"]) == pytest.approx(shares.std(ddof=1), abs=1e-4)
        assert (row["seeds"], row["videos"], row["seconds"]) == ("3", str(VIDEOS), "2.0")
        if row["baseline"]:
            method, preset = row["baseline"].split()
            base = [o.right_V for o in outcomes if o.job.row == (method, preset)]
            assert float(row["difference"]) == pytest.approx(
                100 * (right_SV.mean() - np.mean(base)), abs=1e-4
            )
            assert 0 < float(row["p"]) <= float(row["corrected"]) <= 1
    best = [r["method"] for r in rows if r["best"] == "yes"]
    assert best == ["ma2l-td"] and rows[-1]["reads_target_labels"] == "yes"
    one = scoreboard([PAIR], CONFIGS, [0], [o for o in outcomes if o.job.config.seed == 0])
    assert {r["deviation"] for r in csv.DictReader(summary_csv(one).splitlines())} == {""}


def test_without_a_finished_run_no_number_of_videos_is_said() -> None:
    board = scoreboard([PAIR], CONFIGS, [0], [])
    text = as_markdown(tables("mine", board, {("dann", "own"): ["No reason."]}, ""))
    assert "on the target's evaluation videos: one run each, with seed 0." in text
