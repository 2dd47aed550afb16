"""Where the two stages meet again: videos of a run's target, or video files, to the classes of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from adapt import checkpoint
from adapt.checkpoint import Trained
from adapt.compute import pick_device
from adapt.ensemble import Ensemble, load_seeds
from adapt.recorded import target_store
from adapt.runs import RunFolder, run_folders
from adapt.sources import listed_videos
from commands.bar import CountProgress
from commands.labels import Labelled
from extract.again import backbone_by, kind_of
from extract.backbone import worker_count
from extract.stream import Unreadable, stream
from extract.videos import left_out_note, survey
from store.errors import (
    ConfigError,
    DecodeError,
    RunError,
    StoreError,
    counted,
    first_of,
    printable,
)
from store.machine import keep_freed_memory
from store.recipe import Recipe

log = logging.getLogger(__name__)

Labels = tuple[list[Labelled], int]
"""Predicted videos, and how many others could not be."""


def load_run(run: Path) -> Trained:
    """The trained model of a run's folder, or of a checkpoint.pt alone.

    Raises:
        RunError: there is no finished run.
    """
    if run.is_file():
        return checkpoint.load_file(run)
    inner = run_folders(run)
    if len(inner) > 1:
        raise RunError(
            f"{run} holds {counted(len(inner), 'run')} and is none itself. Name one of them "
            f"{first_of(inner)}."
        )
    folder = RunFolder(inner[0])
    return checkpoint.load_model(folder, folder.read()[0])


def load_runs(run: Path) -> list[Trained]:
    """As `load_run`; of a folder of runs that differ in their seed alone, the models of all of them.

    Raises:
        RunError: there is no finished run, one of several is not finished, or they differ in more.
    """
    return [checkpoint.load_file(run)] if run.is_file() else load_seeds(run)


def recipe_of(run: Path, trained: Trained) -> Recipe:
    """How the features of a run were made; of a run of an older version, as its store says.

    Raises:
        RunError: nothing says it.
        StoreError: what says it lacks something.
    """
    recipe = trained.recipe
    if recipe is None:
        try:
            with target_store(*RunFolder(run_folders(run)[0]).read(), None, None) as (store, _):
                recipe = Recipe.of(store)
        except (RunError, StoreError) as error:
            raise RunError(
                f"It is not known how the features of {run} were made: the version that trained it did "
                "not record it, and the features are not there any more. Bring them back, or train again."
            ) from error
    recipe.check_complete()
    return recipe


def classify_target(
    run: Path,
    trained: Sequence[Trained],
    features: Path | None,
    manifests: Path | None,
    *,
    device: str,
) -> Labels:
    """Predict every listed video of the run's target domain, of its classes, that has features.

    Args:
        trained: the models that answer together (`load_runs`).
        features, manifests: where they lie now, None if they have not moved.

    Raises:
        Ma2lError: the run's features or manifests are not there, are others, or are damaged.
    """
    if run.is_file():
        raise RunError(
            f"{run} does not say where the features of its target are. Name the run's folder, or name "
            "videos to predict."
        )
    config, record = RunFolder(run_folders(run)[0]).read()
    answer = Ensemble(trained, pick_device(device))
    with target_store(config, record, features, manifests) as (store, options):
        listed = listed_videos(
            config.benchmark, config.target, config.sources[0], config.classes, options.manifests
        )
        there = [video for video in listed if video.id in store]
        missing = [video.id for video in listed if video.id not in store]
        if missing:
            log.warning(
                f"{counted(len(missing), f'{config.target} video', 'has', of=len(listed))} no features in "
                f"{store.folder} {first_of(missing)}."
            )
        if not there:
            raise StoreError(f"No {config.target} video can be predicted. Run extract first.")
        rows = []
        with CountProgress("predict", len(there), "videos") as progress:
            for video in there:
                probabilities_N = answer.classify_all(store.read(video.id))
                rows.append(Labelled(video.id, probabilities_N, video.split))
                progress(len(rows))
    _say_agreement(answer)
    return rows, len(missing)


def classify_files(
    run: Path,
    trained: Sequence[Trained],
    paths: Sequence[Path],
    *,
    device: str,
    weights: str | None = None,
    nearest: bool = False,
    keep_damaged: bool = False,
) -> Labels:
    """Predict video files and all below folders, each once, in their order.

    Of a video only the features of the frames that the run looks at are computed and kept.

    Args:
        trained: the models that answer together (`load_runs`).
        weights, nearest, keep_damaged: see `backbone_by`.

    Raises:
        Ma2lError: there are no videos, none of them can be read, or features cannot be made as those of
            the run were.
    """
    recipe = recipe_of(run, trained[0])
    videos = _videos_in(paths, kind_of(recipe))
    backbone = backbone_by(
        recipe, weights=weights, device=device, nearest=nearest, keep_damaged=keep_damaged
    )
    if backbone.width != trained[0].backbone_width:
        raise RunError(
            f"{run} expects features of {trained[0].backbone_width} numbers, and its recipe makes "
            f"{backbone.width}. It is damaged: train again."
        )
    if backbone.device.type == "cpu":
        keep_freed_memory()
    answer = Ensemble(trained, backbone.device)
    found: dict[str, Labelled] = {}
    failed = 0
    workers = min(worker_count(backbone.device), len(videos))
    with CountProgress("predict", len(videos), "videos") as progress:
        for result in stream(backbone, videos.items(), answer.frames, workers=workers):
            if isinstance(result, Unreadable):
                log.warning("%s: %s", result.video, result.reason)
                failed += 1
            else:
                probabilities_N = answer.classify(
                    result.features_KD, result.numbers_K, result.frames
                )
                found[result.video] = Labelled(result.video, probabilities_N)
            progress(len(found) + failed)
    if not found:
        raise DecodeError(
            f"None of {counted(failed, 'video')} could be predicted; the reasons are above."
        )
    _say_agreement(answer)
    return [found[name] for name in videos if name in found], failed


def _say_agreement(answer: Ensemble) -> None:
    if sentence := answer.agreement():
        log.warning(sentence)


def _videos_in(paths: Sequence[Path], kind: str) -> dict[str, Path]:
    """Names and paths of all videos that are meant, in order; one that is named in two ways stands once."""
    found: dict[str, Path] = {}
    known: set[str] = set()

    def add(path: Path) -> None:
        place = os.path.join(
            os.path.realpath(path.parent), path.name
        )  # a link is a name of its own
        if place not in known:
            known.add(place)
            found[str(path)] = path

    for path in paths:
        if not path.exists():
            raise ConfigError(f"There is no {printable(path)}. Check the path.")
        if not path.is_dir():
            if kind == "frames":
                raise ConfigError(
                    f"{printable(path)} is a file, and the run's features were made from folders of "
                    "images. Name folders of images."
                )
            add(path)
            continue
        below = survey(path, kind)
        note = left_out_note(below.left_out)
        if not below.videos:
            raise ConfigError(f"There is no video in {printable(path)}. {note}".strip())
        if note:
            log.warning("%s: %s", path, note)
        for video in below.videos:
            add(path / video)
    return found
