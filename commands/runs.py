"""`runs`: what was trained, and two runs on the same videos."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from adapt.outcome import Outcome, differences, in_common, outcome
from adapt.overview import Group, Run, find_runs, grouped
from commands.options import MOVED_MANIFESTS, GivenPath
from commands.output import refuse_standing, write_result
from commands.text import say
from store.errors import RunError, counted, printable

DEFAULT = Path("runs")
_HEADS = ("method", "pair", "benchmark", "seeds", "overall", "class mean", "rule", "date", "folder")


class _ListByDefault(click.Group):
    """`runs DIR` means `runs list DIR`; a folder called like a subcommand is `./compare`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("runs", cls=_ListByDefault)
def runs_group() -> None:
    """List runs, which is what `runs` alone does, and compare two of them."""


@runs_group.command("list")
@click.argument("folders", metavar="[DIR]...", nargs=-1, type=GivenPath(folder=True))
@click.option(
    "--csv", "out", type=GivenPath(), help="Write the table here too; nothing is replaced."
)
@MOVED_MANIFESTS
def runs_list(folders: tuple[Path, ...], out: Path | None, root: Path | None) -> None:
    """List the runs below folders: method, settings, pair, seeds, accuracy, rule, date.

    Of one run the interval says what the finite number of videos leaves open (95 %, Wilson); several
    seeds of one folder stand in one line, with mean and sample deviation. Runs that are unfinished or
    damaged are listed too, with what is wrong. Only tables are read; `evaluate` checks a checkpoint.
    Where labels were added to a target after a run, its accuracy is by those: such an accuracy has a *,
    and below the table stands which labels they are. Without DIR: the folder runs.

    \b
    Example:
      python cli.py runs list
      python cli.py runs runs/ucf-hmdb --csv runs.csv
    """
    refuse_standing(out, "--csv")
    found = {
        run.folder.resolve(): run
        for folder in folders or (DEFAULT,)
        for run in find_runs(folder, root)
    }
    groups = grouped(found.values())
    if not groups:
        raise RunError(f"There is no run in {', '.join(map(printable, folders or (DEFAULT,)))}.")
    rows = [_row(group) for group in groups]
    table = [list(_HEADS)] + [_cells(row) for row in rows]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(_HEADS))]
    for cells in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
    for run in (run for group in groups for run in group.runs):
        if not run.finished:
            say(f"{run.folder} is {run.state}")
    _say_labels([run for group in groups for run in group.finished], "* by")
    if out is not None:
        write_result(out, _csv(rows))


@runs_group.command("compare")
@click.argument("a", type=GivenPath(folder=True))
@click.argument("b", type=GivenPath(folder=True))
@MOVED_MANIFESTS
def runs_compare(a: Path, b: Path, root: Path | None) -> None:
    """Compare two runs, or two folders of seeds, on the same evaluation videos.

    Two runs: McNemar's exact test on the videos that one of them alone has right. Where one is a folder of
    several seeds: the difference of the mean accuracies, with a 95 % interval by drawing the videos again
    (10,000 times); other seeds would change it further. Then what differs in their options and features.
    Of a target with labels of some videos alone, by the labels of now: those that both runs predicted.

    \b
    Example:
      python cli.py runs compare runs/source-only runs/infomax
    """
    whole = outcome(a, root), outcome(b, root)
    one, other = in_common(*whole)
    for name, folder, found in (("A", a, one), ("B", b, other)):
        say(f"{name}: {_mean(found):.2f} %  {found.runs[0].name}, {_seeds(found.runs)}  {folder}")
    say(f"{_videos(*whole, len(one.videos))}: {_compared(one, other)}")
    _say_labels([run for found in whole for run in found.runs], "by")
    unlike_options = differences(one.runs[0], other.runs[0])
    say(
        f"they differ in {unlike_options}" if unlike_options else "their options and features agree"
    )


def _say_labels(runs: Sequence[Run], by: str) -> None:
    """Print by which labels accuracies are, where they came after the runs, and which are transductive."""
    for run in runs:
        if run.unseen:
            say(f"{run.folder}: labels that were added after it are not seen: {run.unseen}")
    for what in sorted({run.later.what for run in runs if run.later}):
        say(f"{by} {what}")
    seen = sorted({run.target for run in runs if run.result and run.result.transductive})
    if seen:
        say(
            f"Accuracies on {printable(', '.join(seen))} are transductive: these videos were in training "
            "too, without labels."
        )


