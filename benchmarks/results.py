"""From the summaries of `cli.py benchmark` to the tables and pictures of docs/results.md.

python -m benchmarks.results collect docs/results.csv exercises=runs/a exercises=runs/b gap-weak=runs/c
python -m benchmarks.results tables docs/results.csv docs/results.md
python -m benchmarks.results draw docs/results.csv docs
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from benchmarks.curves import draw_gaps, draw_intervals
from store.errors import counted

CSV = click.Path(path_type=Path, exists=True, dir_okay=False)
BEGIN, END = "<!-- begin: python -m benchmarks.results tables -->", "<!-- end -->"
KEY = ["problem", "source", "target", "method", "preset"]
FOUND = ["seeds", "videos", "overall", "deviation", "class_mean"]


@click.group()
def results() -> None:
    """Gather finished benchmarks, and show them as tables and pictures."""


@results.command("collect")
@click.argument("csv", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("folders", nargs=-1, required=True, metavar="PROBLEM=FOLDER...")
def collect(csv: Path, folders: Sequence[str]) -> None:
    """Join the summary.csv of several folders of `benchmark` into one CSV.

    A row that several plans have must have the same figures; that of the first folder is kept.
    """
    tables = []
    for text in folders:
        problem, _, folder = text.partition("=")
        if not folder:
            raise click.UsageError(f"{text!r} is not PROBLEM=FOLDER.")
        table = pd.read_csv(Path(folder) / "summary.csv")
        table.insert(0, "problem", problem)
        tables.append(table)
    joined = pd.concat(tables, ignore_index=True)
    unlike = joined[joined.duplicated(KEY) & ~joined.duplicated([*KEY, *FOUND])]
    if len(unlike):
        first = " ".join(unlike.iloc[0][KEY])
        raise click.UsageError(
            f"{counted(len(unlike), 'row', 'occurs')} in "
            f"two folders with other figures, the first is: {first}."
        )
    joined = joined.drop_duplicates(KEY)  # source only stands beside the methods of every plan
    joined.to_csv(csv, index=False)
    click.echo(f"{len(joined)} rows of {joined['problem'].nunique()} problems in {csv}.")


@results.command("tables")
@click.argument("csv", type=CSV)
@click.argument("page", type=CSV)
def write_tables(csv: Path, page: Path) -> None:
    """Replace the tables of PAGE, which stand between two marks, by those of CSV."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.UsageError(f"{page} has no lines {BEGIN} and {END}.")
    table = pd.read_csv(csv)
    made = "\n".join(
        _problem(problem, part) for problem, part in table.groupby("problem", sort=False)
    )
    page.write_text(f"{before}{begin}\n\n{made}\n{end}{after}", encoding="utf-8")


def _problem(problem: str, table: pd.DataFrame) -> str:
    directions = list(dict.fromkeys(zip(table["source"], table["target"])))
    columns = [f"{s} -> {t} | against source only" for s, t in directions]
    lines = [f"### {problem}", "", f"| method | {' | '.join(columns)} | s per run |"]
    lines.append("|---" * (2 * len(directions) + 2) + "|")
    rows = table.groupby(["method", "preset"], sort=False)
    for (method, preset), part in sorted(rows, key=lambda item: -item[1]["overall"].mean()):
        cells = []
        for direction in directions:
            found = part[(part["source"] == direction[0]) & (part["target"] == direction[1])]
            cells += _cells(found.iloc[0]) if len(found) else ["", ""]
        mark = " (reads target labels)" if (part["reads_target_labels"] == "yes").any() else ""
        seconds = f"{part['seconds'].median():.0f}"
        lines.append(f"| {method} ({preset}){mark} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines) + "\n"


def _cells(row: Any) -> list[str]:
    spread = "" if pd.isna(row["deviation"]) else f" ± {row['deviation']:.1f}"
    accuracy = f"{row['overall']:.1f}{spread}"
    if pd.isna(row["difference"]):
        return [f"**{accuracy}**" if row["best"] == "yes" else accuracy, ""]
    clear = "*" if row["corrected"] < 0.05 else ""
    interval = f"{row['difference_low']:+.1f} to {row['difference_high']:+.1f}"
    return [
        f"**{accuracy}**" if row["best"] == "yes" else accuracy,
        f"{row['difference']:+.1f}{clear} ({interval})",
    ]


@results.command("draw")
@click.argument("csv", type=CSV)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def draw(csv: Path, folder: Path) -> None:
    """Draw results-intervals.svg and results-gaps.svg into FOLDER."""
    table = pd.read_csv(csv)
    draw_intervals(table[table["problem"] == "exercises"], folder / "results-intervals.svg")
    gaps = table[table["problem"].str.startswith("gap-")]
    draw_gaps(gaps, folder / "results-gaps.svg")


if __name__ == "__main__":
    results()
