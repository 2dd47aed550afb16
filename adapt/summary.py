"""summary.csv of a benchmark: what its tables show, one line per row and direction, for programs to read."""

from __future__ import annotations

import csv
import io
import statistics
from typing import Any

from adapt.published import Direction
from adapt.scoreboard import Cell, Comparison, Row, Scoreboard

COLUMNS = (
    *("method", "preset", "source", "target", "seeds", "videos"),
    *("overall", "deviation", "low", "high", "class_mean", "class_mean_deviation"),
    *("baseline", "difference", "difference_low", "difference_high", "p", "corrected"),
    *("best", "seconds", "parameters", "selection", "reads_target_labels", "transductive"),
)
"""Accuracies in percent and differences in points. `baseline`: method and preset that `difference` is
against, empty where there is none; `p` and `corrected` as in `adapt.scoreboard.Comparison`. `best`: whether
the row has the highest accuracy of its direction among those that read no target label. `seconds`: median
over the seeds. `transductive`: whether the videos were in training too, without labels."""


def summary_csv(scores: Scoreboard) -> str:
    """The text of summary.csv; rows and directions that have no finished run are left out."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for direction in scores.directions:
        for row in scores.rows:
            cell = scores.cells.get((row, direction))
            if cell is not None:
                best = scores.best.get(direction) == row
                compared = scores.against_baseline.get((row, direction))
                writer.writerow(_line(row, direction, cell, compared, best))
    return out.getvalue()


def _line(
    row: Row, direction: Direction, cell: Cell, compared: Comparison | None, best: bool
) -> dict[str, Any]:
    first = cell.outcomes[0]
    line: dict[str, Any] = {
        **dict(zip(COLUMNS, (*row, *direction))),
        "seeds": len(cell.outcomes),
        "videos": first.accuracy.videos,
        "overall": round(cell.overall, 4),
        "low": round(cell.low, 4),
        "high": round(cell.high, 4),
        "class_mean": round(cell.class_mean, 4),
        "best": "yes" if best else "no",
        "seconds": round(statistics.median(o.seconds for o in cell.outcomes), 2),
        "parameters": first.parameters[0],
        "selection": first.selection,
        "reads_target_labels": "yes" if cell.reads_target_labels else "no",
        "transductive": "yes" if first.accuracy.transductive else "no",
    }
    if cell.overall_deviation is not None and cell.class_mean_deviation is not None:
        line["deviation"] = round(cell.overall_deviation, 4)
        line["class_mean_deviation"] = round(cell.class_mean_deviation, 4)
    if compared is not None:
        line |= {
            "baseline": " ".join(compared.other),
            "difference": round(compared.difference, 4),
            "difference_low": round(compared.low, 4),
            "difference_high": round(compared.high, 4),
            "p": f"{compared.p:.3g}",
            "corrected": f"{compared.corrected:.3g}",
        }
    return line
