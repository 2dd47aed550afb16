"""What each rule of `--select` loses against the oracle, over runs whose epochs were scored.

Give every problem a name and the folder below which its runs lie; see docs/selection.md for the runs.

    python -m benchmarks.selection "real -> render=exercises/real-to-render" "gain=gain"

The loss of a rule in a run is the best accuracy of all scored epochs on the target's evaluation videos minus
the accuracy at the epoch that the rule takes: never below 0, and 0 for the oracle.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from adapt.rules import CHOICES, by_rule
from adapt.runs import RunFolder

ORACLE = "oracle"
RULES = tuple(rule for rule in CHOICES if rule != ORACLE)

Losses = dict[str, float]
"""Rule -> points lost; under `ORACLE` its accuracy in percent, which is lost to nobody."""


def losses_of(run: Path) -> Losses:
    """Of one run, in points of overall accuracy; rules that have no score there are left out.

    Raises:
        click.UsageError: no epoch of the run has an accuracy on the target.
    """
    rules = by_rule(RunFolder(run).metrics())
    if ORACLE not in rules:
        raise click.UsageError(
            f"{run} has no scored epoch with an accuracy on the target. Train it with --score-every above "
            "0 on a target whose evaluation videos have labels."
        )
    best = rules[ORACLE]["overall"]
    found = {name: best - values["overall"] for name, values in rules.items() if name in RULES}
    return {**found, ORACLE: best}


def runs_below(folder: Path) -> dict[str, list[Path]]:
    """Finished runs by the name of their method, the folder above `seed0`, `seed1`, ...

    Raises:
        click.UsageError: there are none.
    """
    found = defaultdict(list)
    for done in sorted(folder.rglob("seed*/done.json")):
        found[done.parent.parent.name].append(done.parent)
    if not found:
        raise click.UsageError(f"No finished run lies below {folder} (looked for seed*/done.json).")
    return dict(found)


def row(title: str, runs: Iterable[Losses]) -> str:
    """A line of the table: the oracle's mean accuracy, then each rule's mean loss, over the runs."""
    every = list(runs)
    cells = []
    for rule in (ORACLE, *RULES):
        values = [losses[rule] for losses in every if rule in losses]
        cells.append(f"{statistics.fmean(values):.1f}" if values else "")
    return f"| {title} | {len(every)} | {' | '.join(cells)} |"


def table(problems: Sequence[tuple[str, Path]]) -> str:
    """Markdown: a line for each problem and method, then all runs together and the largest loss of one."""
    lines = [f"| problem | method | runs | {ORACLE} | {' | '.join(RULES)} |"]
    lines.append("|---" * (4 + len(RULES)) + "|")
    everything: list[Losses] = []
    for name, folder in problems:
        for method, runs in runs_below(folder).items():
            found = [losses_of(run) for run in runs]
            everything += found
            lines.append(row(f"{name} | {method}", found))
    lines.append(row("all | mean", everything))
    worst = [max((x[rule] for x in everything if rule in x), default=0.0) for rule in RULES]
    lines.append(
        f"| all | largest loss | {len(everything)} | | {' | '.join(f'{x:.1f}' for x in worst)} |"
    )
    return "\n".join(lines)


@click.command()
@click.argument("problems", nargs=-1, required=True, metavar="NAME=FOLDER...")
def main(problems: tuple[str, ...]) -> None:
    """Print the table of losses."""
    pairs = []
    for problem in problems:
        name, equals, folder = problem.partition("=")
        if not (name and equals and folder):
            raise click.UsageError(f"{problem!r} is not NAME=FOLDER.")
        pairs.append((name, Path(folder)))
    click.echo(table(pairs))


if __name__ == "__main__":
    main()
