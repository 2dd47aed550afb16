"""The pictures of docs/results.md; both stand on white and are told apart by shape as well as by colour."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

STRENGTHS = ("gap-weak", "gap-medium", "gap-strong")
SHOWN = {
    "target-only": ("#000000", ":"),
    "ma2l-td": ("#0072b2", "-"),
    "infomax": ("#d55e00", "-"),
    "mcc": ("#cc79a7", "--"),
    "dann": ("#009e73", "-."),
    "adabn": ("#56b4e9", "--"),
    "source-only": ("#000000", "-"),
}
"""Colour and dashes of the methods that are named; the others are grey."""
MARKS = {"shared": ("o", "#0072b2"), "own": ("s", "#d55e00")}
OTHER_MARK = ("D", "#000000")


def _start() -> Any:
    import matplotlib
    from matplotlib import pyplot

    # Text stays text, and the same table gives the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "results", "font.size": 9}
    return pyplot


def _save(picture: Any, path: Path) -> None:
    from matplotlib import pyplot

    picture.savefig(path, facecolor="white", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(picture)


def draw_intervals(table: pd.DataFrame, path: Path) -> None:
    """Draw a panel per direction: mean over seeds (mark), its deviation (thick), and the interval (thin).

    Args:
        table: rows of `adapt.summary`, of one problem.
    """
    pyplot = _start()
    directions = list(dict.fromkeys(zip(table["source"], table["target"])))
    rows = table.groupby(["method", "preset"])["overall"].mean().sort_values()
    place = {row: number for number, row in enumerate(rows.index)}
    size = (4.6 * len(directions), 0.19 * len(rows) + 1)
    picture, panels = pyplot.subplots(1, len(directions), figsize=size, sharey=True, squeeze=False)
    for panel, (source, target) in zip(panels[0], directions):
        part = table[(table["source"] == source) & (table["target"] == target)]
        for _, row in part.iterrows():
            at = place[row["method"], row["preset"]]
            mark, colour = MARKS.get(row["preset"].partition(",")[0], OTHER_MARK)
            panel.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=0.7)
            if not math.isnan(row["deviation"]):
                ends = [row["overall"] - row["deviation"], row["overall"] + row["deviation"]]
                panel.plot(ends, [at, at], color=colour, linewidth=2.6, alpha=0.6)
            panel.plot(row["overall"], at, mark, color=colour, markersize=4.5)
        base = part[(part["method"] == "source-only") & (part["preset"] == "shared")]
        for value in base["overall"]:
            panel.axvline(value, color="black", linewidth=0.7, linestyle=(0, (3, 3)), zorder=0)
        panel.set_title(f"{source} → {target}", loc="left", fontsize=9)
        panel.set_xlabel("accuracy on the target, % (dashed: source only, shared)")
        panel.grid(axis="y", color="#e5e5e5", linewidth=0.5, zorder=-1)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_yticks(range(len(rows)), [f"{m} ({p})" for m, p in rows.index], fontsize=8)
    panels[0][0].set_ylim(-0.7, len(rows) - 0.3)
    _save(picture, path)


def draw_gaps(table: pd.DataFrame, path: Path) -> None:
    """Draw accuracy against the strength of the planted gap, a line per method.

    Args:
        table: rows of `adapt.summary` of the problems `STRENGTHS`. One preset of each method is drawn:
            `shared`, or `robust`, or the first one.
    """
    pyplot = _start()
    picture, panel = pyplot.subplots(figsize=(6.4, 4.2))
    ends: dict[str, float] = {}
    for method, part in table.groupby("method"):
        presets = list(dict.fromkeys(part["preset"]))
        preset = next((p for p in ("shared", "robust") if p in presets), presets[0])
        chosen = part[part["preset"] == preset].set_index("problem")["overall"]
        values = [chosen.get(problem, math.nan) for problem in STRENGTHS]
        colour, dashes = SHOWN.get(str(method), ("#bbbbbb", "-"))
        named = method in SHOWN
        panel.plot(values, color=colour, linestyle=dashes, linewidth=2 if named else 0.8)
        if named and not math.isnan(values[-1]):
            ends[str(method)] = values[-1]
    top = -math.inf
    for method, end in sorted(ends.items(), key=lambda item: item[1]):
        top = max(end, top + 4.5)
        panel.annotate(
            method,
            (len(STRENGTHS) - 0.97, top),
            color=SHOWN[method][0],
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )
    panel.set_xticks(range(len(STRENGTHS)), [name.removeprefix("gap-") for name in STRENGTHS])
    panel.set(xlabel="planted gap", ylabel="accuracy on the target, %", ylim=(0, 100))
    panel.spines[["top", "right"]].set_visible(False)
    _save(picture, path)
