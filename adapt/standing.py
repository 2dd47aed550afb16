"""What stands in a benchmark's folder already: runs that are asked for, parts of them, or other things."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from adapt import methods
from adapt.answers import labels_now, read_answers
from adapt.config import AdaptConfig
from adapt.fingerprint import videos_text
from adapt.listing import DataOptions, Listed, class_names, listed
from adapt.plan import Asked, Job, Plan
from adapt.run_files import read_json, write_json
from adapt.runs import DataRecord, RunFolder
from store.datasets import manifest_path
from store.errors import ConfigError, RunError, counted, first_of, printable
from store.files import sha256_of
from store.locks import LOCK
from store.program import program

log = logging.getLogger(__name__)

PLAN = "plan.json"
"""What marks the folder of a benchmark: what was asked for last."""


def refuse_others(folder: Path, benchmark: str) -> None:
    """Make sure that a folder is new, or is one of this benchmark.

    Raises:
        RunError: it is not.
    """
    there = folder.iterdir() if folder.exists() else ()
    others = sorted(p.name for p in there if p.name != LOCK and not p.name.endswith(".partial"))
    if others and PLAN not in others:
        raise RunError(
            f"{folder} holds other files {first_of(others)}. Give another folder with --out."
        )
    named = read_json(folder, PLAN).get("benchmark") if others else benchmark
    if named != benchmark:
        raise RunError(
            f"{folder} holds the benchmark {printable(named)}. Give another folder for {benchmark} with "
            "--out."
        )


def write_plan(asked: Asked, plan: Plan, folder: Path) -> None:
    """Write what is asked for, which marks the folder as a benchmark's.

    Raises:
        RunError: the disk refuses.
    """
    record = {
        "benchmark": asked.benchmark,
        "directions": [f"{source}-{target}" for source, target in asked.directions],
        "rows": list(dict.fromkeys("-".join(job.row) for job in plan.jobs)),
        "seeds": list(asked.seeds),
        "changes": dict(asked.changes),
    }
    write_json(folder, PLAN, record)


class State(Enum):
    """How far a run of the plan is."""

    NEW = "new"
    PART = "stopped"
    DONE = "finished"


@dataclass(frozen=True, kw_only=True)
class Videos:
    """What the runs of a pair of domains have in common.

    Attributes:
        record: how they are to be recorded, with the labels that the target has now.
        record_then: given the labels that some of the target's videos had, by id, the same with those.
        labels: of a target that came without labels, the classes that its videos have now, by id; empty of
            any other, whose labels do not change.
        which_labels: how many these are and where they stand; empty likewise.
        width: D, the backbone's width; classes: N.
    """

    record: DataRecord
    record_then: Callable[[Mapping[str, str | None]], DataRecord]
    labels: Mapping[str, str | None]
    which_labels: str
    width: int
    classes: int


def videos_of_jobs(jobs: Sequence[Job], data: DataOptions) -> list[Videos]:
    """What each run is to be trained on, listed once for all runs that share it.

    Raises:
        Ma2lError: manifests or features are missing or do not fit together.
    """
    known: dict[tuple[str, str, bool, str], Videos] = {}
    for job in jobs:
        key = videos_key(job.config)
        if key not in known:
            with listed(job.config, data) as found:
                if all(video.label is None for video in found.held_out):
                    raise ConfigError(
                        f"None of the {counted(len(found.held_out), 'video')} of {job.config.target} of "
                        f"{job.config.benchmark} has a label, and benchmark compares accuracies. Label some: "
                        f"{program()} manifest label labels.csv --benchmark {job.config.benchmark} --domain "
                        f"{job.config.target}; or use adapt, whose label-free scores can be compared."
                    )
                names = class_names(job.config, data)
                known[key] = Videos(
                    record=found.record,
                    record_then=functools.partial(_record_then, job.config, found, names),
                    labels=(
                        {video.id: video.class_name for video in found.held_out}
                        if found.transductive
                        else {}
                    ),
                    which_labels=(
                        _which_labels(job.config, found, data) if found.transductive else ""
                    ),
                    width=found.stores[job.config.target].width,
                    classes=len(names),
                )
    return [known[videos_key(job.config)] for job in jobs]


def _which_labels(config: AdaptConfig, found: Listed, data: DataOptions) -> str:
    known = sum(video.label is not None for video in found.held_out)
    path = manifest_path(config.benchmark, config.target, data.manifests)
    return labels_now(known, len(found.held_out), path, sha256_of(path))


def _record_then(
    config: AdaptConfig, found: Listed, names: Sequence[str], labels: Mapping[str, str | None]
) -> DataRecord:
    """What would be recorded if the target's videos had the labels that they had then."""
    held_out = [
        dataclasses.replace(
            video, class_name=name, label=None if name is None else names.index(name)
        )
        for video in found.held_out
        for name in [labels.get(video.id)]
    ]
    text = videos_text(config, found.labelled, found.target, held_out, found.choosing)
    return dataclasses.replace(found.record, videos=text)


