"""The pictures of a report: curves, confusion matrix, accuracy per class, videos as points.

Every function draws within `adapt.pictures.drawing`. Sizes are in inches; nothing is wider than a phone
shows at its natural size unless there are many classes, and then the page scrolls it sideways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapt.pictures import COLOURS, INK, Picture, drawing, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHAPES = "osD^vPX*<>ph"
"""Where there are more classes than colours, every round through the colours has a shape of its own."""
_FEW = len(COLOURS)
_RIGHT, _WRONG = COLOURS[0], COLOURS[1]
_DARKEST = 0.6
"""Opacity of a full cell: text in the page's ink can be read on it, on a light and on a dark page."""


def curve(
    name: str, title: str, lines: Mapping[str, Mapping[int, float]], chosen: int, *, below: str = ""
) -> Picture:
    """Draw values over epochs, with a mark at the epoch that was chosen.

    Args:
        lines: label -> epoch -> value; values that are not finite are gaps.
        below: a remark under the title.
    """
    with drawing():
        panel = _panel(3.5, 2.3)
        figure = panel.figure
        styles = ("-", "--", ":", "-.")
        for number, (label, values) in enumerate(lines.items()):
            finite = {e: v if math.isfinite(v) else math.nan for e, v in values.items()}
            panel.plot(
                list(finite),
                list(finite.values()),
                label=short(label),
                color=COLOURS[number % _FEW],
                linestyle=styles[number % len(styles)],
                marker="o" if len(finite) <= 12 else None,
                markersize=3,
            )
        panel.axvline(chosen, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        panel.set_title(title if not below else f"{title}\n{below}", fontsize=9, loc="left")
        panel.set_xlabel(f"epoch (dotted: chosen, {chosen})")
        panel.locator_params(axis="x", integer=True)
        panel.ticklabel_format(axis="y", useOffset=False)
        if len(lines) > 1:
            panel.legend(fontsize=8)
    return Picture(name, f"{title}, over the epochs", figure)  # type: ignore[arg-type]


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
        panel = _panel(side, side)
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
    return Picture("confusion", title, panel.figure)  # type: ignore[arg-type]


def class_bars(
    name: str, title: str, values: Mapping[str, float | None], *, signed: bool = False
) -> Picture:
    """Draw one bar per class with its value beside it; no bar where it is None.

    Args:
        values: in percent, or in points where `signed`: blue above zero, orange below.
    """
    with drawing():
        panel = _panel(2.6, 0.5 + 0.24 * len(values))
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
        panel.set_xlim(-1.35 * largest if signed else 0, 1.35 * largest if signed else 118)
        if signed:
            panel.axvline(0, color=INK, linewidth=0.8)
        panel.set_title(title, fontsize=9, loc="left")
    return Picture(name, title, panel.figure)  # type: ignore[arg-type]


def points(
    name: str,
    title: str,
    points_V2: NDArray[np.float64],
    *,
    source: int,
    class_V: Sequence[int | None],
    classes: Sequence[str],
    domains: tuple[str, str],
) -> Picture:
    """Draw videos as points: the colour, and beyond six classes the shape too, is the class.

    Source videos are hollow circles, or hollow, and target videos filled triangles, or filled.

    Args:
        source: how many of the first points are source videos.
        class_V: None is drawn in the page's ink.
    """
    with drawing():
        panel = _panel(3.7, 3.4)
        panel.set(xticks=[], yticks=[])
        panel.spines[["top", "right"]].set_visible(True)
        panel.set_title(title, fontsize=9, loc="left")
        for part, hollow in ((slice(0, source), True), (slice(source, None), False)):
            for one in sorted({-1 if c is None else c for c in class_V[part]}):
                these = [i for i, c in enumerate(class_V) if (-1 if c is None else c) == one]
                inside = range(*part.indices(len(class_V)))
                picked_2 = points_V2[[i for i in these if i in inside]]
                panel.scatter(*picked_2.T, **_mark(one, hollow, len(classes)))
        if len(classes) > _FEW:
            _number_classes(panel, points_V2, source, class_V)
        _legend(panel, classes, {c for c in class_V if c is not None}, None in class_V, domains)
    return Picture(name, title, panel.figure)  # type: ignore[arg-type]


def _mark(one: int, hollow: bool, classes: int) -> dict[str, Any]:
    colour = INK if one < 0 else COLOURS[one % _FEW]
    by_domain = "o" if hollow or classes > _FEW else "^"
    by_class = _SHAPES[one // _FEW % len(_SHAPES)]
    shape = by_domain if classes <= _FEW or one < 0 else by_class
    return {
        "marker": shape,
        "s": 20,
        "facecolors": "none" if hollow else colour,
        "edgecolors": colour,
        "linewidths": 0.9,
        "alpha": 0.85,
    }


def _number_classes(
    panel: Axes, points_V2: NDArray[np.float64], source: int, class_V: Sequence[int | None]
) -> None:
    """Write the number of each class above the median of its target videos."""
    for one in sorted({c for c in class_V[source:] if c is not None}):
        members = [i for i, c in enumerate(class_V) if c == one and i >= source]
        x, y = np.median(points_V2[members], axis=0).tolist()
        panel.annotate(
            str(one + 1),
            (x, y),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )


def _legend(
    panel: Axes,
    classes: Sequence[str],
    there: set[int],
    unknown: bool,
    domains: tuple[str, str],
) -> None:
    """Name domains and classes below the panel."""
    from matplotlib.lines import Line2D

    def entry(mark: dict[str, Any], label: str) -> Line2D:
        face, edge = mark["facecolors"], mark["edgecolors"]
        return Line2D(
            *([], []),
            linestyle="none",
            marker=mark["marker"],
            markersize=5,
            markerfacecolor=face,
            markeredgecolor=edge,
            label=label,
        )

    many = len(classes) > _FEW
    numbers = [f"{one + 1} " if many else "" for one in range(len(classes))]
    handles = [
        entry(_mark(-1, hollow, len(classes)), short(domain))
        for domain, hollow in zip(domains, (True, False))
        if domain
    ]
    handles += [
        entry(_mark(one, False, len(classes)), numbers[one] + short(classes[one], 18))
        for one in sorted(there)
    ]
    if unknown:
        handles.append(entry(_mark(-1, False, len(classes)), "class unknown"))
    widest = max(len(str(handle.get_label())) for handle in handles)
    panel.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, -0.02),
        ncols=max(1, min(3, 52 // (widest + 4))),
        fontsize=8,
        handletextpad=0.2,
    )


def _panel(width: float, height: float) -> Axes:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
