"""How results are said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.config import AdaptConfig
from adapt.rules import CHOICES, RULES, selection_of
from commands.text import say
from commands.training import method_and_preset
from store.errors import counted, printable

if TYPE_CHECKING:
    from adapt.accuracy import Accuracy
    from adapt.details import Details
    from adapt.study import Seeds


def say_accuracy(
    config: AdaptConfig, result: Accuracy | None, predicted: Mapping[str, int], folder: Path
) -> None:
    """Print the accuracy of one run; where its target came without labels, what was predicted too.

    Args:
        result: None where no video has a label.
        predicted: how many videos got each class.
    """
    say(
        f"{config.source} -> {config.target} ({config.lists}), {method_and_preset(config)}, "
        f"seed {config.seed}, {selection_of(config.select)}{_bound(config)}"
    )
    if result is None:
        say(
            f"  no accuracy, because none of {counted(sum(predicted.values()), 'target video')} has a label"
        )
    else:
        say(
            f"  {result.what}: overall {result.overall:.2f} % (95 % interval {result.low:.1f} to "
            f"{result.high:.1f}), class mean {result.class_mean:.2f} %"
        )
    if result is None or result.transductive:
        say(
            f"  predicted for {counted(sum(predicted.values()), 'target video')}: {counts_text(predicted)}"
        )
        say(f"  predictions: {folder / 'predictions.csv'}")
    say(f"  run folder: {folder}")


def counts_text(predicted: Mapping[str, int]) -> str:
    """How many videos got each class, the most frequent first."""
    ordered = sorted(predicted.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {count}" for name, count in ordered)


def say_details(found: Details, *, every_class: bool) -> None:
    """Print what stands beside an accuracy."""
    say(
        f"  guessing evenly {found.chance:.2f} %, always the most frequent class {found.majority:.2f} % "
        "(known from the labels)"
    )
    top = [f"{k} most probable {share:.2f} %" for k, share in found.top.items() if k > 1]
    if top:
        say(f"  the right class is among the {', among the '.join(top)}")
    say(
        f"  calibration: the mean confidence is {found.mean_confidence:.2f} %, the expected calibration "
        f"error {found.calibration_error:.2f} points"
    )
    if not every_class:
        return
    width = max(len(printable(name)) for name in ("class", *(one.name for one in found.classes)))
    say(f"  {'class':<{width}}  videos  recall  precision  mostly taken for")
    for one in found.classes:
        shares = ("-" if share is None else f"{share:.1f}" for share in (one.recall, one.precision))
        recall, precision = shares
        say(
            f"  {printable(one.name):<{width}}  {one.videos:>6}  {recall:>6}  {precision:>9}  "
            f"{printable(one.mistaken_for or '')}".rstrip()
        )


def _bound(config: AdaptConfig) -> str:
    from adapt import methods

    if methods.find(config.method).reads_target_labels:
        return ", TRAINED ON THE TARGET'S LABELS: a bound, not adaptation"
    return ""


def say_rules(config: AdaptConfig, found: Sequence[Mapping[str, Mapping[str, float]]]) -> None:
    """Print which epoch each rule would have chosen, and what accuracy that had; the mean over runs.

    Args:
        found: of each run `adapt.run_files.Done.rules`.
    """
    from adapt.study import mean

    names = [name for name in CHOICES if all("overall" in rules.get(name, {}) for rules in found)]
    if len(names) < 2 or {rules[name]["epoch"] for rules in found for name in names} == {1}:
        return
    say("  the epoch that each rule (--select) takes, and its accuracy:")
    for name in names:
        epochs = ", ".join(f"{rules[name]['epoch']:.0f}" for rules in found)
        overall = mean([rules[name]["overall"] for rules in found])
        notes = ["chosen"] if name == config.select else []
        if name in RULES and RULES[name].reads_target_labels:
            notes.append("reads the target's labels")
        note = f"  ({'; '.join(notes)})" if notes else ""
        say(f"    {name:<11} {overall:6.2f} %  epoch {epochs}{note}")


def say_seeds(
    config: AdaptConfig, summary: Seeds, predicted: Sequence[Mapping[str, int]], folder: Path
) -> None:
    """Print mean, deviation and each accuracy of several seeds.

    Args:
        predicted: of each run, how many videos got each class.
    """
    from adapt.study import deviation, mean

    known = summary.known
    what = known[0].what if known else "no accuracy, because no target video has a label"
    say(
        f"{config.source} -> {config.target} ({config.lists}), {method_and_preset(config)}, "
        f"{counted(len(summary.seeds), 'seed')}, {selection_of(config.select)}, {what}{_bound(config)}"
    )
    if not known or known[0].transductive:
        for seed, counts in zip(summary.seeds, predicted, strict=True):
            say(f"  seed {seed} predicted: {counts_text(counts)}")
    named = (("overall", summary.overall), ("class mean", summary.class_mean))
    for name, values in named if known else ():
        spread = deviation(values)
        plus = "" if spread is None else f", deviation {spread:.2f}"
        each = ", ".join(f"{seed}: {value:.2f}" for seed, value in zip(summary.seeds, values))
        say(f"  {name}: mean {mean(values):.2f} %{plus} ({each})")
    say(f"  run folders: {folder}")
