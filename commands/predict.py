"""`predict`: the classes of videos by a finished run, from cached features or from video files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from commands.labels import FORMATS, labels_text
from commands.options import DEVICE, QUIET, SOME_FAILED, GivenPath, GivenText
from commands.output import refuse_standing, write_result
from commands.text import say
from store.errors import ConfigError, counted, printable


@click.command("predict")
@click.argument("run", type=GivenPath())
@click.argument("paths", metavar="[VIDEO_OR_FOLDER]...", nargs=-1, type=GivenPath())
@click.option(
    "--out", type=GivenPath(), help="Write here instead of to stdout; nothing is replaced."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="A table, or one JSON object a line.",
    show_default="jsonl where --out ends so, else csv",
)
@click.option("--all", "everything", is_flag=True, help="Add the probabilities of all classes.")
@click.option(
    "--features",
    type=GivenPath(folder=True),
    help="Without paths: where the features lie now, if they have moved.",
)
@click.option(
    "--manifests",
    "root",
    type=GivenPath(folder=True),
    help="Without paths: where your own benchmarks lie now, if they have moved.",
)
@click.option(
    "--weights",
    type=GivenText(),
    help="With paths: where the backbone's weights are, if they are not published ones.",
)
@click.option(
    "--nearest-precision",
    "nearest",
    is_flag=True,
    help="With paths: where this machine cannot compute in the number form of the run's features, "
    "compute in its own and accept that they are rounded otherwise.",
)
@click.option(
    "--keep-damaged",
    is_flag=True,
    help="With paths: predict files that are cut off or damaged from the frames that are whole.",
)
@DEVICE
@QUIET
def predict_command(
    run: Path,
    paths: tuple[Path, ...],
    out: Path | None,
    form: str | None,
    everything: bool,
    features: Path | None,
    root: Path | None,
    weights: str | None,
    nearest: bool,
    keep_damaged: bool,
    device: str,
) -> None:
    """Predict the classes of videos by a finished run: the three most probable ones of each.

    Without paths: the run's whole target domain, every listed video that has features, but for those of
    classes that --classes left out. With paths, of video files or of folders with videos anywhere below:
    the files are decoded, features are made exactly as those of the run were, of the frames alone that
    the run looks at, and nothing is stored. Files that cannot be read are named, the others are predicted,
    and the exit code is 3.

    RUN is a run's folder, or a folder of several seeds, whose probabilities are averaged: better
    than one seed by 1.0 to 10.2 points on average (docs/results.md). A checkpoint.pt is enough for paths.

    \b
    Example:
      python cli.py predict runs/a --out labels.csv
      python cli.py predict runs/five-seeds --out labels.csv
      python cli.py predict runs/a clip.mp4 new-videos --all --format jsonl
    """
    refuse_standing(out, "--out")
    if paths and (features or root):
        raise ConfigError("--features and --manifests are read only without paths. Leave them out.")
    if not paths and (weights or nearest or keep_damaged):
        raise ConfigError(
            "--weights, --nearest-precision and --keep-damaged are read only with paths of videos. "
            "Leave them out, or name videos."
        )
    from commands.classify import classify_files, classify_target, load_runs

    trained = load_runs(run)
    try:
        if paths:
            rows, left_out = classify_files(
                run,
                trained,
                paths,
                device=device,
                weights=weights,
                nearest=nearest,
                keep_damaged=keep_damaged,
            )
        else:
            rows, left_out = classify_target(run, trained, features, root, device=device)
    except KeyboardInterrupt:
        say("\nStopped; nothing was written.", err=True)
        sys.exit(130)
    chosen = form or ("jsonl" if out is not None and out.suffix == ".jsonl" else "csv")
    text = labels_text(rows, trained[0].classes, everything=everything, form=chosen)
    if out is None:
        say(text.removesuffix("\n"))
    else:
        write_result(out, text)
        say(f"{counted(len(rows), 'video', 'is')} predicted in {printable(out)}.", err=True)
    if left_out:
        say(f"{counted(left_out, 'video')} could not be predicted, as said above.", err=True)
        sys.exit(SOME_FAILED)
