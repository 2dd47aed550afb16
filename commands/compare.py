"""`store compare`."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from commands.bar import CountProgress
from commands.options import QUIET, GivenPath, GivenText
from commands.text import say
from store.causes import cause_of
from store.compare import Pair, compare
from store.errors import counted, first_of, printable
from store.format import config_differences
from store.read import FeatureStore

RUN_FACTS = ("weights", "device", "torch", "torchvision")
"""The entries of a store's run block that may explain a difference."""

LOOKED_AT = 5
"""Of how many videos that differ the likely cause is looked for."""


def _finite(ctx: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not finite, and no comparison with it could fail.")
    return value


@click.command("compare")
@click.argument("a", type=GivenPath())
@click.argument("b", type=GivenPath())
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    callback=_finite,
    default=0.0,
    show_default="0, equal bytes",
    help="Largest error of a video that still counts as the same.",
)
@click.option(
    "--show",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="List the N videos that differ most.",
)
@click.option("--allow-missing", is_flag=True, help="Judge only the videos that both stores have.")
@click.option(
    "--videos",
    "roots",
    type=GivenPath(folder=True, present=True),
    multiple=True,
    help="Where features differ, find one of the videos below this folder and extract it in several ways.",
)
@click.option(
    "--weights",
    type=GivenText(),
    help="Where the weights are now, for --videos, if they have moved.",
)
@QUIET
def compare_command(
    a: Path,
    b: Path,
    tolerance: float,
    show: int,
    allow_missing: bool,
    roots: tuple[Path, ...],
    weights: str | None,
) -> None:
    """Compare the features of two stores video by video: the same frames, the same values?

    A high cosine proves little, because the features of any two frames are similar (0.9975 and more on an
    untrained network). So the error is relative to the variation between the frames of a video:
    ||a - b|| / ||b - mean(b)||. The exit code is 0 if both stores have the same config and the same
    videos, and every video has the same number of frames and either equal bytes or an error within
    --tolerance. Otherwise it is 1.

    Where features differ, the likely cause is named: other frames (shifted, every k-th), another scale,
    rounding, other pixels, or other weights. With --videos one of the videos is extracted again with BGR
    channels, other presets, pixels normalised otherwise and other number types, to find which of them each
    store was made with.

    \b
    Example:
      python cli.py store compare features/ucf101/resnet101-1a2b3c4d /mnt/ucf101/resnet101-1a2b3c4d
      python cli.py store compare A B --videos /data/UCF-101
    """
    with FeatureStore(a) as mine, FeatureStore(b) as yours:
        same_config = mine.config == yours.config
        differences = config_differences(mine.config, yours.config)
        say("configs: the same" if same_config else f"configs differ: {differences}")
        runs = [
            {k: str(v) for k, v in s.index["run"].items() if k in RUN_FACTS} for s in (mine, yours)
        ]
        if runs[0] != runs[1]:
            say(f"made with: {config_differences(*runs)}")
        lonely = [sorted(mine.records.keys() - yours.records.keys())]
        lonely += [sorted(yours.records.keys() - mine.records.keys())]
        both = len(mine.records.keys() & yours.records.keys())
        say(f"videos: {both:,} in both")
        for name, videos in zip("AB", lonely):
            if videos:
                say(f"  {len(videos):,} only in {name} {first_of(videos)}")
        with CountProgress("compare", both, "videos") as progress:
            pairs = []
            for pair in compare(mine, yours):
                pairs.append(pair)
                progress.add()
        alike = _say_pairs(pairs, tolerance, show)
        if not alike:
            unlike = _unlike(pairs, tolerance)
            _say_likely_causes(mine, yours, unlike)
            if not roots:
                say("To try causes on one of the videos: add --videos DIR")
            else:
                _say_tried(mine, yours, unlike, roots, weights)
    if not (same_config and pairs and alike and (allow_missing or not any(lonely))):
        sys.exit(1)


def _unlike(pairs: Sequence[Pair], tolerance: float) -> list[str]:
    """Return the videos that are not the same, those with the least frames first."""
    unlike = [
        pair
        for pair in pairs
        if not pair.identical and (pair.frames_a != pair.frames_b or not pair.error <= tolerance)
    ]
    unlike.sort(key=lambda pair: min(pair.frames_a, pair.frames_b))
    return [pair.video for pair in unlike]


def _say_likely_causes(mine: FeatureStore, yours: FeatureStore, videos: Sequence[str]) -> None:
    """Print what the differences of some videos look like, the most frequent first."""
    step = max(1, len(videos) // LOOKED_AT)
    looked = videos[::step][-LOOKED_AT:]
    causes = [cause_of(mine.read(video), yours.read(video)) for video in looked]
    for kind, count in Counter(cause.kind for cause in causes).most_common():
        text = next(cause.text for cause in causes if cause.kind == kind)
        say(f"likely cause in {counted(count, 'video', of=len(looked))} looked at: {kind}: {text}")


def _say_tried(
    mine: FeatureStore,
    yours: FeatureStore,
    videos: Sequence[str],
    roots: Sequence[Path],
    weights: str | None,
) -> None:
    """Print which way of extracting one video gives the features of each store."""
    from extract.causes import find_causes

    video, findings = find_causes((mine, yours), videos, roots, weights)
    say(f"{printable(video)} extracted again in several ways:")
    for name, found in zip("AB", findings):
        best, recorded = found.best, found.recorded
        shift = f", shifted by {counted(best.lag, 'frame')}" if best.lag else ""
        if not found.explained:
            say(
                f"  {name}: none of the ways gives its features (nearest: {best.name}{shift}, error "
                f"{best.error:.2g}): other weights, other frames or another program"
            )
        elif best is recorded:
            say(f"  {name}: {best.name}{shift} (error {best.error:.2g})")
        else:
            say(
                f"  {name}: {best.name}{shift} (error {best.error:.2g}; {recorded.name}: "
                f"{recorded.error:.2g})"
            )


def _say_pairs(pairs: Sequence[Pair], tolerance: float, show: int) -> bool:
    """Print the comparison; return whether all videos are the same within the tolerance."""
    unequal = [pair for pair in pairs if not pair.identical]
    unequal.sort(key=lambda pair: (pair.frames_a == pair.frames_b, -pair.error, pair.cosine_min))
    if unequal[:show]:
        say(f"{'frames A':>9} {'frames B':>9} {'min cosine':>11} {'mean':>9} {'error':>9}  video")
    for p in unequal[:show]:
        say(
            f"{p.frames_a:>9,} {p.frames_b:>9,} {p.cosine_min:>11.6f} {p.cosine_mean:>9.6f} "
            f"{p.error:>9.2e}  {p.video}"
        )
    other_count = [pair for pair in unequal if pair.frames_a != pair.frames_b]
    beyond = [p for p in unequal if p.frames_a == p.frames_b and not p.error <= tolerance]
    within = len(unequal) - len(other_count) - len(beyond)
    counts = {
        f"an error within {tolerance:g}": within,
        f"an error above {tolerance:g}": len(beyond),
        "another number of frames": len(other_count),
    }
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    equal = f"{counted(len(pairs) - len(unequal), 'video', 'has', of=len(pairs))} equal bytes"
    say(", ".join([equal, *parts]))
    if pairs:
        say(
            f"largest error {max(pair.error for pair in pairs):.2e}, "
            f"smallest cosine {min(pair.cosine_min for pair in pairs):.6f}"
        )
    return len(unequal) == within
