"""The tables of a benchmark as text in cells; `adapt.table_text` makes Markdown and HTML of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapt.published import BASELINE, PUBLISHED, Direction
from adapt.scoreboard import Cell, Comparison, Row, Scoreboard
from adapt.study import mean
from adapt.table_text import Table
from store.errors import counted

_SURE = 0.05


def tables(
    benchmark: str, board: Scoreboard, failures: Mapping[Row, Sequence[str]], how: str
) -> list[Table]:
    """All tables of a benchmark.

    Args:
        failures: of rows with runs that failed, the reasons.
        how: a sentence about processes and machine, without which times say nothing.
    """
    found = [_accuracies(benchmark, board, failures)]
    if board.against_baseline or board.against_best:
        found += [_comparisons(board, direction) for direction in board.directions]
        found[-1] = replace(found[-1], notes=_comparison_notes(board))
    found.append(_runs(board, how))
    if failures:
        found.append(_failures(failures))
    return found


def name_of(row: Row) -> str:
    """`dann (own)`."""
    return f"{row[0]} ({row[1]})"


def _arrow(direction: Direction) -> str:
    return " -> ".join(direction)


def _accuracies(benchmark: str, board: Scoreboard, failures: Mapping[Row, Sequence[str]]) -> Table:
    published = PUBLISHED.get(benchmark)
    reported = {d: published.figures.get(d) if published else None for d in board.directions}
    groups: list[tuple[str, list[str]]] = [("", ["method"])]
    for direction in board.directions:
        columns = ["overall", "95 % interval", "class mean"]
        groups.append((_arrow(direction), columns + ["reported"] * bool(reported[direction])))
    if published and published.unclear:
        groups.append(("direction unclear", ["reported"]))
    rows, emphasised = [], set()
    for number, row in enumerate(board.rows):
        cells = [_marked_name(row, board, failures)]
        for direction in board.directions:
            if board.best.get(direction) == row:
                emphasised.add((number, len(cells)))
            cells += _accuracy(row, direction, board)
            if reported[direction]:
                cells.append((reported[direction] or {}).get(row[0], "-"))
        if published and published.unclear:
            cells.append(published.unclear.get(row[0], "-"))
        rows.append(cells)
    return Table(
        title=f"Accuracy on {benchmark}",
        groups=groups,
        rows=rows,
        emphasised=frozenset(emphasised),
        notes=[*_accuracy_notes(board), *(published.notes if published else ())],
    )


def _marked_name(row: Row, board: Scoreboard, failures: Mapping[Row, Sequence[str]]) -> str:
    reads = any(c.reads_target_labels for (r, _), c in board.cells.items() if r == row)
    return name_of(row) + " [T]" * reads + " [F]" * (row in failures)


def _accuracy(row: Row, direction: Direction, board: Scoreboard) -> list[str]:
    cell = board.cells.get((row, direction))
    if cell is None:
        return ["-", "-", "-"]
    better = board.against_baseline.get((row, direction))
    star = "*" if better and better.corrected < _SURE and better.difference > 0 else ""
    seeds = len(cell.outcomes)
    few = f" ({seeds} of {len(board.seeds)} seeds)" if seeds < len(board.seeds) else ""
    return [
        _with_deviation(cell.overall, cell.overall_deviation) + star + few,
        f"{cell.low:.1f} to {cell.high:.1f}",
        _with_deviation(cell.class_mean, cell.class_mean_deviation),
    ]


def _with_deviation(value: float, spread: float | None) -> str:
    return f"{value:.2f}" if spread is None else f"{value:.2f} ± {spread:.2f}"


def _accuracy_notes(board: Scoreboard) -> list[str]:
    firsts = {
        d[1]: _cell_of(board, d).outcomes[0]
        for d in board.directions
        if any(direction == d for _, direction in board.cells)
    }
    videos = ", ".join(f"{one.accuracy.videos} of {target}" for target, one in firsts.items())
    seeds = f"mean ± sample deviation over the seeds {', '.join(map(str, board.seeds))}"
    if len(board.seeds) == 1:
        seeds = f"one run each, with seed {board.seeds[0]}"
    notes = [
        f"Accuracies in % on the target's evaluation videos{f' ({videos})' if videos else ''}: {seeds}.",
        "95 % interval: Wilson's, over the evaluation videos, of the mean over the seeds; it does not "
        "hold what other seeds would change.",
    ]
    notes += [
        f"Accuracies on {target} are transductive: these videos were in training too, without labels. "
        f"They are by {one.labels}."
        for target, one in firsts.items()
        if one.labels
    ]
    if board.against_baseline:
        notes.append(
            "*: better than source only, p < 0.05 after Holm's correction for all comparisons of the "
            "table."
        )
    if any(cell.reads_target_labels for cell in board.cells.values()):
        notes.append("[T]: reads labels of the target; a bound, not adaptation.")
    compute = {o.compute for cell in board.cells.values() for o in cell.outcomes} - {""}
    if len(compute) > 1:
        notes.append(
            f"Some runs computed in {' and others in '.join(sorted(compute))}; --set compute=float32 "
            "makes them alike."
        )
    return notes


def _cell_of(board: Scoreboard, direction: Direction) -> Cell:
    return next(cell for (_, there), cell in board.cells.items() if there == direction)


def _comparisons(board: Scoreboard, direction: Direction) -> Table:
    best = board.best.get(direction)
    titles = ["other", "difference", "95 % interval", "p", "corrected"]
    rows = []
    for row in board.rows:
        if (row, direction) in board.cells:
            against = (board.against_baseline, board.against_best)
            first, second = (_comparison(kind.get((row, direction))) for kind in against)
            rows.append([name_of(row), *first, *second[1:]])
    baseline = f"against {BASELINE}"
    return Table(
        title=f"Differences, {_arrow(direction)}",
        groups=[
            ("", ["method"]),
            (baseline, ["preset", *titles[1:]]),
            (f"against the best, {name_of(best)}" if best else "against the best", titles[1:]),
        ],
        rows=rows,
        words=frozenset({1}),
    )


def _comparison_notes(board: Scoreboard) -> list[str]:
    return [
        "Differences in points of overall accuracy on the same videos, the mean over the seeds that both "
        "have; they hold for these trained models on other videos, not for other seeds.",
        "Interval: paired bootstrap over the videos. p: exact test by flipping the signs of the videos' "
        "differences; with one seed it is McNemar's.",
        "Corrected: by Holm's method over "
        f"{counted(len(board.against_baseline), 'comparison')} with {BASELINE} "
        f"and, for themselves, {len(board.against_best)} with the best. *: below 0.05.",
        f"Preset: that of the row of {BASELINE} whose options agree most with the method's.",
        "The best is chosen on these same videos, so its lead is flattered.",
    ]


def _comparison(found: Comparison | None) -> list[str]:
    if found is None:
        return ["-"] * 5
    star = "*" if found.corrected < _SURE else ""
    return [
        found.other[1],
        f"{found.difference:+.2f}",
        f"{found.low:+.1f} to {found.high:+.1f}",
        p_text(found.p),
        p_text(found.corrected) + star,
    ]


def p_text(value: float) -> str:
    """A p-value with three digits."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _runs(board: Scoreboard, how: str) -> Table:
    rows = []
    for row in board.rows:
        outcomes = [o for (r, _), cell in board.cells.items() if r == row for o in cell.outcomes]
        if not outcomes:
            continue
        epochs = sorted({o.job.epochs for o in outcomes})
        predicting, training = (
            "/".join(_several(o.parameters[i] for o in outcomes)) for i in (0, 1)
        )
        rows.append(
            [
                name_of(row),
                "; ".join(dict.fromkeys(o.selection for o in outcomes)),
                "yes" if any(o.reads_target_labels for o in outcomes) else "no",
                "/".join(map(str, epochs)),
                f"{mean([o.seconds for o in outcomes]):.1f}",
                predicting,
                training,
            ]
        )
    return Table(
        title="Runs",
        groups=[
            (
                "",
                [
                    *("method", "epoch chosen by", "reads target labels", "epochs", "s per run"),
                    *("parameters, predicting", "in training"),
                ],
            )
        ],
        rows=rows,
        words=frozenset({1, 2}),
        notes=[f"Time: mean over the runs, of all epochs of a run. The last call: {how}"],
    )


def _several(values: object) -> list[str]:
    return [f"{value:,}" for value in sorted(set(values))]  # type: ignore[call-overload]


def _failures(failures: Mapping[Row, Sequence[str]]) -> Table:
    rows = [
        [name_of(row) if row[1] else row[0], str(len(reasons)), " ".join(reasons[0].split())]
        for row, reasons in failures.items()
    ]
    return Table(
        title="Failed [F]",
        groups=[("", ["method", "runs", "first reason"])],
        rows=rows,
        words=frozenset({2}),
        notes=["The same command tries them again; all reasons stand in results.csv."],
    )
