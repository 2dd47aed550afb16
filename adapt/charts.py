"""The pictures of a report: curves, confusion matrix, accuracy per class.

Sizes are in inches. Only pictures of many classes are wider than a phone; a page scrolls them sideways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adapt.pictures import COLOURS, INK, Picture, drawing, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RIGHT, _WRONG = COLOURS[0], COLOURS[1]
_BESIDE = 1.7
"""How much further than the longest bar an axis of gains reaches: room for its value, `-100.0`."""
_DARKEST = 0.6
"""Opacity of a full cell: text in the page's ink can be read on it, on a light and on a dark page."""


def curve(
    name: str, title: str, lines: Mapping[str, Mapping[int, float]], *, chosen: int, epochs: int
) -> Picture:
    """Draw values over epochs, with a dotted mark at the epoch that was chosen.

    Args:
        lines: label -> epoch -> value; values that are not finite are gaps. "" has no label.
        epochs: the last one of the run.
    """
    with drawing():
        panel = panel_of(3.5, 2.3)
        for number, (label, values) in enumerate(lines.items()):
            panel.plot(
                list(values),
                [v if math.isfinite(v) else math.nan for v in values.values()],
                label=short(label),
                color=COLOURS[number % len(COLOURS)],
                linestyle=("-", "--", ":", "-.")[number % 4],
                marker="o" if len(values) <= 12 else None,
                markersize=3,
            )
        panel.axvline(chosen, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_xlabel(f"epoch (dotted: chosen, {chosen})")
        panel.set_xlim(1 - 0.04 * epochs, epochs * 1.04)
        panel.locator_params(axis="x", integer=True)
        panel.ticklabel_format(axis="y", useOffset=False)
        if any(lines):
            panel.legend(fontsize=8)
    return picture_of(name, f"{title}, over the epochs", panel)


def confusion(confusion_NN: NDArray[np.int64], classes: Sequence[str]) -> Picture:
    """Draw counts by true class (row) and predicted class (column), as the paper's figure 5.

    The darker a cell, the larger its share of its row; blue is right, orange wrong.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    N = len(classes)
    side = max(2.4, (0.36 if N <= 15 else 0.3) * N)
    with drawing():
        panel = panel_of(side, side)
        row_N = confusion_NN.sum(axis=1)
        cells = [(int(i), int(j)) for i, j in zip(*np.nonzero(confusion_NN))]
        colours = [
            to_rgba(_RIGHT if i == j else _WRONG, _DARKEST * confusion_NN[i, j] / row_N[i])
            for i, j in cells
        ]
        boxes = [Rectangle((j - 0.5, i - 0.5), 1, 1) for i, j in cells]
        panel.add_collection(PatchCollection(boxes, facecolors=colours, edgecolors="none"))
        for i, j in cells:
            count = f"{confusion_NN[i, j]}"
            size = 9 if len(count) < 4 else 7
            panel.text(j, i, count, ha="center", va="center", fontsize=size)
        panel.set(xlim=(-0.5, N - 0.5), ylim=(N - 0.5, -0.5), xlabel="predicted", ylabel="true")
        names = [short(name) for name in classes]
        panel.set_xticks(range(N), names, rotation=90)
        panel.set_yticks(range(N), [f"{name} ({row})" for name, row in zip(names, row_N)])
        panel.set_xticks(np.arange(N + 1) - 0.5, minor=True)
        panel.set_yticks(np.arange(N + 1) - 0.5, minor=True)
        panel.grid(which="minor", color=INK, linewidth=0.3, alpha=0.3)
        panel.tick_params(which="both", length=0)
    title = "Videos by true class (row) and predicted class (column)"
    return picture_of("confusion", title, panel)


def class_bars(
    name: str, title: str, values: Mapping[str, float | None], *, signed: bool = False
) -> Picture:
    """Draw one bar per class with its value beside it; no bar where it is None.

    Args:
        values: in percent, or in points where `signed`: blue above zero, orange below.
    """
    with drawing():
        panel = panel_of(2.6, 0.5 + 0.24 * len(values))
        numbers = [0.0 if v is None else v for v in values.values()]
        places = range(len(values))
        colours = [_WRONG if v < 0 else _RIGHT for v in numbers]
        panel.barh(places, numbers, height=0.7, color=colours)
        for place, value in zip(places, values.values()):
            text = "no videos" if value is None else f"{value:+.1f}" if signed else f"{value:.1f}"
            left = value is not None and value < 0
            panel.annotate(
                text,
                (value or 0.0, place),
                xytext=(-3 if left else 3, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                fontsize=8,
            )
        panel.set_yticks(places, [short(name) for name in values])
        panel.set_ylim(len(values) - 0.4, -0.6)
        panel.tick_params(axis="y", length=0)
        largest = max([abs(v) for v in numbers], default=0) or 1.0
        panel.set_xlim(-_BESIDE * largest if signed else 0, _BESIDE * largest if signed else 118)
        if signed:
            panel.axvline(0, color=INK, linewidth=0.8)
        panel.set_title(title, fontsize=9, loc="left")
    return picture_of(name, title, panel)


def picture_of(name: str, title: str, panel: Axes) -> Picture:
    """The picture of a figure of one panel."""
    figure = panel.get_figure(root=True)
    assert figure is not None
    return Picture(name, title, figure)


def panel_of(width: float, height: float) -> Axes:
    """An empty panel of some inches; what stands around it makes the figure larger."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