def _videos(one: Outcome, other: Outcome, common: int) -> str:
    """How many videos are compared, and of how many where some have no label."""
    if not (one.partly or other.partly):
        return counted(common, "video")
    labels = [
        f"of {len(found.videos):,} of {found.predicted:,} in {name}"
        for name, found in (("A", one), ("B", other))
    ]
    return (
        f"{counted(common, 'video', 'has', where='that both predicted')} a label (labels "
        f"{' and '.join(labels)})"
    )


def _compared(one: Outcome, other: Outcome) -> str:
    import numpy as np  # a second with scipy, which listing runs need not wait for

    from adapt.paired import bootstrap_interval, sign_flip

    gain_V = np.asarray(other.correct_V) - np.asarray(one.correct_V)
    if len(one.runs) == len(other.runs) == 1:
        return (
            f"{int((gain_V < 0).sum()):,} only A has right, {int((gain_V > 0).sum()):,} only B; "
            f"McNemar's exact test, two-sided: p = {sign_flip(gain_V):.2g}"
        )
    low, high = (100 * bound for bound in bootstrap_interval(gain_V))
    return (
        f"B - A = {100 * gain_V.mean():+.2f} points, 95 % interval {low:+.2f} to {high:+.2f} "
        "(bootstrap over videos)"
    )


def _mean(found: Outcome) -> float:
    return 100 * sum(found.correct_V) / len(found.correct_V)


def _row(group: Group) -> dict[str, Any]:
    """What is said of a group, as --csv writes it; the accuracies are those of finished runs."""
    first = next((run for run in group.runs if run.config), group.runs[0])
    done = [run.result for run in group.finished if run.result is not None]
    overall, overall_deviation = _spread([result.overall for result in done])
    class_mean, class_deviation = _spread([result.class_mean for result in done])
    config = first.config
    return {
        "folder": group.folder,
        "state": group.runs[0].state if len(group.runs) == 1 else _states(group),
        **{name: config.get(name, "?") for name in ("method", "preset", "source", "target")},
        "benchmark": config.get("benchmark", "?"),
        "seeds": " ".join(run.seed for run in group.finished or group.runs),
        "finished": len(group.finished),
        "overall": overall,
        "overall_deviation": overall_deviation,
        "low": done[0].low if len(done) == 1 else None,
        "high": done[0].high if len(done) == 1 else None,
        "class_mean": class_mean,
        "class_mean_deviation": class_deviation,
        "videos": done[0].videos if done else None,
        "labels": next((str(run.later.manifest) for run in group.finished if run.later), None),
        "labels_sha256": next((run.later.sha256 for run in group.finished if run.later), None),
        "overall_recorded": _spread([r.recorded.overall for r in group.finished if r.recorded])[0],
        "selection": ", ".join(sorted({run.selection for run in group.finished})),
        "date": max(run.date for run in group.runs),
    }


def _states(group: Group) -> str:
    left = len(group.runs) - len(group.finished)
    return f"{left} of {len(group.runs)} not finished" if left else "finished"


def _cells(row: dict[str, Any]) -> list[str]:
    overall, class_mean = row["state"].partition(":")[0], "-"
    if row["overall"] is not None:
        overall, class_mean = f"{row['overall']:.2f}", f"{row['class_mean']:.2f}"
        if row["overall_deviation"] is not None:
            overall += f" ± {row['overall_deviation']:.2f}"
            class_mean += f" ± {row['class_mean_deviation']:.2f}"
        elif row["low"] is not None:
            overall += f" ({row['low']:.1f} to {row['high']:.1f})"
        overall += "*" if row["labels"] else ""
    elif row["finished"]:
        overall = "no labels"
    return [
        f"{row['method']} ({row['preset']})",
        f"{row['source']} -> {row['target']}",
        str(row["benchmark"]),
        _ranges(row["seeds"].split()),
        overall,
        class_mean,
        row["selection"] or "-",
        row["date"],
        printable(row["folder"]),
    ]


def _spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample deviation, None where there are too few values."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _seeds(runs: Sequence[Run]) -> str:
    return f"{'seeds' if len(runs) > 1 else 'seed'} {_ranges([run.seed for run in runs])}"


def _ranges(seeds: Sequence[str]) -> str:
    """0 1 2 7 -> 0-2,7."""
    if not all(seed.isdigit() for seed in seeds):
        return ",".join(seeds)
    spans: list[list[int]] = []
    for seed in sorted(map(int, seeds)):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in spans)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
