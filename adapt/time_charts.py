"""Pictures of attention over time: the means of both domains, and single videos as rows.

Time is the share of a video that has passed; a sampled frame stands at the centre of its segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapt.attention import Attention, DomainAttention
from adapt.charts import panel_of, picture_of
from adapt.pictures import COLOURS, INK, Picture, drawing, short

_MORE, _LESS = COLOURS[0], COLOURS[1]
_DARKEST = 0.9
MOST_CELLS = 3000
"""Of the picture of single videos; with more frames it shows fewer videos."""


def means(found: Attention) -> Picture:
    """Draw the mean weights of each domain, a band of one deviation, and what even weights would be."""
    at_T = _centres(len(found.even_T))
    with drawing():
        panel = panel_of(3.5, 2.3)
        for number, row in enumerate(found.domains):
            colour = COLOURS[number % len(COLOURS)]
            low = [100 * (m - d) for m, d in zip(row.mean_T, row.deviation_T)]
            high = [100 * (m + d) for m, d in zip(row.mean_T, row.deviation_T)]
            panel.fill_between(at_T, low, high, color=colour, alpha=0.2, linewidth=0)
            panel.plot(
                at_T,
                [100 * m for m in row.mean_T],
                label=f"{'source' if row.source else 'target'}: {short(row.domain)}",
                color=colour,
                linestyle=("-", "--")[number % 2],
                marker="o" if len(at_T) <= 12 else None,
                markersize=3,
            )
        even = [100 * weight for weight in found.even_T]
        panel.plot(at_T, even, label="even", color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        panel.set_title("weight of each moment, %", fontsize=9, loc="left")
        panel.set_xlabel("share of the video")
        panel.set_xlim(0, 1)
        panel.legend(fontsize=8)
    return picture_of(
        "attention-mean", "Weight of each moment, mean over the evaluation videos", panel
    )


def singles(row: DomainAttention, even_T: Sequence[float]) -> Picture:
    """Draw single videos of a domain as rows: blue where a moment weighs more than evenly, orange less.

    The fullest colour is the largest difference from the even weight in this picture, as a share of it.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    T = len(even_T)
    videos = shown(row.single, T)
    more_VT = [
        [weight / even - 1 if even else 0.0 for weight, even in zip(weights_T, even_T)]
        for weights_T in videos.values()
    ]
    largest = max((abs(more) for more_T in more_VT for more in more_T), default=0.0)
    boxes, colours = [], []
    for place, more_T in enumerate(more_VT):
        for t, more in enumerate(more_T):
            boxes.append(Rectangle((t / T, place - 0.5), 1 / T, 1))
            share = abs(more) / largest if largest else 0.0
            colours.append(to_rgba(_MORE if more > 0 else _LESS, _DARKEST * share))
    role = "source" if row.source else "target"
    with drawing():
        panel = panel_of(3.0, 0.3 + 0.17 * len(videos))
        panel.add_collection(PatchCollection(boxes, facecolors=colours, edgecolors="none"))
        panel.set(xlim=(0, 1), ylim=(len(videos) - 0.5, -0.5))
        panel.set_xlabel(f"share of the video (fullest: {100 * largest:.3g} % off)")
        panel.set_yticks(range(len(videos)), [short(video) for video in videos], fontsize=7)
        panel.tick_params(axis="y", length=0)
        panel.set_title(f"{role}: {short(row.domain)}, single videos", fontsize=9, loc="left")
    title = f"Weight of each moment of single videos of the {role}, {short(row.domain)}"
    return picture_of(f"attention-{role}", title, panel)


def shown(single: Mapping[str, Sequence[float]], frames: int) -> dict[str, Sequence[float]]:
    """The videos that a picture has room for, the first of them."""
    return dict(list(single.items())[: max(1, MOST_CELLS // frames)])


def _centres(frames: int) -> list[float]:
    return [(t + 0.5) / frames for t in range(frames)]
