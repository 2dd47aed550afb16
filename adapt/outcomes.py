"""What the runs of a benchmark ended with, read from their folders; and results.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapt.accuracy import Accuracy
from adapt.answers import accuracy_now, read_answers
from adapt.memory import parameter_counts
from adapt.plan import Job
from adapt.rules import selection_of
from adapt.run_files import read_done
from adapt.runs import RunFolder
from adapt.standing import Videos
from store.errors import RunError

COLUMNS = (
    *("method", "preset", "source", "target", "seed", "status", "overall", "class_mean"),
    *("low", "high", "videos", "epochs", "epoch", "seconds", "parameters", "training_parameters"),
    *("selection", "reads_target_labels", "transductive", "compute", "run", "error"),
)
"""`low` and `high`: the 95 % Wilson interval of `overall` over the evaluation videos. `epoch`: the one
whose model was kept. `seconds`: of all epochs together. `transductive`: whether the evaluation videos were
in training too, without labels."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished run.

    Attributes:
        videos: ids of the target's evaluation videos that have a label; right_V: whether each was predicted
            rightly (V,).
        seconds: of all its epochs, whatever stops there were between them.
        parameters: of the predicting model, and of all that is trained.
        reads_target_labels: whether its method, or the rule that chose the epoch, reads them.
        compute: the number type of its products in training; empty of a method that has no choice.
        labels: of a target that came without labels, by which ones it is judged; empty of any other.
    """

    job: Job
    accuracy: Accuracy
    videos: tuple[str, ...]
    right_V: np.ndarray
    epoch: int
    seconds: float
    parameters: tuple[int, int]
    selection: str
    reads_target_labels: bool
    compute: str
    labels: str = ""


def read_outcome(job: Job, videos: Videos) -> Outcome:
    """What a finished run ended with; of a target that came without labels, by the labels of now.

    Raises:
        RunError: its files are damaged, or contradict each other.
    """
    run = RunFolder(job.folder)
    done, config = read_done(job.folder), run.read()[0]
    result = done.target_eval
    try:
        answers = read_answers(job.folder)
    except RunError as error:
        remedy = "In a benchmark: remove the run, then run the same command again."
        raise RunError(f"{error} {remedy}") from error
    truth = answers.truth
    if videos.labels:
        truth = [videos.labels.get(video) for video in answers.videos]
        result = accuracy_now(answers, truth)
    if result is None:
        raise RunError(f"{job.folder} has no accuracy: no video that it predicted has a label.")
    known = [
        (v, p == t) for v, p, t in zip(answers.videos, answers.predicted, truth) if t is not None
    ]
    return Outcome(
        job=job,
        accuracy=result,
        videos=tuple(video for video, _ in known),
        right_V=np.array([right for _, right in known], dtype=float),
        epoch=job.epochs if done.epoch is None else done.epoch,
        seconds=sum(line["seconds"] for line in run.metrics()),
        parameters=parameter_counts(config, videos.width, videos.classes),
        selection=selection_of(config.select),
        reads_target_labels=config.reads_target_labels,
        compute=str(config.as_dict().get("compute", "")),
        labels=videos.which_labels,
    )


def results_csv(
    jobs: Sequence[Job], outcomes: Sequence[Outcome], failures: Mapping[Path, str], folder: Path
) -> str:
    """One row for each run of the plan, in its order, whether it is finished, failed or still to come.

    Args:
        failures: run folder -> reason.
    """
    by_folder = {outcome.job.folder: outcome for outcome in outcomes}
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for job in jobs:
        config = job.config
        row: dict[str, object] = {
            **{name: getattr(config, name) for name in COLUMNS[:5]},
            "status": "failed" if job.folder in failures else "not run",
            "epochs": job.epochs,
            "run": job.folder.relative_to(folder),
            "error": " ".join(failures.get(job.folder, "").split()),
        }
        if job.folder in by_folder:
            row |= _columns(by_folder[job.folder])
        writer.writerow(row)
    return out.getvalue()


def _columns(outcome: Outcome) -> dict[str, object]:
    result = outcome.accuracy
    return {
        "status": "done",
        **{n: round(getattr(result, n), 4) for n in ("overall", "class_mean", "low", "high")},
        "videos": result.videos,
        "epoch": outcome.epoch,
        "seconds": round(outcome.seconds, 2),
        "parameters": outcome.parameters[0],
        "training_parameters": outcome.parameters[1],
        "selection": outcome.selection,
        "reads_target_labels": "yes" if outcome.reads_target_labels else "no",
        "transductive": "yes" if outcome.accuracy.transductive else "no",
        "compute": outcome.compute,
    }
