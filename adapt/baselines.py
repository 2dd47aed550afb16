"""What stands beside a run's result, so that the result can be judged. No torch here.

baselines.json, in the folder of a run that was trained with --baselines (the default of `adapt`):

    config      the options of source only as it was trained along: those of the run that both methods
                read, without --input-coral, and the last epoch
    seconds     how long that took, predictions included
    rows        name -> what it is, its accuracies on the target's evaluation videos (null where the target
                has no labels, which has label-free scores instead), and the class of each video, by id
    left_out    name -> why there is no such row

Chance and majority need no file: they follow from the labels in predictions.csv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapt.accuracy import Accuracy
from adapt.run_files import read_json
from store.errors import RunError

FILE = "baselines.json"
SOURCE_ONLY, TARGET_STATISTICS = "source only", "source only, target's statistics"
ROWS: Mapping[str, str] = {
    SOURCE_ONLY: "encoder and classifier with the run's options, as far as source only reads them, trained "
    "on the source's labels alone and predicting with the running batch norm statistics of that training",
    TARGET_STATISTICS: "the same network, whose batch norms take the statistics of the target's training "
    "videos after training, without labels (AdaBN, Li et al. 2018)",
}
"""Name -> what it is."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A row beside the result."""

    name: str
    target_eval: Accuracy | None
    """None where the target has no labels."""
    predicted: Mapping[str, str]
    """The class of each of the target's evaluation videos, by id."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Label-free scores by the names of `adapt.rules`, where the target has no labels."""


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What baselines.json says."""

    rows: Sequence[Baseline] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def read_baselines(folder: Path) -> Baselines:
    """Read a run's baselines; there are none in a run that was trained without them.

    Raises:
        RunError: the file is damaged.
    """
    if not (folder / FILE).exists():
        return Baselines()
    record = read_json(folder, FILE)
    try:
        return Baselines(
            rows=[_row(name, row) for name, row in record["rows"].items()],
            left_out={str(name): str(reason) for name, reason in record["left_out"].items()},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            f"{folder / FILE} is damaged: {error!r}. Remove it: the run itself does not need it."
        ) from error


def _row(name: str, row: Mapping[str, Any]) -> Baseline:
    fields = row["target_eval"]
    return Baseline(
        name=name,
        target_eval=None if fields is None else Accuracy(**fields),
        predicted={str(video): str(label) for video, label in row["predicted"].items()},
        scores={score: float(value) for score, value in row.get("scores", {}).items()},
    )


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What a guess that looks at no video would have, in percent, overall and as the mean of the classes."""

    name: str
    overall: float
    class_mean: float


def guesses(truth: Sequence[str], classes: int) -> list[Guess]:
    """The most frequent class for every video, and guessing evenly; both read the labels or their number.

    Args:
        truth: the classes of the evaluation videos that have a label, at least one.
        classes: how many there are to choose from, N.
    """
    counts = Counter(truth)
    most = 100 * max(counts.values()) / len(truth)
    return [
        Guess(name="always the most frequent class", overall=most, class_mean=100 / len(counts)),
        Guess(name="guessing evenly", overall=100 / classes, class_mean=100 / classes),
    ]
