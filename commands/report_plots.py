"""Which curves and clouds of videos a report shows, and what is said of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapt import charts, scatter, time_charts
from adapt.embedding import plane
from adapt.pictures import Picture
from adapt.report_tables import class_gains
from adapt.review import MOST, Cloud, Review
from adapt.rules import RULES
from adapt.subject import Subject
from store.errors import counted, printable

_NOT_LOSSES = {"epoch", "seconds", "learning_rate", "reversal", "scores"}
_ACCURACIES = {
    "source-val": "held-out source",
    "oracle": "target",
    "oracle-class-mean": "target, class mean",
}


@dataclass
class Drawn:
    """Pictures, remarks that stand below them, and what is left out with the reasons."""

    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def points(subject: Subject, review: Review) -> Drawn:
    """Videos before and after adaptation."""
    drawn = Drawn()
    for name, title, cloud in (
        ("tsne-before", "before: mean of the cached features", review.before),
        ("tsne-after", "after: what the classifier sees", review.after),
    ):
        if cloud is None:
            continue
        try:
            drawn.pictures.append(_points(subject, name, title, cloud))
        except ValueError as error:
            drawn.left_out.append(f"Videos as points, {title}: {error}.")
            continue
        shown = (cloud.source, len(cloud.labels_V) - cloud.source)
        if shown != cloud.of:
            drawn.notes.append(
                f"{title.partition(':')[0].capitalize()}: a sample of {shown[0]:,} of {cloud.of[0]:,} "
                f"source and {counted(shown[1], 'target video', of=cloud.of[1])} (at most "
                f"{MOST:,} are drawn)."
            )
    drawn.notes += [
        "t-SNE with a fixed seed: training videos of the source and evaluation videos of the target. "
        "Distances between far groups mean little.",
        "Colour, and the shape where there are many classes: the true class."
        if _is_known(review.before)
        else "Colour, and the shape where there are many classes: of source videos the true class, of "
        "target videos the predicted one, because their labels are not known.",
    ]
    return drawn


def _is_known(cloud: Cloud) -> bool:
    """Whether any target video has a label."""
    return any(label is not None for label in cloud.labels_V[cloud.source :])


def _points(subject: Subject, name: str, title: str, cloud: Cloud) -> Picture:
    by_label = _is_known(cloud)
    config = subject.run.config
    return scatter.points(
        name,
        title,
        plane(cloud.features_VC),
        source=cloud.source,
        class_V=[
            label if i < cloud.source or by_label else predicted
            for i, (label, predicted) in enumerate(zip(cloud.labels_V, cloud.predicted_V))
        ],
        classes=subject.classes,
        domains=(
            f"source: {config['source']}" if cloud.source else "",
            f"target: {config['target']}",
        ),
    )


def curves(subject: Subject) -> Drawn:
    """Everything that metrics.jsonl has of several epochs: losses, lists such as weights, scores."""
    drawn = Drawn()
    if len(subject.metrics) < 2:
        drawn.left_out.append("Curves: there is only one epoch.")
        return drawn
    drawn.pictures += _losses(subject)
    scored = {
        line["epoch"]: line["scores"]
        for line in subject.metrics
        if isinstance(line.get("scores"), dict) and line["scores"]
    }
    if not scored:
        drawn.left_out.append("Curves of accuracy and scores: the run scored no epoch.")
    accuracies = {
        label: values for name, label in _ACCURACIES.items() if (values := _of(scored, name))
    }
    if accuracies:
        drawn.pictures.append(_curve(subject, "accuracy", "accuracy, %", accuracies))
    if _ACCURACIES["oracle"] in accuracies:
        drawn.notes.append(
            "Accuracies on the target are looked at here; only the rule oracle chooses by them."
        )
    for name, rule in RULES.items():
        values = _of(scored, name)
        if values and name not in _ACCURACIES:
            better = "lower is better" if rule.lowest else "higher is better"
            title = f"{rule.what}\n{better}"
            drawn.pictures.append(_curve(subject, f"score-{name}", title, {"": values}))
    return drawn


def gains(subject: Subject, others: Mapping[str, Subject]) -> list[Picture]:
    """Each class's gain over others, as bars; `others` by the names that they have in the titles."""
    return [
        charts.class_bars(
            f"class-gain-{name.replace(' ', '-')}",
            f"gain over {name}, points",
            class_gains(subject, other),
            signed=True,
        )
        for name, other in others.items()
    ]


def attention(subject: Subject) -> Drawn:
    """What each moment of a video weighs, where the run has recorded it."""
    drawn, found = Drawn(), subject.attention
    if found is None:
        return drawn
    drawn.pictures.append(time_charts.means(found))
    for row in found.domains:
        drawn.pictures.append(time_charts.singles(row, found.even_T))
        count = len(time_charts.shown(row.single, len(found.even_T)))
        drawn.notes.append(
            f"{'Source' if row.source else 'Target'}, {printable(row.domain)}: the mean and one deviation of "
            f"{counted(row.videos, 'evaluation video')}, and {count:,} of them as rows."
        )
    drawn.notes += [
        f"{found.what[0].upper()}{found.what[1:]}.",
        "Dotted: what even weights would give. Rows: blue is more than that, orange less; the fullest colour "
        "is the largest difference of the picture, in percent of the even weight.",
        f"Of the networks of the last epoch, {found.epoch}.",
    ]
    return drawn


def _curve(
    subject: Subject, name: str, title: str, lines: Mapping[str, Mapping[int, float]]
) -> Picture:
    last = subject.metrics[-1]["epoch"]
    return charts.curve(name, title, lines, chosen=subject.epoch, epochs=last)


def _losses(subject: Subject) -> list[Picture]:
    found = []
    keys = dict.fromkeys(key for line in subject.metrics for key in line)
    for number, key in enumerate((k for k in keys if k not in _NOT_LOSSES), 1):
        values = {line["epoch"]: line[key] for line in subject.metrics if key in line}
        # The names of files must not lead elsewhere, whatever a metric is called.
        name = f"metric-{number}-{re.sub('[^a-zA-Z0-9_-]', '_', key)}"
        if all(_is_number(value) for value in values.values()):
            found.append(_curve(subject, name, f"loss: {key}", {"": values}))
        elif all(isinstance(v, list) and all(map(_is_number, v)) for v in values.values()):
            found.append(_curve(subject, name, key, _by_place(values)))
        elif all(isinstance(v, dict) and all(map(_is_number, v.values())) for v in values.values()):
            members = dict.fromkeys(member for line in values.values() for member in line)
            lines = {m: {e: v[m] for e, v in values.items() if m in v} for m in members}
            found.append(_curve(subject, name, key.replace("_", " "), lines))
    return found


def _of(scored: Mapping[int, Mapping[str, Any]], name: str) -> dict[int, float]:
    return {epoch: scores[name] for epoch, scores in scored.items() if _is_number(scores.get(name))}


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _by_place(values: Mapping[int, Sequence[float]]) -> dict[str, dict[int, float]]:
    """Epoch -> list of values, as lines: `1` -> epoch -> value, and so on."""
    longest = max(map(len, values.values()))
    return {
        str(place + 1): {e: float(v[place]) for e, v in values.items() if place < len(v)}
        for place in range(longest)
    }
