"""How much each moment of a video weighs in a method's attention, as a run folder keeps it. No torch here.

attention.json, in the folder of a run whose method has attention over time (`adapt.attending` writes it):

    what      what the weights are
    epoch     the last one, whose networks they are of
    even      the weights if the method weighed all alike, one for each sampled frame, in their order
    domains   of the source's (if there are any) and the target's evaluation videos: their number, the mean
              and the deviation of the weights over them, and the weights of some single videos by id

The weights of a video sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapt.run_files import read_json
from store.errors import RunError, printable

FILE = "attention.json"


@dataclass(frozen=True, kw_only=True)
class DomainAttention:
    """Weights over the T sampled frames of a domain's evaluation videos."""

    domain: str
    source: bool
    """Whether it is the source."""
    videos: int
    mean_T: Sequence[float]
    deviation_T: Sequence[float]
    single: Mapping[str, Sequence[float]]
    """Some videos, by id."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What attention.json says."""

    what: str
    epoch: int
    even_T: Sequence[float]
    domains: Sequence[DomainAttention]


def read_attention(folder: Path) -> Attention | None:
    """Read a run's attention, None where its method has none or an older version trained it.

    Raises:
        RunError: the file is damaged.
    """
    if not (folder / FILE).exists():
        return None
    record = read_json(folder, FILE)
    try:
        even_T = _numbers(record["even"])
        found = Attention(
            what=str(record["what"]),
            epoch=int(record["epoch"]),
            even_T=even_T,
            domains=[_domain(row) for row in record["domains"]],
        )
        for row in found.domains:
            for weights_T in (row.mean_T, row.deviation_T, *row.single.values()):
                if len(weights_T) != len(even_T):
                    raise ValueError(f"{len(weights_T)} weights of {len(even_T)} frames")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            f"{printable(folder / FILE)} is damaged: {error!r}. Remove it: the run itself does not need "
            "it."
        ) from error
    return found


def _domain(row: Mapping[str, Any]) -> DomainAttention:
    return DomainAttention(
        domain=str(row["domain"]),
        source=bool(row["source"]),
        videos=int(row["videos"]),
        mean_T=_numbers(row["mean"]),
        deviation_T=_numbers(row["deviation"]),
        single={str(video): _numbers(weights) for video, weights in row["single"].items()},
    )


def _numbers(values: Sequence[Any]) -> list[float]:
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a weight is not finite")
    return numbers
