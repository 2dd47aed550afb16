"""`store list`, `verify` and `prune`; the other commands of the group are added at the end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from commands.bar import MEGABYTE, CountProgress
from commands.compare import compare_command
from commands.exchange import store_import
from commands.exchange_export import store_export
from commands.options import DEVICE, FEATURES, MANIFESTS, QUIET, GivenPath, GivenText
from commands.progress import MoveProgress
from commands.remote import pull_command, push_command
from commands.reshape import merge_command, repack_command, subset_command
from commands.text import say
from extract.check_sources import nothing_to_compare, sources_in
from store.check import CHECKS, verify
from store.contents import Kind, Problem
from store.datasets import dataset_videos
from store.errors import ConfigError, StoreError, counted, first_of
from store.format import FAILURES, VIDEOS, read_records, shards_in
from store.inventory import Summary, some_store_folders, store_folders, summarise
from store.plain import size_of
from store.read import FeatureStore

EXAMPLES = 3
"""How many problems of each kind are shown."""
LARGEST_ERROR = 0.5
"""The error of a sampled video above which it differs from the store. With the same config rounding gives
0.06 at most, and other frames give 1 or more."""


@click.group("store")
def store_group() -> None:
    """List, check and compare feature stores, merge, cut and repack them, import, export and move them."""


@store_group.command("list")
@FEATURES
def store_list(features: Path) -> None:
    """List the feature stores: what they hold, how they were made, and whether they are complete.

    Damaged stores are listed too, and so are folders without an index, whose extraction has not finished
    a shard. Only tables and sizes are read here; `store verify` reads every byte.

    \b
    Example:
      python cli.py store list
    """
    for folder in store_folders(features):
        store = summarise(folder)
        say(f"{store.name}: {_contents(store)}")
        if store.index:
            config = store.index["config"]
            names = ("origin", "preset", "stride", "frames_per_video", "compute_dtype")
            made = [
                f"{name.replace('_', ' ')} {config[name]}" for name in names if config.get(name)
            ]
            weights = f"weights {store.index['run'].get('weights', 'unknown')}"
            say("  " + ", ".join([str(config.get("backbone")), weights, *made]))


def _contents(store: Summary) -> str:
    size = f"{store.bytes / 1e6:,.1f} MB"
    if not store.index:
        return f"{store.state}; {size}"
    totals = store.index["totals"]
    videos = (
        f"{counted(totals['stored'], 'video', of=totals['listed'])}, "
        f"{counted(totals['frames'], 'frame')}"
    )
    return f"{store.state}; {videos}, {size}"


@store_group.command("verify")
@click.argument("folder", metavar="DIR", type=GivenPath())
@click.option(
    "--videos",
    type=GivenPath(folder=True, present=True),
    multiple=True,
    help="Hash the source videos below this folder too. May be given several times.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Extract N random videos of each store again and compare; needs --videos.",
)
@click.option(
    "--weights",
    type=GivenText(),
    help="Where the weights are now, for --sample, if they have moved.",
)
@DEVICE
@QUIET
def store_verify(
    folder: Path, videos: tuple[Path, ...], sample: int, weights: str | None, device: str
) -> None:
    """Find every byte of a store that is not what was written, and all that contradicts itself.

    DIR is a store, the folder of a data set, or the folder of all features. The command checks the size
    and sha256 of every file, compares the tables with each other and with the shards, and checks the
    record, shape, crc32 and values of every video. It also names foreign files and leftovers of killed
    runs. If anything is wrong, the exit code is 1, and every kind of problem is listed with what to do.
    Videos that were never stored are no problem, and an extraction may go on meanwhile. An imported store
    records no source videos: --videos says so and checks the rest. With --sample the exit code is also 1
    if a video now has another number of frames, or an error of 0.5 or more, or cannot be made again.

    \b
    Example:
      python cli.py store verify features/ucf101
      python cli.py store verify features/ucf101 --videos /data/UCF-101
    """
    if sample and not videos:
        raise ConfigError("--sample extracts videos again: name their folder with --videos DIR.")
    bad = 0
    for store in some_store_folders(folder):
        unknown = nothing_to_compare(store) if videos else ""
        checks = [*CHECKS, sources_in(videos)] if videos and not unknown else CHECKS
        with CountProgress(
            store.name, _bytes_to_read(store, videos), "MB", scale=MEGABYTE
        ) as progress:
            problems = list(verify(store, checks, progress.add))
        bad += bool(problems)
        found = counted(len(problems), "problem") if problems else "no problem found"
        say(f"{store}: {found} ({_contents(summarise(store))})")
        for kind in Kind:
            _say_problems(kind, [problem for problem in problems if problem.kind is kind])
        if unknown:
            say(f"  {unknown}{' So none can be extracted again for --sample.' if sample else ''}")
            bad += bool(sample and not problems)
        elif sample and not problems:
            bad += not _say_sample(store, videos, sample, weights, device)
    if bad:
        sys.exit(1)


def _bytes_to_read(folder: Path, videos: Sequence[Path]) -> int:
    """About how many bytes `verify` reads: every shard twice, and the videos that a store was made of."""
    total = 2 * sum(size_of(path) or 0 for path in shards_in(folder))
    if videos:
        with contextlib.suppress(StoreError):  # verify says what is wrong with the table
            total += sum(row.source_bytes for row in read_records(folder / VIDEOS) if row.stored)
    return total


def _say_sample(
    folder: Path, videos: tuple[Path, ...], sample: int, weights: str | None, device: str
) -> bool:
    """Extract some videos again and print how they compare; return whether they are the same."""
    from extract.resample import resample

    with FeatureStore(folder) as store:
        if not store.records:
            raise StoreError(
                f"{folder} has no stored video to extract again. Run extract, or leave --sample out."
            )
        with CountProgress(folder.name, min(sample, len(store.records)), "videos") as progress:
            pairs = []
            for pair in resample(store, videos, sample, weights=weights, device=device):
                pairs.append(pair)
                progress.add()
        by_decord = {v for v, record in store.records.items() if record.decoder == "decord"}
        other = sum(pair.video in by_decord for pair in pairs)
    same = sum(pair.identical for pair in pairs)
    worst = max(pairs, key=lambda pair: pair.error)
    cosine = min(pair.cosine_min for pair in pairs)
    unlike = [pair.video for pair in pairs if pair.frames_a != pair.frames_b]
    say(
        f"  {len(pairs)} extracted again ({other} by PyAV where decord had read them): {same} equal to the "
        f"byte, largest error {worst.error:.2g} of the "
        f"variation between frames ({worst.video}), smallest cosine {cosine:.6f}"
    )
    if unlike:
        say(
            f"  {counted(len(unlike), 'video', 'has')} another number of frames now {first_of(unlike)}"
        )
    return not unlike and worst.error < LARGEST_ERROR


def _say_problems(kind: Kind, problems: Sequence[Problem]) -> None:
    if problems:
        say(f"  {len(problems):,} x {kind.label}. {kind.advice}")
        for problem in problems[:EXAMPLES]:
            say(f"    {problem}")
        if len(problems) > EXAMPLES:
            say(f"    and {len(problems) - EXAMPLES:,} more")


@store_group.command("prune")
@click.argument("folder", metavar="DIR", type=GivenPath())
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@MANIFESTS
@QUIET
def store_prune(folder: Path, dry_run: bool, root: Path) -> None:
    """Remove the features of videos that no benchmark lists any more.

    DIR is a store, the folder of a data set, or the folder of all features. Shards that hold such videos
    are written again without them; the other features keep every byte. A kill at any point loses nothing.

    \b
    Example:
      python cli.py store prune features/ucf101 --dry-run
    """
    from store.rewrite import drop_videos

    for path in some_store_folders(folder):
        with FeatureStore(path) as store:
            listed = dataset_videos(store.index["dataset"], root)
            stored = sorted(store.records.keys() - listed.keys())
            count = len(store.records)
        unlisted = {row.video for row in read_records(path / FAILURES)} - listed.keys()
        if stored and len(stored) == count:
            raise StoreError(
                f"None of the {counted(count, 'video')} stored in {path} is listed in {root} "
                f"{first_of(stored)}. "
                "Give the --manifests that list them, or delete the folder if it is no longer of use."
            )
        if stored and not root.is_dir():
            raise StoreError(
                f"{counted(len(stored), 'video', 'is', of=count, where=f'stored in {path}')} in "
                "no built-in benchmark "
                f"{first_of(stored)}, and the folder of your own, {root}, is not there. Name it with "
                "--manifests, or, if there are none any more, name an empty folder."
            )
        example = f" {first_of(stored)}" if stored else ""
        if dry_run:
            say(
                f"{path}: {counted(len(stored), 'stored video', 'is', of=count)} listed nowhere{example}"
            )
        else:
            gone = 0
            if stored or unlisted:
                with MoveProgress(path.name) as progress:
                    gone = drop_videos(path, {*stored, *unlisted}, on_progress=progress)
            say(f"{path}: {counted(gone, 'stored video', 'was', of=count)} removed{example}")


for _command in (
    *(compare_command, merge_command, subset_command, repack_command),
    *(store_import, store_export, push_command, pull_command),
):
    store_group.add_command(_command)
