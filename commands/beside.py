"""What is said beside a result: source only as it was trained along, and guesses; of seeds the means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from adapt.baselines import guesses
from adapt.beside_table import THIS_RUN, common_baselines, score_rows
from adapt.subject import Subject, read_subject
from commands.text import say


def say_beside(runs: Sequence[Path]) -> None:
    """Print source only and guesses on the same videos; without labels, label-free scores of source only.

    Args:
        runs: finished runs that differ in nothing but the seed.
    """
    subjects = [read_subject(run) for run in runs]
    rows = _accuracies(subjects) if subjects[0].known else score_rows(subjects)
    if rows:
        mean = ", means over the seeds" if len(runs) > 1 else ""
        say(f"  beside it, on the same videos{mean}:")
        widths = [max(map(len, column)) for column in zip(*rows)]
        for first, *cells in rows:
            numbers = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:]))
            say(f"    {first:<{widths[0]}}  {'  '.join(numbers)}".rstrip())
    by_reason: dict[str, list[str]] = {}
    for name, reason in subjects[0].baselines.left_out.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        say(f"  not beside it ({'; '.join(names)}): {reason}")


def _accuracies(subjects: Sequence[Subject]) -> list[list[str]]:
    """Rows of cells in percent: overall, class mean, and how many points the run has more overall."""
    known = [s.result for s in subjects if s.result is not None]
    ours = fmean(result.overall for result in known)
    shown = [(THIS_RUN, ours, fmean(result.class_mean for result in known))]
    for name, rows in common_baselines(subjects).items():
        found = [row.target_eval for row in rows if row.target_eval is not None]
        if found:
            shown.append(
                (name, fmean(r.overall for r in found), fmean(r.class_mean for r in found))
            )
    truth = [str(subjects[0].truth[i]) for i in subjects[0].known]
    shown += [
        (guess.name, guess.overall, guess.class_mean)
        for guess in guesses(truth, len(subjects[0].classes))
    ]
    cells = [
        [
            name,
            f"{overall:.2f}",
            f"{mean:.2f}",
            "" if name is THIS_RUN else f"{ours - overall:+.2f}",
        ]
        for name, overall, mean in shown
    ]
    return [["", "overall, %", "class mean, %", "the run has more"], *cells]
