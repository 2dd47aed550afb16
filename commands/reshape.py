"""`store merge`, `subset` and `repack`."""

from __future__ import annotations

from pathlib import Path

import click

from commands.options import MANIFESTS, QUIET, GivenPath, GivenText
from commands.progress import MoveProgress
from commands.text import say
from extract.videos import VIDEO_SUFFIXES
from store.datasets import manifests_of
from store.errors import ConfigError, ManifestError, counted, shortened
from store.ids import near_ids
from store.inventory import some_store_folders
from store.merge import Written, merge, subset
from store.read import FeatureStore
from store.rewrite import repack
from store.video_lists import match, read_ids

OUT = click.option(
    "--out",
    type=GivenPath(folder=True),
    required=True,
    help="Folder of feature stores, as --features of extract; the store gets its usual place in it.",
)


@click.command("merge")
@click.argument("folders", metavar="A B...", type=GivenPath(folder=True), nargs=-1, required=True)
@OUT
@QUIET
def merge_command(folders: tuple[Path, ...], out: Path) -> None:
    """Make one store of several of the same data set, made with the same config.

    A video that several stores have with the same features is kept once. If its features differ, nothing
    is written. Failures of one store that another one has are no failures any more. If the new store's
    place is that of A or B, the others' videos are added to it. The other stores are not changed. After
    a kill, the same command goes on.

    \b
    Example:
      python cli.py store merge mine/ucf101/resnet101-1a2b3c4d yours/ucf101/resnet101-1a2b3c4d --out features
    """
    with MoveProgress("merge") as progress:
        written = merge(folders, out, progress)
    twice = f", {written.twice:,} of them in more than one store" if written.twice else ""
    _say_written(written, twice)


@click.command("subset")
@click.argument("folder", metavar="DIR", type=GivenPath(folder=True))
@click.option("--benchmark", type=GivenText(), help="Keep the videos that this benchmark lists.")
@click.option(
    "--videos",
    "listing",
    type=GivenPath(),
    help="Keep the videos of this file: one id a line, or a CSV whose first column is `video`.",
)
@OUT
@MANIFESTS
@QUIET
def subset_command(
    folder: Path, benchmark: str | None, listing: Path | None, out: Path, root: Path
) -> None:
    """Make a store of some videos of another one, which is not changed.

    Videos of the benchmark that DIR does not list are listed as not extracted yet. A video of the file
    that it does not list is refused. After a kill, the same command goes on.

    \b
    Example:
      python cli.py store subset features/ucf101/resnet101-1a2b3c4d --benchmark ucf-olympic --out small
    """
    if (benchmark is None) == (listing is None):
        raise ConfigError(
            "Name the videos to keep: --benchmark NAME or --videos FILE, one of them."
        )
    videos = _of_file(folder, listing) if listing else _of_benchmark(folder, str(benchmark), root)
    with MoveProgress("subset") as progress:
        written = subset(folder, videos, out, progress, unlisted=benchmark is not None)
    _say_written(written, "")


def _of_file(folder: Path, listing: Path) -> set[str]:
    with FeatureStore(folder) as store:
        known = store.records.keys() | store.absent.keys()
    rows = read_ids(listing)
    matched = match(rows, known, VIDEO_SUFFIXES)
    if matched.unknown:
        first = matched.unknown[0]
        raise ManifestError(
            f"{counted(len(matched.unknown), 'video', 'is', of=len(rows))} not listed in {folder} (first: "
            f"{shortened(first.video)}, {first.where}).{near_ids(first.video, known)} Correct the list, or "
            "take them out of it."
        )
    return set(matched.rows)


def _of_benchmark(folder: Path, benchmark: str, root: Path) -> set[str]:
    with FeatureStore(folder) as store:
        dataset = store.index["dataset"]
    return {video.id for video in manifests_of(dataset, benchmark, root)[benchmark]}


def _say_written(written: Written, twice: str) -> None:
    totals = written.index["totals"]
    say(
        f"{written.folder}: {counted(totals['stored'], 'listed video', 'is', of=totals['listed'])} stored, "
        f"{counted(totals['frames'], 'frame')}; {written.new:,} copied now{twice}"
    )
    left = [f"{totals[s]:,} {s}" for s in ("damaged", "missing", "failed", "pending") if totals[s]]
    if left:
        say(f"  {', '.join(left)}: see {written.folder / 'failures.csv'}")


@click.command("repack")
@click.argument("folder", metavar="DIR", type=GivenPath(folder=True))
@QUIET
def repack_command(folder: Path) -> None:
    """Give stores shards of the usual size again, without features that nothing refers to.

    DIR is a store, the folder of a data set, or the folder of all features. After many runs of `extract
    --redo`, `store prune` or `store merge` a store may have many small shards. They are written again as
    fewer, of 256 videos or 65,536 frames at most. All features keep every byte. Readers go on meanwhile. A
    kill at any point loses nothing; the same command goes on.

    \b
    Example:
      python cli.py store repack features/ucf101
    """
    for path in some_store_folders(folder):
        with MoveProgress(f"repack {path.name}") as progress:
            done = repack(path, progress)
        shards, size = done.shards, [count / 1e6 for count in done.bytes]
        say(
            f"{path}: {counted(done.moved, 'video')} moved, {counted(shards[0], 'shard', 'is')} "
            f"{shards[1]:,} now, "
            f"{size[0]:,.1f} MB are {size[1]:,.1f} MB"
        )
