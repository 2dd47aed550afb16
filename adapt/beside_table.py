"""What stands beside a run's result in a report: its baselines as subjects, and a table of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean

from adapt.accuracy import Accuracy, accuracy
from adapt.baselines import FILE, ROWS, Baseline, guesses
from adapt.paired import holm, sign_flip
from adapt.report_tables import gain_of, tested
from adapt.rules import RULES
from adapt.subject import Subject
from adapt.table_text import Table
from store.errors import RunError, counted, first_of, printable

THIS_RUN = "this run"


def baseline_subjects(subject: Subject) -> dict[str, Subject]:
    """The run's baselines by name, each as a subject that predicted the same videos with the same labels.

    Raises:
        RunError: a baseline has other videos or classes than the run.
    """
    found = {}
    for row in subject.baselines.rows:
        lacking = [video for video in subject.videos if video not in row.predicted]
        foreign = sorted({*row.predicted.values()} - {*subject.classes})
        if lacking or foreign:
            raise RunError(
                f"{printable(subject.run.folder / FILE)} does not fit the run: {row.name} lacks "
                f"{len(lacking)} of its videos and has {counted(len(foreign), 'unknown class')} "
                f"{first_of([*lacking, *foreign])}. Remove the file: the run itself does not need it."
            )
        predicted = [row.predicted[video] for video in subject.videos]
        there = dataclasses.replace(subject, predicted=predicted)
        found[row.name] = dataclasses.replace(there, result=_result(there))
    return found


def _result(subject: Subject) -> Accuracy | None:
    """The accuracy on the labels that are known now; None without any."""
    if not subject.known or subject.result is None:
        return None
    place = {name: number for number, name in enumerate(subject.classes)}
    found = accuracy(
        [place[subject.predicted[i]] for i in subject.known],
        [place[str(subject.truth[i])] for i in subject.known],
    )
    return dataclasses.replace(found, transductive=subject.result.transductive)


def beside(subject: Subject) -> Table | None:
    """The run, its baselines and guesses on the same videos; without labels scores, None where none are."""
    if not subject.known or subject.result is None:
        head, *rows = score_rows([subject]) or [[]]
        if not rows:
            return None
        note = "Label-free scores: high or low is better. " + _what([row[0] for row in rows])
        return Table(title="Beside the result", groups=[("", head)], rows=rows, notes=[note])
    baselines = baseline_subjects(subject)
    gains = {name: gain_of(subject, other) for name, other in baselines.items()}
    corrected = iter(holm([sign_flip(gain_V) for gain_V in gains.values() if gain_V is not None]))
    rows = [[THIS_RUN, *_accuracies(subject), "", "", "", ""]]
    rows += [
        [name, *_accuracies(other), *tested(gains[name], corrected)]
        for name, other in baselines.items()
    ]
    rows += _guesses(subject, subject.result.overall)
    notes = [_what(baselines)] if baselines else []
    notes += [f"Without {name}: {why}." for name, why in subject.baselines.left_out.items()]
    notes.append(
        "Interval: paired bootstrap over the videos. p: McNemar's exact test, corrected by Holm's method. "
        "Guesses are known from the labels."
    )
    return Table(
        title="Beside the result",
        groups=[
            ("", ["", "overall, % (95 % interval)", "class mean, %"]),
            ("this run minus it", ["points", "95 % interval", "p", "corrected"]),
        ],
        rows=rows,
        notes=notes,
    )


def _guesses(subject: Subject, overall: float) -> list[list[str]]:
    """Rows of guesses; `overall` is the run's accuracy."""
    truth = [str(subject.truth[i]) for i in subject.known]
    return [
        [
            *(guess.name, f"{guess.overall:.2f}", f"{guess.class_mean:.2f}"),
            *(f"{overall - guess.overall:+.2f}", "", "", ""),
        ]
        for guess in guesses(truth, len(subject.classes))
    ]


def _accuracies(subject: Subject) -> list[str]:
    result = subject.result
    assert result is not None
    return [
        f"{result.overall:.2f} ({result.low:.1f} to {result.high:.1f})",
        f"{result.class_mean:.2f}",
    ]


def _what(names: Mapping[str, Subject] | Sequence[str]) -> str:
    """What the baselines among these rows are."""
    return " ".join(f"{name.capitalize()}: {ROWS[name]}." for name in names if name in ROWS)


def score_rows(subjects: Sequence[Subject]) -> list[list[str]]:
    """Label-free scores of runs at the epoch chosen and of their baselines; of several seeds the means.

    Returns:
        A row of titles and rows of text; nothing where there is no baseline.
    """
    baselines = common_baselines(subjects)
    if not baselines:
        return []
    names = list(next(iter(baselines.values()))[0].scores)
    rows = [["", *(f"{name} ({'low' if RULES[name].lowest else 'high'})" for name in names)]]
    own: list[Mapping[str, float]] = [
        next((m.get("scores") or {} for m in s.metrics if m["epoch"] == s.epoch), {})
        for s in subjects
    ]
    shown = {THIS_RUN: own} | {name: [r.scores for r in found] for name, found in baselines.items()}
    for name, found in shown.items():
        cells = [
            f"{fmean(scores[n] for scores in found):.4f}" if all(n in s for s in found) else "-"
            for n in names
        ]
        rows.append([name, *cells])
    return rows


def common_baselines(subjects: Sequence[Subject]) -> dict[str, list[Baseline]]:
    """The baselines that every run has, by name."""
    every = [{row.name: row for row in subject.baselines.rows} for subject in subjects]
    return {
        name: [rows[name] for rows in every] for name in every[0] if all(name in r for r in every)
    }
