"""`report`: one HTML page of a finished run, or of seeds, and of runs that it is compared with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.bar import StageProgress
from commands.options import DEVICE, MOVED_FEATURES, MOVED_MANIFESTS, QUIET, GivenPath
from commands.output import refuse_standing, write_result
from commands.text import say
from store.errors import (
    ConfigError,
    DecodeError,
    Ma2lError,
    ManifestError,
    RunError,
    counted,
    first_of,
    printable,
)

if TYPE_CHECKING:
    from adapt.review import Review
    from adapt.subject import Subject


@click.command("report")
@click.argument("runs", metavar="RUN [RUN]...", nargs=-1, required=True, type=GivenPath())
@click.option("--out", type=GivenPath(), required=True, help="The page; nothing is replaced.")
@click.option(
    "--plots",
    type=GivenPath(folder=True),
    help="Write every picture as PNG and as SVG into this folder too, which must be new or empty.",
    show_default="none",
)
@click.option(
    "--videos",
    "folders",
    type=GivenPath(folder=True, present=True),
    multiple=True,
    help="Folder with the target's videos: the middle frame of each listed video is shown. Several: give "
    "it several times.",
)
@MOVED_FEATURES
@MOVED_MANIFESTS
@DEVICE
@QUIET
def report_command(
    runs: tuple[Path, ...],
    out: Path,
    plots: Path | None,
    folders: tuple[Path, ...],
    features: Path | None,
    root: Path | None,
    device: str,
) -> None:
    """Write one page about a run that opens from disk, without a network.

    It has the accuracy and how certain it is, source only that was trained along, the confusion matrix,
    the classes, t-SNE of both domains before and after adaptation, which moments of a video weigh, all
    curves, and the most confident mistakes; of a target without labels the scores, the predicted classes
    and the least certain videos. Of several runs the first is reported and compared with the others on
    the same videos; a folder of seeds stands for its runs, and their mean and deviation are said. The
    gain per class is that over source only, and over the first run that differs in more than its seed.
    Labels that were added to the target after a run are used, and named. Where features are gone, the
    page is made without what needs them and says so.

    \b
    Example:
      python cli.py report runs/infomax --out report.html
      python cli.py report runs/infomax runs/source-only --out report.html --plots plots
    """
    refuse_standing(out, "--out")
    _refuse_used(plots)
    from adapt.overview import seeds_of
    from adapt.pictures import write_files
    from adapt.report_tables import telling
    from adapt.subject import read_subject
    from commands.report_page import Report

    run_folders = [run.folder for path in runs for run in seeds_of(path, root)]
    subjects = [read_subject(folder, root) for folder in run_folders]
    notes = [note for number, one in enumerate(subjects, 1) for note in _later(number, one)]
    with StageProgress("report", 3 + bool(folders)) as stage:
        stage("predicting from features")
        review = _reviewed(run_folders[0], device, features, root, notes)
        if review is not None:
            subjects[0] = _checked(subjects[0], review, notes)
        listed, frames = telling(subjects[0]), {}
        if folders:
            stage("frames of videos")
            frames = _frames(subjects[0], listed, folders, notes)
        stage("t-SNE, pictures and tables")
        report = Report(subjects, review, listed, frames, notes)
        page = report.page()
        stage("writing files")
        if plots is not None:
            plots.mkdir(exist_ok=True)
            write_files(report.pictures, plots)
        write_result(out, page)
    for note in report.notes:
        say(f"Note: {note}", err=True)
    where = f", {counted(len(report.pictures), 'picture')} in {printable(plots)}" if plots else ""
    say(f"The report is in {printable(out)}{where}.")


def _refuse_used(plots: Path | None) -> None:
    if plots is None:
        return
    if plots.exists() and any(plots.iterdir()):
        raise ConfigError(
            f"{printable(plots)} is not empty, and nothing in it is replaced. Empty it, or give another "
            "--plots."
        )
    if not plots.parent.is_dir():
        raise ConfigError(
            f"There is no folder {printable(plots.parent)} for --plots. Make it, or name another folder."
        )


def _reviewed(
    run: Path, device: str, features: Path | None, root: Path | None, notes: list[str]
) -> Review | None:
    """What needs the run's features, None where they are not there."""
    from adapt.compute import pick_device
    from adapt.review import review
    from adapt.runs import RunFolder

    where = pick_device(device)
    try:
        found = review(RunFolder(run), where, features, root)
    except Ma2lError as error:
        notes.append(
            "The videos as points, how sure the model is and all else that is computed from features: "
            f"{error}"
        )
        return None
    notes += found.left_out
    return found


def _checked(subject: Subject, review: Review, notes: list[str]) -> Subject:
    """Say where the model predicts otherwise than the run recorded, and where labels are others.

    Raises:
        RunError: what the run recorded has classes that its model does not know.
    """
    from adapt.subject import otherwise_labelled

    foreign = sorted(set(subject.classes) - set(review.classes))
    if foreign:
        raise RunError(
            f"{printable(subject.run.folder / 'predictions.csv')} names "
            f"{counted(len(foreign), 'class')} that the "
            f"run's model does not know {first_of(foreign)}: it is damaged. Train again."
        )
    # A run of an older version does not say in which order its classes are.
    subject = dataclasses.replace(subject, classes=review.classes)
    names = [review.classes[i] for i in review.P_VN.argmax(axis=1)]
    recorded = dict(zip(subject.videos, subject.predicted))
    now = {video.id: name for video, name in zip(review.videos, names)}
    unlike = [video for video, name in now.items() if recorded.get(video, name) != name]
    if unlike:
        notes.append(
            f"{counted(len(unlike), 'video', 'is', of=len(now))} predicted otherwise now than the "
            "run recorded "
            f"{first_of(unlike)}: another machine or version rounds otherwise, or the features were "
            "changed. Accuracies and tables are those that the run recorded; what is computed from "
            "features is of now."
        )
    other = len(now.keys() ^ recorded.keys())
    if other:
        notes.append(
            f"{counted(other, 'video', 'is')} not both in the run's predictions and in the manifest of now."
        )
    labelled = otherwise_labelled(subject, review.videos)
    if labelled:
        notes.append(
            f"{counted(len(labelled), 'video', 'has', of=len(now))} another label now than when "
            "the run ended "
            f"{first_of(labelled)}. The accuracies here are of then."
        )
    return subject


def _later(number: int, subject: Subject) -> list[str]:
    """Where the labels of a run came after it, which they are, and what the run itself recorded."""
    run = subject.run
    if run.later is None:
        return [f"Labels that came after run {number}: {run.unseen}"] if run.unseen else []
    recorded = f"{run.recorded.overall:.2f} %" if run.recorded else "no accuracy"
    return [f"Run {number} is measured by {run.later.what}, so that it recorded {recorded} itself."]


def _frames(
    subject: Subject, listed: list[int], folders: tuple[Path, ...], notes: list[str]
) -> dict[str, bytes]:
    from commands.thumbnails import middle_frames

    recipe = (subject.run.data.get("recipe") or {}).get("config") or {}
    kind = "frames" if recipe.get("decoder") == "images" else "videos"
    wanted = [subject.videos[i] for i in listed]
    try:
        frames, reasons = middle_frames(wanted, folders, kind)
    except (DecodeError, ManifestError) as error:
        notes.append(f"Frames of videos: {error}")
        return {}
    for video, reason in list(reasons.items())[:1]:
        notes.append(
            f"Frames of {counted(len(reasons), 'video', of=len(wanted))} (first: "
            f"{printable(video)}): {reason}."
        )
    return dict(frames)
