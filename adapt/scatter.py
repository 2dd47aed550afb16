"""The picture of a report that shows videos as points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapt.charts import panel_of, picture_of
from adapt.pictures import COLOURS, INK, Picture, drawing, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHAPES = "osD^vPX*<>ph"
"""Where there are more classes than colours, every round through the colours has a shape of its own."""
_FEW = len(COLOURS)


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
        panel = panel_of(3.7, 3.4)
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
    return picture_of(name, title, panel)


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
