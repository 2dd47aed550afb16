"""The numbers of a benchmark's table: rows of methods, columns of directions, comparisons of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adapt.accuracy import wilson
from adapt.config import AdaptConfig
from adapt.outcomes import Outcome
from adapt.paired import bootstrap_interval, holm, sign_flip
from adapt.published import BASELINE, Direction
from adapt.study import deviation, mean
from store.errors import RunError

Row = tuple[str, str]
"""Method and preset."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The seeds of a row in a direction; accuracies in percent.

    Attributes:
        outcomes: one for each seed that finished.
        deviations: sample deviations over the seeds, None with a single one.
        low, high: 95 % Wilson interval of the mean over seeds, for the number of evaluation videos. It is
            that of a single run for one seed, and for several never narrower than videos alone leave open.
    """

    outcomes: Sequence[Outcome]
    overall: float
    overall_deviation: float | None
    class_mean: float
    class_mean_deviation: float | None
    low: float
    high: float

    @staticmethod
    def of(outcomes: Sequence[Outcome]) -> Cell:
        """The cell of some seeds, at least one.

        Raises:
            RunError: they were not evaluated on the same videos.
        """
        _check_same_videos(outcomes)
        overall = [o.accuracy.overall for o in outcomes]
        class_mean = [o.accuracy.class_mean for o in outcomes]
        videos = outcomes[0].accuracy.videos
        low, high = wilson(mean(overall) / 100 * videos, videos)
        return Cell(
            outcomes=outcomes,
            overall=mean(overall),
            overall_deviation=deviation(overall),
            class_mean=mean(class_mean),
            class_mean_deviation=deviation(class_mean),
            low=100 * low,
            high=100 * high,
        )

    @property
    def reads_target_labels(self) -> bool:
        """Whether any of its runs read them."""
        return any(o.reads_target_labels for o in self.outcomes)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A row against another on the same videos; differences in points.

    Attributes:
        seeds: how many seeds both have; the comparison is over these.
        low, high: 95 % interval of the difference, by resampling videos.
        p: of no difference, see `adapt.paired.sign_flip`; corrected: by Holm's method over all
            comparisons of the same kind in the table.
    """

    other: Row
    seeds: int
    difference: float
    low: float
    high: float
    p: float
    corrected: float


@dataclass(frozen=True, kw_only=True)
class Scoreboard:
    """All numbers of the table.

    Attributes:
        cells: of rows and directions that have a finished run.
        best: of each direction the row with the highest accuracy among those that read no target label.
        against_baseline, against_best: of rows that have one to be compared with.
    """

    directions: Sequence[Direction]
    rows: Sequence[Row]
    seeds: Sequence[int]
    cells: dict[tuple[Row, Direction], Cell]
    best: dict[Direction, Row]
    against_baseline: dict[tuple[Row, Direction], Comparison]
    against_best: dict[tuple[Row, Direction], Comparison]


def scoreboard(
    directions: Sequence[Direction],
    configs: Mapping[Row, AdaptConfig],
    seeds: Sequence[int],
    outcomes: Sequence[Outcome],
) -> Scoreboard:
    """Gather runs into cells and compare the rows.

    Args:
        configs: of every row one of its runs' configs, in the order of the table.

    Raises:
        RunError: runs of one direction were evaluated on different videos.
    """
    rows = list(configs)
    groups: dict[tuple[Row, Direction], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.job.row, outcome.job.direction), []).append(outcome)
    for direction in directions:
        _check_same_videos([o for o in outcomes if o.job.direction == direction])
    cells = {key: Cell.of(found) for key, found in groups.items()}
    best: dict[Direction, Row] = {}
    for direction in directions:
        fair = [r for r in rows if (r, direction) in cells]
        fair = [r for r in fair if not cells[r, direction].reads_target_labels]
        if fair:
            best[direction] = max(fair, key=lambda r, d=direction: cells[r, d].overall)  # type: ignore[misc]
    baselines = baselines_of(configs)
    return Scoreboard(
        directions=directions,
        rows=rows,
        seeds=seeds,
        cells=cells,
        best=best,
        against_baseline=_compared(cells, {key: baselines.get(key[0]) for key in cells}),
        against_best=_compared(cells, {key: best.get(key[1]) for key in cells}),
    )


def baselines_of(configs: Mapping[Row, AdaptConfig]) -> dict[Row, Row]:
    """For every row the row of source only whose options agree most with its own, the first of equals.

    So methods with their authors' settings are compared with source only trained in that way, where the
    plan has it. Empty where it has no source only at all.
    """
    values = {row: config.as_dict() for row, config in configs.items()}
    standing = [row for row in configs if row[0] == BASELINE]

    def agreeing(row: Row, other: Row) -> int:
        mine = values[row]
        return sum(mine[name] == value for name, value in values[other].items() if name in mine)

    if not standing:
        return {}
    return {row: max(standing, key=lambda o, row=row: agreeing(row, o)) for row in configs}  # type: ignore[misc]


def _compared(
    cells: dict[tuple[Row, Direction], Cell], others: dict[tuple[Row, Direction], Row | None]
) -> dict[tuple[Row, Direction], Comparison]:
    pairs: dict[tuple[Row, Direction], tuple[Row, int, np.ndarray]] = {}
    for (row, direction), other in others.items():
        if other is None or other == row or (other, direction) not in cells:
            continue
        mine, theirs = (_by_seed(cells[r, direction]) for r in (row, other))
        both = mine.keys() & theirs.keys()
        if both:
            differences_V = sum(mine[seed] - theirs[seed] for seed in sorted(both))
            pairs[row, direction] = (other, len(both), np.asarray(differences_V))
    p_values = [sign_flip(differences_V) for _, _, differences_V in pairs.values()]
    found = {}
    for (key, (other, seeds, differences_V)), p, corrected in zip(
        pairs.items(), p_values, holm(p_values)
    ):
        low, high = bootstrap_interval(100 * differences_V / seeds)
        found[key] = Comparison(
            other=other,
            seeds=seeds,
            difference=100 * float(differences_V.mean()) / seeds,
            low=low,
            high=high,
            p=p,
            corrected=corrected,
        )
    return found


def _by_seed(cell: Cell) -> dict[int, np.ndarray]:
    return {outcome.job.config.seed: outcome.right_V for outcome in cell.outcomes}


def _check_same_videos(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.videos != outcomes[0].videos:
            raise RunError(
                f"{outcome.job.folder} and {outcomes[0].job.folder} were evaluated on different videos, "
                "so they cannot be compared. Remove one of them, then run the same command again."
            )
