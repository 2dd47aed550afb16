"""What is said beside a result: source only as it was trained along, and guesses; of seeds the means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from adapt.baselines import Baseline, guesses
from adapt.rules import RULES
from adapt.subject import Subject, read_subject
from commands.text import say

_THIS = "this run"


def say_beside(runs: Sequence[Path]) -> None:
    """Print source only and guesses on the same videos; without labels, label-free scores of source only.

    Args:
        runs: finished runs that differ in nothing but the seed.
    """
    subjects = [read_subject(run) for run in runs]
    rows = _accuracies(subjects) if subjects[0].known else _scores(subjects)
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
    shown = [(_THIS, ours, fmean(result.class_mean for result in known))]
    for name, rows in _baselines(subjects).items():
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
        [name, f"{overall:.2f}", f"{mean:.2f}", "" if name is _THIS else f"{ours - overall:+.2f}"]
        for name, overall, mean in shown
    ]
    return [["", "overall, %", "class mean, %", "the run has more"], *cells]


def _scores(subjects: Sequence[Subject]) -> list[list[str]]:
    """Rows of label-free scores of the epochs that were chosen; nothing where there is no baseline."""
    baselines = _baselines(subjects)
    if not baselines:
        return []
    names = list(next(iter(baselines.values()))[0].scores)
    rows = [["", *(f"{name} ({'low' if RULES[name].lowest else 'high'})" for name in names)]]
    own: list[Mapping[str, float]] = [
        next((m.get("scores") or {} for m in s.metrics if m["epoch"] == s.epoch), {})
        for s in subjects
    ]
    shown = {_THIS: own} | {name: [r.scores for r in found] for name, found in baselines.items()}
    for name, found in shown.items():
        cells = [
            f"{fmean(scores[n] for scores in found):.4f}" if all(n in s for s in found) else "-"
            for n in names
        ]
        rows.append([name, *cells])
    return rows


def _baselines(subjects: Sequence[Subject]) -> dict[str, list[Baseline]]:
    """The rows that every run has, by name."""
    every = [{row.name: row for row in subject.baselines.rows} for subject in subjects]
    return {
        name: [rows[name] for rows in every] for name in every[0] if all(name in r for r in every)
    }
