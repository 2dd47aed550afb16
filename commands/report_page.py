"""The parts of a report in their order, and the page that they make. All text is escaped here.

The page loads nothing: pictures are SVG elements in it, frames are data URIs.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapt import charts
from adapt.accuracy import NO_LABELS
from adapt.details import details
from adapt.embedding import plane
from adapt.pictures import Picture, inline_svg
from adapt.report_tables import (
    accuracy_text,
    beyond_accuracy,
    class_counts,
    class_gains,
    comparison,
    per_class,
    rules,
)
from adapt.review import MOST, Cloud, Review
from adapt.rules import RULES
from adapt.subject import Subject
from adapt.table_text import Table, html_page, html_table
from store.errors import printable

_NOT_LOSSES = {"epoch", "seconds", "learning_rate", "reversal", "scores"}
_ACCURACIES = {
    "source-val": "held-out source",
    "oracle": "target",
    "oracle-class-mean": "target, class mean",
}


@dataclass
class Report:
    """What a page is made of.

    Attributes:
        subjects: the run that is reported, then those that it is compared with.
        listed: numbers of the subject's videos that are listed one by one.
        frames: JPEG pictures of videos by id.
        notes: what is left out, with reasons, and what does not fit together.
    """

    subjects: Sequence[Subject]
    review: Review | None
    listed: Sequence[int]
    frames: Mapping[str, bytes]
    notes: list[str]
    pictures: list[Picture] = field(default_factory=list)

    @property
    def subject(self) -> Subject:
        """The run that is reported."""
        return self.subjects[0]

    def page(self) -> str:
        """The HTML page; `pictures` are drawn and `notes` are complete afterwards."""
        subject = self.subject
        parts = [self._headline()]
        if len(self.subjects) > 1:
            parts.append(html_table(comparison(self.subjects)))
        parts += self._classes() if subject.known else [html_table(class_counts(subject))]
        parts += [self._points(), self._curves()]
        scored = rules(subject)
        parts += [html_table(scored)] if scored else []
        parts += [self._list(), self._beyond(), self._folded()]
        notes = "".join(f"<li>{_text(note)}</li>" for note in self.notes)
        if notes:
            parts.insert(
                1, f'<section class="notes"><h2>Not shown, and why</h2><ul>{notes}</ul></section>'
            )
        title = f"{subject.name}, {subject.pair}"
        return html_page(printable(title), [part for part in parts if part], _STYLE)

    def _headline(self) -> str:
        subject, run = self.subject, self.subject.run
        facts = {
            "method": subject.name,
            "pair": f"{subject.pair} ({run.config.get('benchmark', '?')})",
            "epoch chosen by": f"{run.selection}: {subject.epoch}",
            "seed": run.seed,
            "date": run.date,
            "folder": str(run.folder),
        }
        result = subject.result
        if result is None:
            large = f"{NO_LABELS}, so no accuracy: {len(subject.videos):,} videos of the target"
        else:
            large = accuracy_text(result)
            facts = {
                "accuracy on": result.what,
                "class mean": f"{result.class_mean:.2f} %",
                **facts,
            }
        rows = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())
        return f'<section><p class="large">{_text(large)}</p><dl>{rows}</dl></section>'

    def _draw(self, *pictures: Picture, title: str, notes: Sequence[str] = ()) -> str:
        self.pictures += pictures
        drawn = "".join(f'<div class="plot">{inline_svg(picture)}</div>' for picture in pictures)
        said = "".join(f"<li>{_text(note)}</li>" for note in notes)
        return f'<section><h2>{_text(title)}</h2><div class="plots">{drawn}</div><ul>{said}</ul></section>'

    def _classes(self) -> list[str]:
        subject = self.subject
        other = next((s for s in self.subjects[1:2] if s.known), None)
        found = [
            self._draw(
                charts.confusion(subject.confusion(), subject.classes),
                title="Confusion matrix",
                notes=[
                    "Rows: true classes, with their numbers of videos; columns: predicted classes. Blue is "
                    "right, orange wrong; the stronger, the larger the share of the row."
                ],
            )
        ]
        recall = {detail.name: detail.recall for detail in subject.by_class()}
        bars = [charts.class_bars("class-accuracy", "accuracy, %", recall)]
        notes = []
        if other:
            gains = class_gains(subject, other)
            bars.append(charts.class_bars("class-gain", "gain, points", gains, signed=True))
            notes = [f"Gain over run 2, {printable(other.name)}."]
        elif len(self.subjects) > 1:
            self.notes.append("Gain per class: run 2 has no video with a label.")
        found += [
            html_table(per_class(subject, other)),
            self._draw(*bars, title="Classes drawn", notes=notes),
        ]
        return found

    def _points(self) -> str:
        if self.review is None:
            return ""
        drawn, notes = [], []
        for name, title, cloud in (
            ("tsne-before", "before: mean of the cached features", self.review.before),
            ("tsne-after", "after: what the classifier sees", self.review.after),
        ):
            if cloud is None:
                continue
            try:
                drawn.append(self._plane(name, title, cloud))
            except ValueError as error:
                self.notes.append(f"Videos as points, {title}: {error}.")
                continue
            shown = (cloud.source, len(cloud.labels_V) - cloud.source)
            if shown != cloud.of:
                notes.append(
                    f"{title.partition(':')[0]}: a sample of {shown[0]:,} of {cloud.of[0]:,} source and "
                    f"{shown[1]:,} of {cloud.of[1]:,} target videos (at most {MOST:,} are drawn)."
                )
        known = any(label is not None for label in self.review.before.labels_V[self._source() :])
        notes += [
            "t-SNE with a fixed seed: training videos of the source and evaluation videos of the target. "
            "Distances between far groups mean little.",
            "Colour (and shape): the true class."
            if known
            else "Colour (and shape): of source videos the true class, of target videos the predicted one, "
            "because their labels are not known.",
        ]
        return (
            self._draw(*drawn, title="Videos before and after adaptation", notes=notes)
            if drawn
            else ""
        )

    def _source(self) -> int:
        assert self.review is not None
        return self.review.before.source

    def _plane(self, name: str, title: str, cloud: Cloud) -> Picture:
        known = any(label is not None for label in cloud.labels_V[cloud.source :])
        class_V = [
            label if i < cloud.source or known else predicted
            for i, (label, predicted) in enumerate(zip(cloud.labels_V, cloud.predicted_V))
        ]
        config = self.subject.run.config
        return charts.points(
            name,
            title,
            plane(cloud.features_VC),
            source=cloud.source,
            class_V=class_V,
            classes=self.subject.classes,
            domains=(str(config["source"]) if cloud.source else "", str(config["target"])),
        )

    def _curves(self) -> str:
        metrics, epoch = self.subject.metrics, self.subject.epoch
        if len(metrics) < 2:
            self.notes.append("Curves: there is only one epoch.")
            return ""
        drawn = []
        for key in dict.fromkeys(key for line in metrics for key in line):
            values = {line["epoch"]: line[key] for line in metrics if key in line}
            if key not in _NOT_LOSSES and all(_is_number(v) for v in values.values()):
                drawn.append(charts.curve(f"loss-{key}", f"loss: {key}", {key: values}, epoch))
            elif key not in _NOT_LOSSES and all(isinstance(v, list) for v in values.values()):
                drawn.append(charts.curve(f"list-{key}", key, _by_place(values), epoch))
        scored = {line["epoch"]: line["scores"] for line in metrics if line.get("scores")}
        lines = {
            label: {e: s[name] for e, s in scored.items() if name in s}
            for name, label in _ACCURACIES.items()
        }
        if any(lines.values()):
            there = {label: values for label, values in lines.items() if values}
            drawn.append(charts.curve("accuracy", "accuracy, %", there, epoch))
        for name, rule in RULES.items():
            values = {e: s[name] for e, s in scored.items() if name in s}
            if name not in _ACCURACIES and values:
                better = "lower is better" if rule.lowest else "higher is better"
                drawn.append(
                    charts.curve(f"score-{name}", rule.what, {name: values}, epoch, below=better)
                )
        if not scored:
            self.notes.append("Curves of accuracy and scores: the run scored no epoch.")
        notes = [
            "Accuracies on the target are looked at here; only the rule oracle chooses by them."
        ]
        return self._draw(*drawn, title="Curves", notes=notes if any(lines.values()) else [])

    def _list(self) -> str:
        subject = self.subject
        known = bool(subject.known)
        title = "The most confident mistakes" if known else "The least certain videos"
        heads = ["video", *(["true class"] if known else []), "predicted", "probability"]
        rows = [
            [
                printable(subject.videos[i]),
                *([printable(subject.truth[i])] if known else []),
                printable(subject.predicted[i]),
                f"{subject.probability[i]:.4f}",
            ]
            for i in self.listed
        ]
        total = sum(subject.truth[i] != subject.predicted[i] for i in subject.known)
        notes = [f"{len(rows):,} of {total:,} mistakes." if known else f"{len(rows):,} videos."]
        table = Table(
            title=title,
            groups=[("", heads)],
            rows=rows,
            notes=notes,
            words=frozenset({1, 2} if known else {1}),
        )
        if not rows:
            return f"<section><h2>{title}</h2><p>There are none.</p></section>"
        return html_table(table) + self._gallery()

    def _gallery(self) -> str:
        subject = self.subject
        figures = []
        for i in self.listed:
            data = self.frames.get(subject.videos[i])
            if data is None:
                continue
            truth = f"{printable(subject.truth[i])} → " if subject.truth[i] is not None else ""
            said = f"{truth}{printable(subject.predicted[i])}"
            image = base64.b64encode(data).decode("ascii")
            name = _text(printable(subject.videos[i]))
            figures.append(
                f'<figure><img alt="middle frame of {name}" src="data:image/jpeg;base64,{image}">'
                f"<figcaption>{name}<br>{_text(said)}</figcaption></figure>"
            )
        return f'<section class="frames">{"".join(figures)}</section>' if figures else ""

    def _beyond(self) -> str:
        review = self.review
        if review is None:
            return ""
        known = [i for i, video in enumerate(review.videos) if video.label is not None]
        if not known:
            return ""
        import numpy as np

        labels_V = np.array([review.videos[i].label for i in known], np.int64)
        return html_table(
            beyond_accuracy(details(review.P_VN[known], labels_V, self.subject.classes))
        )

    def _folded(self) -> str:
        run = self.subject.run
        blocks = {"Config": run.config, "Data": run.data, "Environment": self.subject.environment}
        return "".join(
            f"<details><summary>{title}</summary><pre>"
            f"{_text(printable_lines(json.dumps(dict(value), indent=1, ensure_ascii=False)))}</pre></details>"
            for title, value in blocks.items()
        )


def printable_lines(text: str) -> str:
    """As `printable`, of every line."""
    return "\n".join(map(printable, text.split("\n")))


def _text(text: str) -> str:
    return html.escape(text)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _by_place(values: Mapping[int, Sequence[float]]) -> dict[str, dict[int, float]]:
    """Epoch -> list of values, as lines: `1` -> epoch -> value, and so on."""
    longest = max(map(len, values.values()))
    return {
        str(place + 1): {e: float(v[place]) for e, v in values.items() if place < len(v)}
        for place in range(longest)
    }


_STYLE = """
body { overflow-wrap: anywhere; }
.large { font-size: 1.6rem; margin: 0 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; }
section > .plots { display: flex; flex-wrap: wrap; gap: 1.2rem; overflow: visible; }
.plot { max-width: 100%; overflow-x: auto; }
.plot svg { display: block; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
tbody th { max-width: 16rem; white-space: normal; min-width: 6rem; }
.frames { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1rem; }
figure { margin: 0; width: 112px; }
figcaption { font-size: .75rem; color: var(--soft); }
.notes li { color: var(--text); }
details { margin-top: 1rem; }
pre { overflow-x: auto; font-size: .8rem; overflow-wrap: normal; }
@media (max-width: 40rem) { body { padding: 0 .8rem; margin: 1rem auto; } .large { font-size: 1.25rem; }
  th, td { padding: .3rem .5rem; } dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .3rem; } }
@media print { :root { --text: #000; --page: #fff; --line: #999; --soft: #333; --band: #f4f6f9;
  --lead: #0b5cad; } body { max-width: none; margin: 0; } section > div, .plot, pre { overflow: visible; }
  table { font-size: .75rem; white-space: normal; } .plot svg { max-width: 100%; }
  .plot, figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""
