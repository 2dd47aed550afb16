"""`extract`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.options import (
    FEATURES,
    MANIFESTS,
    QUIET,
    SOME_FAILED,
    VIDEOS,
    GivenText,
    options_of,
    video_folders,
)
from commands.progress import ExtractProgress
from commands.stopping import StopSignals
from commands.text import say
from extract.config import CHANGED, ExtractConfig
from store import datasets
from store.errors import counted, first_of
from store.machine import process_of

if TYPE_CHECKING:
    from extract.report import Report


@click.command("extract")
@click.option("--dataset", required=True, help="ucf101, hmdb51, ... or a domain of your own.")
@VIDEOS
@FEATURES
@MANIFESTS
@click.option(
    "--redo",
    metavar="[ID]",
    multiple=True,
    type=GivenText(),
    is_flag=False,
    flag_value=CHANGED,
    help="Extract this stored video again; may be given several times. Without ID: all whose file is "
    "another one now.",
)
@options_of(ExtractConfig)
@QUIET
def extract_command(
    dataset: str,
    videos: tuple[Path, ...],
    features: Path,
    root: Path,
    redo: tuple[str, ...],
    **options: Any,
) -> None:
    """Compute the features of a data set's frames and store them.

    Every video that any benchmark lists for the data set is looked up by name anywhere below --videos.
    Finished shards are kept: running again goes on where the last run stopped. Missing, unreadable and
    damaged videos are named in failures.csv with their reasons, and the exit code is then 3. Ctrl-C
    keeps what is complete. What --redo extracts again keeps its old features until the new ones are stored.
    Several processes share the work by themselves under torchrun or SLURM.

    \b
    Example:
      python cli.py extract --dataset ucf101 --videos /data/UCF-101
      python cli.py extract --dataset ucf101 --redo v_Archery_g01_c01 --redo v_Archery_g02_c01
    """
    config = ExtractConfig(**options)
    listed = datasets.dataset_videos(dataset, root)
    folders = video_folders(dataset, videos)
    process = process_of(os.environ, config.rank, config.world)
    from extract.run import extract

    with StopSignals() as signals, ExtractProgress(dataset, process) as progress:
        report = extract(
            dataset=dataset,
            videos=listed,
            video_roots=folders,
            features=features,
            options=config,
            process=process,
            redo=redo,
            on_progress=progress,
            stopped=signals.stopped,
        )
    _say_extracted(dataset, listed, report)
    if report.stopped:
        say("Stopped; what was complete is stored. Run the same command to go on.", err=True)
        sys.exit(128 + signals.number)
    totals = report.index["totals"]
    if totals["missing"] or totals["failed"] or report.changed or report.kept:
        sys.exit(SOME_FAILED)


def _say_extracted(dataset: str, listed: Mapping[str, int | None], report: Report) -> None:
    from extract.report import unlike_published

    totals = report.index["totals"]
    rate = report.new_frames / report.seconds
    say(
        f"{dataset}: {counted(totals['stored'], 'listed video', 'is', of=totals['listed'])} stored, "
        f"{counted(totals['frames'], 'frame')}, in {report.folder}\n"
        f"  in this run: {report.new_videos:,} stored, {report.new_failures:,} failed; "
        f"{counted(report.new_frames, 'frame')} in {report.seconds:,.0f} s ({rate:,.1f} frames/s), "
        f"weights {report.weights}, on {report.index['run']['device']}"
    )
    reasons = {
        "missing": "has no file",
        "failed": "could not be stored",
        "damaged": "is damaged, and stored as far as whole",
        "pending": "is left to do",
    }
    for status, what in reasons.items():
        bad = [r for r in report.records.values() if r.status == status]
        if bad:
            reason = f": {bad[0].error}" if bad[0].error and status != "pending" else ""
            say(f"  {counted(len(bad), 'video', what)} (first: {bad[0].video}{reason})")
    if totals["missing"] or totals["failed"]:
        say(f"  all of them with their reasons: {report.folder / 'failures.csv'}")
    if report.kept:
        say(
            f"  {counted(len(report.kept), 'video')} could not be extracted again, so the old "
            "features stay as they were "
            f"{first_of(list(report.kept))}: {next(iter(report.kept.values()))}"
        )
    if report.changed:
        say(
            f"  {counted(len(report.changed), 'stored video', 'has')} another file now "
            f"{first_of(report.changed)}; "
            "the features are of the old one. To extract them again: add --redo"
        )
    unlike = unlike_published(listed, list(report.records.values()))
    if unlike:
        first = unlike[0]
        say(
            f"  {counted(len(unlike), 'video', 'has')} another number of frames than published, "
            "stored as decoded "
            f"(first: {first.video}: {first.decoded_frames}, published {listed[first.video]})"
        )
