"""The tables of a report as text in cells; `adapt.table_text` makes HTML of them, and escapes all of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from adapt.accuracy import NO_LABELS, Accuracy
from adapt.details import Details
from adapt.outcome import differences
from adapt.overview import SEED
from adapt.paired import bootstrap_interval, holm, sign_flip
from adapt.rules import LAST, RULES, by_rule
from adapt.score_table import p_text
from adapt.subject import Subject
from adapt.table_text import Table
from store.errors import counted, printable

_SURE = 0.05
_TESTED = ("points", "95 % interval", "p", "corrected")
LISTED = 20
"""Videos in the list of mistakes."""


def accuracy_text(result: Accuracy) -> str:
    """`85.00 % (95 % interval 80.9 to 88.3)`."""
    return f"{result.overall:.2f} % (95 % interval {result.low:.1f} to {result.high:.1f})"


def comparison(subjects: Sequence[Subject]) -> Table:
    """All runs, and the first against each other one on the same videos."""
    first, others = subjects[0], subjects[1:]
    gains = [gain_of(first, other) for other in others]
    p_values = [sign_flip(gain_V) for gain_V in gains if gain_V is not None]
    corrected = iter(holm(p_values))
    rows = [[*_begun(1, first), "", "", "", "", "", *_ended(first)]]
    for number, (other, gain_V) in enumerate(zip(others, gains), 2):
        compared = [*tested(gain_V, corrected), _agreed(first, other)]
        rows.append([*_begun(number, other), *compared, *_ended(other)])
    return Table(
        title="The runs compared",
        groups=[
            ("", ["run", "method", "overall, %"]),
            ("run 1 minus this run", [*_TESTED, "same predictions"]),
            ("", ["class mean, %", "seed", "pair", "epoch chosen by"]),
        ],
        rows=rows,
        words=frozenset({1, 10, 11}),
        notes=[
            "Differences in points of overall accuracy on the same videos; they hold for these trained "
            "models on other videos of the same kind, not for other seeds.",
            "Interval: paired bootstrap over the videos. p: McNemar's exact test. Corrected: Holm's method "
            f"over all {len(p_values)} of this table. *: below {_SURE}.",
            "A dash: the runs were not evaluated on the same videos with the same labels, or no video has "
            "a label.",
        ],
    )


def unlike(subjects: Sequence[Subject]) -> list[str]:
    """Of each run but the first, in which options and features it differs from the first."""
    first = subjects[0]
    return [
        f"run {number}: {printable(differences(first.run, other.run)) or 'nothing but the seed'}"
        for number, other in enumerate(subjects[1:], 2)
    ]


def _begun(number: int, subject: Subject) -> list[str]:
    result, overall = subject.result, NO_LABELS
    if result is not None:
        overall = f"{result.overall:.2f} ({result.low:.1f} to {result.high:.1f})"
    folder = Path(os.path.abspath(subject.run.folder))  # `.` has no name
    name = "/".join(folder.parts[-2:]) if SEED.fullmatch(folder.name) else folder.name
    return [f"{number}  {printable(name)}", printable(subject.name), overall]


def _ended(subject: Subject) -> list[str]:
    return [
        f"{subject.result.class_mean:.2f}" if subject.result else "-",
        subject.run.seed,
        printable(subject.pair),
        f"{subject.run.selection}: {subject.epoch}",
    ]


def gain_of(first: Subject, other: Subject) -> np.ndarray | None:
    """Of each video whether `first` has it right minus whether `other` has; None on other videos."""
    a, b = first.right, other.right
    if not a or first.target != other.target or a.keys() != b.keys():
        return None
    return np.array([int(a[video]) - int(b[video]) for video in a])


def tested(gain_V: np.ndarray | None, corrected: Iterator[float]) -> list[str]:
    """Points, interval, p and corrected p of a gain; dashes where there is none.

    Args:
        gain_V: as `gain_of`; corrected: the p-values after Holm's method, of which the next is taken.
    """
    if gain_V is None:
        return ["-"] * 4
    low, high = (100 * bound for bound in bootstrap_interval(gain_V))
    p = next(corrected)
    return [
        f"{100 * gain_V.mean():+.2f}",
        f"{low:+.1f} to {high:+.1f}",
        p_text(sign_flip(gain_V)),
        p_text(p) + "*" * (p < _SURE),
    ]


def _agreed(first: Subject, other: Subject) -> str:
    """Share of the videos that both predicted to which both gave the same class."""
    theirs = dict(zip(other.videos, other.predicted)) if first.target == other.target else {}
    pairs = [(p, theirs[v]) for v, p in zip(first.videos, first.predicted) if v in theirs]
    return f"{100 * sum(a == b for a, b in pairs) / len(pairs):.1f} %" if pairs else "-"


def class_gains(subject: Subject, other: Subject) -> dict[str, float | None]:
    """Gain of each class's accuracy, in points; None of a class that either run has no video of."""
    before = {detail.name: detail.recall for detail in other.by_class()}
    gains: dict[str, float | None] = {}
    for detail in subject.by_class():
        then = before.get(detail.name)
        known = detail.recall is not None and then is not None
        gains[detail.name] = detail.recall - then if known else None  # type: ignore[operator]
    return gains


