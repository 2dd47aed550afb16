"""How results are said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapt.config import AdaptConfig
from commands.text import say
from commands.training import method_and_preset

if TYPE_CHECKING:
    from adapt.accuracy import Accuracy
    from adapt.study import Seeds


def say_accuracy(config: AdaptConfig, result: Accuracy, folder: Path) -> None:
    """Print the accuracy of one run."""
    from adapt.runs import SELECTION

    say(
        f"{config.source} -> {config.target} ({config.benchmark}), {method_and_preset(config)}, "
        f"seed {config.seed}, {SELECTION}\n"
        f"  {result.videos} target evaluation videos: overall {result.overall:.2f} % "
        f"(95 % interval {result.low:.1f} to {result.high:.1f}), class mean {result.class_mean:.2f} %\n"
        f"  run folder: {folder}"
    )


def say_seeds(config: AdaptConfig, summary: Seeds, folder: Path) -> None:
    """Print mean, deviation and each accuracy of several seeds."""
    from adapt.runs import SELECTION
    from adapt.study import deviation, mean

    videos = summary.results[0].videos
    say(
        f"{config.source} -> {config.target} ({config.benchmark}), {method_and_preset(config)}, "
        f"{len(summary.seeds)} seeds, {SELECTION}, {videos} target evaluation videos"
    )
    for name, values in (("overall", summary.overall), ("class mean", summary.class_mean)):
        spread = deviation(values)
        plus = "" if spread is None else f", deviation {spread:.2f}"
        each = ", ".join(f"{seed}: {value:.2f}" for seed, value in zip(summary.seeds, values))
        say(f"  {name}: mean {mean(values):.2f} %{plus} ({each})")
    say(f"  run folders: {folder}")