def videos_key(config: AdaptConfig) -> tuple[str, str, bool, str]:
    """Runs for which this is the same share their videos: source, target, whose labels are read, the rule.

    A rule that chooses the epoch may need videos that others do without.
    """
    reads = methods.find(config.method).reads_target_labels
    return config.source, config.target, reads, config.select


def states_of(jobs: Sequence[Job], videos: Sequence[Videos], *, redo: bool = False) -> list[State]:
    """What stands in the folder of each run; a finished run counts only if it is the one asked for.

    Args:
        redo: remove runs that are not those asked for, so that they are trained anew.

    Raises:
        RunError: some are not, or a run's folder holds something else.
    """
    found, unlike = [], {}
    for job, used in zip(jobs, videos, strict=True):
        state = _state(job, used)
        if isinstance(state, str):
            unlike[job.folder], state = state, State.NEW
        found.append(state)
    if unlike and not redo:
        first, reason = next(iter(unlike.items()))
        raise RunError(
            f"{counted(len(unlike), 'run', 'is', of=len(jobs))} there and not as asked for, the first in "
            f"{first}: it is {reason} Repeat their options, or give another --out, or train them anew "
            "with --redo."
        )
    for folder, reason in unlike.items():
        log.info("Removed %s: %s", folder, reason)
        shutil.rmtree(folder)
    done = [job.folder for job, state in zip(jobs, found) if state is State.DONE]
    others = [folder for folder in done if not RunFolder(folder).is_of_this_code()]
    if others:
        log.warning(
            "%s by another state of this program %s. Where the two do not train alike, the rows do not "
            "compare: give another --out to train all by this one.",
            counted(len(others), "run", "was trained", of=len(jobs)),
            first_of(others),
        )
    return found


def _state(job: Job, videos: Videos) -> State | str:
    """How far a run is, or what stands in its place."""
    run = RunFolder(job.folder)
    if run.is_empty():
        return State.NEW
    if not run.has("config.json"):
        raise RunError(
            f"{run.path} holds no run but other files. Remove it, or give another --out."
        )
    try:
        config = with_recorded_compute(job.config, run)
        unlike = run.unlike(config, videos.record)
        if run.is_finished():
            run.result()
            if unlike and videos.labels and not job.config.reads_target_labels:
                unlike = _but_for_labels(run, config, videos, unlike)
    except RunError as error:
        return f"damaged: {error}"
    return unlike or (State.DONE if run.is_finished() else State.PART)


def _but_for_labels(run: RunFolder, config: AdaptConfig, videos: Videos, unlike: str) -> str:
    """How a finished run is unlike what is asked for if labels that came after it do not count.

    They decide its accuracy alone, which `outcomes` takes by the labels of now.

    Args:
        unlike: how it is if they do count.
    """
    answers = read_answers(run.path)
    try:
        record = videos.record_then(dict(zip(answers.videos, answers.truth)))
    except ValueError:  # a class of then that there is no more
        return unlike
    return run.unlike(config, record)


def with_recorded_compute(config: AdaptConfig, run: RunFolder) -> AdaptConfig:
    """The config of a run that stands there, with the number type that `auto` became."""
    if config.compute != "auto":
        return config
    return dataclasses.replace(config, compute=run.read()[0].compute)
