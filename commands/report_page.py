"""The parts of a report in their order, and the page that they make. All text is escaped here.

The page loads nothing: pictures are SVG elements in it, frames are data URIs.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from adapt import charts
from adapt.accuracy import NO_LABELS
from adapt.baselines import SOURCE_ONLY
from adapt.beside_table import baseline_subjects, beside
from adapt.details import details
from adapt.pictures import Picture, inline_svg
from adapt.report_tables import (
    accuracy_text,
    beyond_accuracy,
    class_counts,
    comparison,
    per_class,
    rules,
    unlike,
)
from adapt.review import Review
from adapt.subject import Subject, compared_by_class, seeds_text
from adapt.table_text import Table, html_page, html_table
from commands import report_plots
from commands.report_style import STYLE
from store.errors import counted, printable


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
        standing = beside(subject)
        parts = [self._headline(), html_table(standing) if standing else ""]
        if len(self.subjects) > 1:
            parts += [html_table(comparison(self.subjects)), self._differences()]
        scored = [html_table(table) for table in [rules(subject)] if table]
        if subject.known:
            parts += [*self._classes(), self._points(), self._attention(), self._curves(), *scored]
        else:
            parts += [
                html_table(class_counts(subject)),
                *scored,
                self._points(),
                self._attention(),
                self._curves(),
            ]
        parts += [self._list(), self._beyond(), self._folded()]
        notes = "".join(f"<li>{_text(note)}</li>" for note in self.notes)
        if notes:
            parts.insert(1, f'<section class="notes"><h2>Notes</h2><ul>{notes}</ul></section>')
        title = f"{subject.name}, {subject.pair}"
        return html_page(printable(title), [part for part in parts if part], STYLE)

    def _headline(self) -> str:
        subject, run = self.subject, self.subject.run
        facts = {
            "method": subject.name,
            "pair": f"{subject.pair} ({run.config.get('benchmark', '?')})",
            "epoch": f"{subject.epoch}, chosen by: {run.selection}",
            "seed": run.seed,
            "date": run.date,
            "folder": str(run.folder),
        }
        result, seeds = subject.result, seeds_text(self.subjects)
        if result is None:
            large = f"{NO_LABELS}, so no accuracy: {counted(len(subject.videos), 'video')} of the target"
        else:
            large = f"seed {run.seed}: " * bool(seeds) + accuracy_text(result)
            facts = {
                "accuracy on": result.what,
                "class mean": f"{result.class_mean:.2f} %",
                **facts,
            }
        rows = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts.items())
        heads = "".join(f'<p class="large">{_text(line)}</p>' for line in (seeds, large) if line)
        return f"<section>{heads}<dl>{rows}</dl></section>"

    def _differences(self) -> str:
        items = "".join(f"<li>{_text(line)}</li>" for line in unlike(self.subjects))
        return (
            "<details><summary>What differs from run 1 in options and features (run 1 / the other)"
            f"</summary><ul>{items}</ul></details>"
        )

    def _draw(self, *pictures: Picture, title: str, notes: Sequence[str] = ()) -> str:
        if not pictures:
            return ""
        self.pictures += pictures
        drawn = "".join(f'<div class="plot">{inline_svg(picture)}</div>' for picture in pictures)
        said = "".join(f"<li>{_text(note)}</li>" for note in notes)
        return f'<section><h2>{_text(title)}</h2><div class="plots">{drawn}</div><ul>{said}</ul></section>'

    def _classes(self) -> list[str]:
        subject = self.subject
        number, other = compared_by_class(self.subjects)
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
        others = {f"run {number}": other} if other and other.known else {}
        if other and not others:
            self.notes.append(f"Gain per class: run {number} has no video with a label.")
        notes = [f"Run {number} is {printable(one.name)}." for one in others.values()]
        baselines = baseline_subjects(subject)
        if SOURCE_ONLY in baselines:
            others[SOURCE_ONLY] = baselines[SOURCE_ONLY]
            notes.append("Source only was trained along with this run.")
        bars += report_plots.gains(subject, others)
        found += [
            html_table(per_class(subject, others)),
            self._draw(*bars, title="Accuracy per class, as bars", notes=notes),
        ]
        return found

    def _points(self) -> str:
        if self.review is None:
            return ""
        drawn = report_plots.points(self.subject, self.review)
        self.notes += drawn.left_out
        return self._draw(
            *drawn.pictures, title="Videos before and after adaptation", notes=drawn.notes
        )

    def _curves(self) -> str:
        drawn = report_plots.curves(self.subject)
        self.notes += drawn.left_out
        return self._draw(*drawn.pictures, title="Curves", notes=drawn.notes)

    def _attention(self) -> str:
        drawn = report_plots.attention(self.subject)
        return self._draw(
            *drawn.pictures, title="Which moments of a video weigh", notes=drawn.notes
        )

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
        notes = [
            f"{counted(len(rows), 'mistake', of=total)}."
            if known
            else f"{counted(len(rows), 'video')}."
        ]
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
        labels_V = np.array([review.videos[i].label for i in known], np.int64)
        return html_table(
            beyond_accuracy(details(review.P_VN[known], labels_V, self.subject.classes))
        )

    def _folded(self) -> str:
        run = self.subject.run
        blocks = {"Config": run.config, "Data": run.data, "Environment": self.subject.environment}
        return "".join(
            f"<details><summary>{title}</summary><pre>"
            f"{_lines(json.dumps(dict(value), indent=1, ensure_ascii=False))}</pre></details>"
            for title, value in blocks.items()
        )


def _text(text: str) -> str:
    """A line of text, escaped, in which control characters are shown."""
    return html.escape(printable(" ".join(text.split("\n"))))


def _lines(text: str) -> str:
    return "\n".join(map(_text, text.split("\n")))
