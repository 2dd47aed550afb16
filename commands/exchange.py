"""`store import`: features in the layouts of other projects."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from commands.options import FEATURES, MANIFESTS, QUIET, SOME_FAILED, GivenPath, GivenText
from commands.progress import ExchangeProgress
from commands.stopping import StopSignals
from commands.text import say
from store.errors import ConfigError, StoreError, counted, first_of, printable
from store.format import STORED_DTYPES
from store.ids import check_plain_name
from store.import_lists import (
    listed_elsewhere,
    more_than_listed,
    videos_of_lists,
    write_own_manifest,
)
from store.importing import Importer, ImportReport
from store.layouts import LAYOUTS, sources_in
from store.list_files import ListFile, read_class_names
from store.origin import config_of, width_in
from store.source_files import as_listed

WORKERS = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Videos that are read or written side by side; more help where files lie across a network.",
)


@click.command("import")
@click.argument("folder", metavar="DIR", type=GivenPath())
@click.option(
    "--format",
    "layout",
    type=click.Choice(list(LAYOUTS)),
    required=True,
    help="t7: a folder of tensors a video, as TA3N; npy, csv: a file a video; npz; video-features: what "
    "the program of this name writes; epic: pickles of EPIC-Kitchens-100 UDA.",
)
@click.option("--dataset", required=True, help="ucf101, hmdb51, ... or a name of your own.")
@click.option(
    "--list",
    "lists",
    metavar="[SPLIT=]FILE",
    type=GivenText(),
    multiple=True,
    help="A list file, 'DIR NFRAMES LABEL' a line; SPLIT is train or eval, or else the file's name says it. "
    "Several: give it several times. Or a .npz file with `video` and `label`, or a pandas frame (.pkl).",
)
@click.option(
    "--label",
    "column",
    type=GivenText(),
    help="Of a --list that is a .npz file or a frame: the array or column of the labels.",
    show_default="label; of a frame, verb_class or noun_class if it has one of them",
)
@click.option(
    "--classes", type=GivenPath(), help="File of class names, 'LABEL NAME' a line, for --list."
)
@click.option(
    "--benchmark",
    type=GivenText(),
    help="With --list: the benchmark of your own that the lists become. Without: import its videos alone.",
)
@click.option(
    "--origin",
    type=GivenText(),
    help="Where the features come from. adapt uses two domains together only if it is the same.",
    show_default="the name of DIR",
)
@click.option(
    "--name",
    default="imported",
    show_default=True,
    help="How the store's folder begins, e.g. with the backbone's name.",
)
@click.option(
    "--dtype",
    type=click.Choice(STORED_DTYPES),
    default=STORED_DTYPES[0],
    show_default=True,
    help="Number type to store.",
)
@click.option(
    "--modality",
    type=GivenText(),
    help="Of epic: RGB, Flow, Audio, or several with commas, side by side; of video-features: the model.",
    show_default="epic: RGB; video-features: the only one",
)
@click.option(
    "--keep-damaged",
    is_flag=True,
    help="Store what there is of incomplete videos, marked so, instead of refusing them.",
)
@WORKERS
@FEATURES
@MANIFESTS
@QUIET
def store_import(
    folder: Path,
    layout: str,
    dataset: str,
    lists: tuple[str, ...],
    column: str | None,
    classes: Path | None,
    benchmark: str | None,
    origin: str | None,
    name: str,
    dtype: str,
    modality: str | None,
    keep_damaged: bool,
    workers: int,
    features: Path,
    root: Path,
) -> None:
    """Import features that another project made or published into a store.

    List files give the videos, splits and labels: whatever folder stands in their lines, only its last
    component is used. Without them the videos are those of the benchmark or data set, or all that are
    there. Videos that are missing, incomplete or damaged are named in failures.csv, and the exit code is
    then 3. Running again goes on where the last run stopped. What is unknown about the features (their
    layer, how frames were prepared) stays unknown: they train like others, but new videos cannot be
    predicted from files.

    \b
    Example:
      python cli.py store import --format t7 ta3n/hmdb51/RGB-feature --dataset hmdb51
      python cli.py store import --format npy i3d --dataset mine --benchmark clips --list train.txt
    """
    check_plain_name(dataset, "--dataset")
    check_plain_name(name, "--name")
    if lists and not benchmark:
        raise ConfigError("--list makes a manifest: name its benchmark with --benchmark NAME.")
    if column and not lists:
        raise ConfigError("--label names the labels of lists: give them with --list FILE.")
    if classes and not lists:
        raise ConfigError("--classes names the classes of lists: give them with --list FILE.")
    if modality and layout not in ("epic", "video-features"):
        raise ConfigError(f"--modality is read with --format epic or video-features, not {layout}.")
    if not folder.exists():
        raise StoreError(f"There is no {printable(folder)}. Check the path.")
    sources = sources_in(folder, layout, modality or "")
    if lists and benchmark:
        check_plain_name(benchmark, "--benchmark")
        names = read_class_names(classes) if classes else None
        files = [ListFile.parse(text) for text in lists]
        videos = videos_of_lists(files, names, sources, column)
        listed = {video.id: video.frames for video in videos}
        sources = as_listed(sources, listed)
        width = width_in(sources, list(listed))
        path, new = write_own_manifest(videos, benchmark, dataset, root)
        say(f"{path}: {counted(len(videos), 'video')}{'' if new else ', as before'}")
    else:
        listed = listed_elsewhere(dataset, benchmark, sources, root)
        sources = as_listed(sources, listed)
        width = width_in(sources, list(listed))
    chosen = (modality or "RGB") if layout == "epic" else (modality or "")
    config = config_of(name, origin or folder.resolve().name, layout, width, dtype, chosen)
    run = {"weights": "unknown", "device": "imported", "python": platform.python_version()}
    with StopSignals() as signals, ExchangeProgress(dataset) as progress:
        report = Importer(
            *(features, dataset, config, listed, sources, run),
            exact=layout == "t7",
            workers=workers,
            keep_damaged=keep_damaged,
            on_progress=progress,
            stopped=signals.stopped,
        ).run()
    unlisted = len(sources.keys() - listed.keys())
    _say_imported(dataset, listed, report, unlisted, layout, folder)
    if report.stopped:
        say("Stopped; what was complete is stored. Run the same command to go on.", err=True)
        sys.exit(128 + signals.number)
    if report.changed or report.index["totals"]["missing"] or report.index["totals"]["failed"]:
        sys.exit(SOME_FAILED)


def _say_imported(
    dataset: str,
    listed: Mapping[str, int | None],
    report: ImportReport,
    unlisted: int,
    layout: str,
    source: Path,
) -> None:
    totals, config = report.index["totals"], report.index["config"]
    say(
        f"{dataset}: {counted(totals['stored'], 'video', 'is', of=totals['listed'])} stored, "
        f"{counted(totals['frames'], 'feature')} of width {report.index['width']}, in {report.folder}\n"
        f"  in this run: {report.new_videos:,} stored, {counted(report.new_frames, 'feature')} in "
        f"{report.seconds:,.1f} s"
    )
    if report.largest_error:
        half = config["stored_dtype"] == "float16"
        say(
            f"  stored as {config['stored_dtype']}: the largest error of a value is "
            f"{report.largest_error:.3g}{'; --dtype float32 stores float32 as it is' if half else ''}"
        )
    for status, what in (
        ("missing", "is not there"),
        ("failed", "could not be stored"),
        ("damaged", "is incomplete, and stored as far as it goes"),
    ):
        bad = [r for r in report.records.values() if r.status == status]
        if bad:
            say(f"  {counted(len(bad), 'video', what)} (first: {bad[0].video}: {bad[0].error})")
    if totals["missing"] or totals["failed"]:
        say(f"  all of them with their reasons: {report.folder / 'failures.csv'}")
    if report.changed:
        say(
            f"  {counted(len(report.changed), 'video', 'was')} stored before, and "
            f"{printable(source)} has other "
            f"features of them now {first_of(report.changed)}; what is stored stays. To import "
            "all of it, remove "
            f"{report.folder}, or give another --name or --origin"
        )
    if unlisted:
        say(f"  {counted(unlisted, 'video', 'is')} left out, in the folder and not listed")
    counts = {v: r.frames for v, r in report.records.items() if r.stored}
    more = more_than_listed(listed, counts) if layout == "t7" else {}
    if more:
        video, (said, there) = next(iter(more.items()))
        say(
            f"  {counted(len(more), 'video', 'has')} more features than listed frames, all are stored "
            f"{first_of([f'{video}: {there}, listed {said}'])}"
        )
    say(
        f"  adapt uses it with stores of the same origin, width and type: --origin "
        f"{printable(config['origin'])!r}"
    )