def per_class(subject: Subject, others: Mapping[str, Subject]) -> Table:
    """How each class fared, and what it gained over others.

    Args:
        others: by the name that they have in the title of their column.
    """
    gains = [class_gains(subject, other) for other in others.values()]
    rows = []
    for detail in subject.by_class():
        gained = [gain[detail.name] for gain in gains]
        rows.append(
            [
                *(printable(detail.name), str(detail.videos), _percent(detail.recall)),
                *("-" if gain is None else f"{gain:+.1f}" for gain in gained),
                *(str(detail.predicted), _percent(detail.precision)),
                printable(detail.mistaken_for or "-"),
            ]
        )
    titles = [f"gain over {name}" for name in others]
    heads = ["class", "videos", "accuracy, %", *titles, "predicted as it", "of these right, %"]
    return Table(
        title="Accuracy per class",
        groups=[("", [*heads, "most mistaken for"])],
        rows=rows,
        words=frozenset({len(heads)}),
        notes=[
            *(["Gains are in points."] if others else []),
            "A dash stands where there is no video.",
        ],
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def class_counts(subject: Subject) -> Table:
    """How many videos got each class, of a target without labels."""
    counts = Counter(subject.predicted)
    total = len(subject.predicted)
    rows = [
        [printable(name), str(counts[name]), f"{100 * counts[name] / total:.1f}"]
        for name in subject.classes
    ]
    return Table(
        title="Predicted classes",
        groups=[("", ["class", "videos", "share, %"])],
        rows=rows,
        notes=[
            f"Of {counted(total, 'target video')}. Nothing here says whether the predictions are right."
        ],
    )


def rules(subject: Subject) -> Table | None:
    """Which epoch each rule takes, and its score there and at the run's epoch; None without any score."""
    found = by_rule(subject.metrics)
    if set(found) <= {LAST}:
        return None
    here: dict[str, float] = next(
        (line.get("scores") or {} for line in subject.metrics if line["epoch"] == subject.epoch), {}
    )
    looked = any("overall" in there for there in found.values())
    rows = []
    for name, there in found.items():
        if name == LAST and not looked:
            continue
        rule = RULES.get(name)
        what = f"{rule.what}, {'lower' if rule.lowest else 'higher'} is better" if rule else "-"
        cells = [name, what, _digits(here.get(name)), f"{there['epoch']:.0f}"]
        cells.append(_digits(there.get("score")))
        if looked:
            cells.append(f"{there['overall']:.2f}" if "overall" in there else "-")
        rows.append(cells)
    notes = [f"This run: {subject.run.selection}, epoch {subject.epoch}."]
    if looked:
        notes.append(
            "Accuracies were looked at and chose nothing, but for the rule oracle, which reads the target's "
            "labels."
        )
    best = ["epoch", "score", *(["accuracy, %"] if looked else [])]
    return Table(
        title="Scores",
        groups=[
            ("", ["rule", "score", f"at epoch {subject.epoch}"]),
            ("where the rule is best", best),
        ],
        rows=rows,
        words=frozenset({1}),
        notes=notes,
    )


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def beyond_accuracy(found: Details) -> Table:
    """Top-k accuracy, calibration, and what guessing would reach."""
    rows = [
        [f"class among the {k} most probable", f"{value:.2f}"] for k, value in found.top.items()
    ]
    rows += [
        ["mean of the highest probability", f"{found.mean_confidence:.2f}"],
        ["calibration error (ECE, 15 bins)", f"{found.calibration_error:.2f}"],
        ["chance: guessing evenly", f"{found.chance:.2f}"],
        ["the most frequent class for every video", f"{found.majority:.2f}"],
    ]
    return Table(title="Beyond accuracy", groups=[("", ["", "%"])], rows=rows)


def telling(subject: Subject) -> list[int]:
    """The numbers of the videos to list: the surest mistakes, or without labels the least sure videos."""
    known = subject.known
    if known:
        wrong = [i for i in known if subject.truth[i] != subject.predicted[i]]
        return sorted(wrong, key=lambda i: -subject.probability[i])[:LISTED]
    return sorted(range(len(subject.videos)), key=lambda i: subject.probability[i])[:LISTED]
