"""`store export`: a store's features in the layouts of other projects."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from commands.exchange import WORKERS
from commands.options import MANIFESTS, QUIET, SOME_FAILED, GivenPath, GivenText
from commands.progress import ExchangeProgress
from commands.stopping import StopSignals
from commands.text import say
from store.datasets import manifests_of
from store.errors import ConfigError, StoreError, counted, first_of
from store.exporting import FRAMES_FOLDER, Exporter
from store.format import STORED_DTYPES
from store.ids import check_plain_name
from store.list_files import lists_of
from store.read import FeatureStore


@click.command("export")
@click.argument("folder", metavar="DIR", type=GivenPath())
@click.option(
    "--format",
    "layout",
    type=click.Choice(["t7", "npy"]),
    required=True,
    help="t7: a tensor a frame in a folder a video, as TA3N reads them; npy: a file a video.",
)
@click.option(
    "--out",
    type=GivenPath(folder=True),
    required=True,
    help="The folder to fill: a new one, or one in which this export was stopped.",
)
@click.option(
    "--benchmark", type=GivenText(), help="Export its videos alone, and write its lists alone."
)
@click.option(
    "--dtype",
    type=click.Choice(STORED_DTYPES),
    help="Of npy, the number type. t7 always has float32, which its readers expect.",
    show_default="as stored",
)
@WORKERS
@MANIFESTS
@QUIET
def store_export(
    folder: Path,
    layout: str,
    out: Path,
    benchmark: str | None,
    dtype: str | None,
    workers: int,
    root: Path,
) -> None:
    """Write the features of a store in the layout of another project, with its list files.

    DIR is a store. The lists of all benchmarks that have its data set, with their class names, are written
    beside the features; their paths are relative to --out. Videos that the store lacks are in no list, and
    the exit code is then 3. Running again goes on where the last run stopped.

    \b
    Example:
      python cli.py store export --format t7 features/hmdb51/resnet101-1a2b3c4d --out ta3n/hmdb51
    """
    if dtype and layout == "t7":
        raise ConfigError("--dtype is read with --format npy; t7 always has float32.")
    with FeatureStore(folder) as store:
        dataset = store.index["dataset"]
        check_plain_name(dataset, str(folder))
        listed = manifests_of(dataset, benchmark, root)
        wanted = {video.id for rows in listed.values() for video in rows}
        videos = sorted(store.records.keys() & wanted if benchmark else store.records)
        if not videos:
            raise StoreError(f"{folder} has none of the videos of {benchmark or 'any benchmark'}.")
        frames = {video: store.records[video].frames for video in videos}
        if dtype == "float16" and store.dtype.name == "float32":
            raise ConfigError(
                "The store holds float32, which float16 would round. Leave --dtype out."
            )
        chosen = "float32" if layout == "t7" else dtype or store.dtype.name
        with StopSignals() as signals, ExchangeProgress(dataset) as progress:
            report = Exporter(
                *(store, videos, out, layout, chosen),
                workers=workers,
                on_progress=progress,
                stopped=signals.stopped,
            ).run(lists_of(listed, dataset, frames, FRAMES_FOLDER if layout == "t7" else "."))
    say(
        f"{dataset}: {counted(report.videos, 'video', 'is', of=len(videos))} in {out}, in this run "
        f"{report.new_videos:,} with {counted(report.new_frames, 'feature')} in {report.seconds:,.1f} s"
    )
    if report.stopped:
        say("Stopped; what was complete is kept. Run the same command to go on.", err=True)
        sys.exit(128 + signals.number)
    spaced = [video for video in videos if " " in video and layout == "t7"]
    if spaced:
        say(
            f"  {counted(len(spaced), 'id', 'has')} spaces, which TA3N's lists cannot have {first_of(spaced)}"
        )
    lacking = sorted(wanted - store.records.keys())
    if lacking:
        say(f"  {counted(len(lacking), 'listed video', 'is')} not in the store {first_of(lacking)}")
        sys.exit(SOME_FAILED)
