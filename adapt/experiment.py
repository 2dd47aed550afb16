"""From loaded features to a finished run folder, and back from a run folder to its accuracy."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adapt import parallel
from adapt.bank import choose_bank, load_bank, needed_bytes
from adapt.config import AdaptConfig
from adapt.data import labels_of
from adapt.evaluate import Accuracy, accuracy, predict, take_statistics
from adapt.inputs import Loaded, Places, class_names, videos_of
from adapt.runs import RunFolder
from adapt.train import State, batch_sizes, train
from store.datasets import dataset_of, manifest_path
from store.errors import RunError, StoreError
from store.machine import keep_freed_memory
from store.read import FeatureStore

log = logging.getLogger(__name__)


def adapt(
    config: AdaptConfig,
    loaded: Loaded,
    run: RunFolder,
    *,
    resume: bool = False,
    checkpoint_every: int = 0,
    on_epoch: Callable[[int, dict[str, Any]], None] = lambda epoch, metrics: None,
) -> Accuracy:
    """Train, evaluate on the target's evaluation split, and leave a finished run folder.

    Args:
        resume: go on where the run in the folder was stopped, from the start if it never got far.
        checkpoint_every: epochs between two checkpoints to resume from; 0: none.

    Raises:
        Ma2lError: the folder holds another run or is in use, or training cannot go on.
    """
    begin = time.monotonic()
    for size in batch_sizes(config, loaded.data):
        parallel.share(slice(0, size))
    with contextlib.ExitStack() as held:
        kept, result = parallel.from_first(lambda: _begin(held, config, loaded, run, resume))
        if result is not None:
            log.info("%s is finished already.", run.path)
            return Accuracy(**result)
        keep_freed_memory()
        state = State(config, loaded.data)
        if kept is not None:
            state.load_state_dict(kept)
            log.info("Going on after epoch %d of %d.", state.epoch, config.epochs)

        def each_epoch(metrics: dict[str, Any]) -> None:
            if parallel.rank() > 0:
                return
            run.log(metrics)
            if checkpoint_every and state.epoch % checkpoint_every == 0:
                run.keep(state.state_dict())
            on_epoch(state.epoch, metrics)

        train(config, loaded.data, state, each_epoch)
        result = parallel.from_first(lambda: _finish(config, loaded, run, state, begin))
    return Accuracy(**result)


def _begin(
    held: contextlib.ExitStack, config: AdaptConfig, loaded: Loaded, run: RunFolder, resume: bool
) -> tuple[dict[str, Any] | None, dict[str, float] | None]:
    """What to go on from, and the accuracy's fields if nothing is left to do."""
    held.enter_context(run.claimed())
    kept = run.begin(config, loaded.inputs, resume=resume)
    return kept, dataclasses.asdict(run.result()) if run.is_finished() else None


def _finish(
    config: AdaptConfig, loaded: Loaded, run: RunFolder, state: State, begin: float
) -> dict[str, Any]:
    """Evaluate and write what a finished run leaves; returns the fields of its accuracy."""
    if config.statistics == "target":
        take_statistics(state.model, loaded.data.target, config.frames)
    classes = loaded.data.classes
    run.save_model(state.model, loaded.data.source.width, classes)
    logits_VN = predict(state.model, loaded.held_out_bank, config)
    result = accuracy(logits_VN.argmax(dim=1), labels_of(loaded.held_out))
    run.finish(
        result,
        videos=loaded.held_out,
        logits_VN=logits_VN,
        classes=classes,
        seconds=time.monotonic() - begin,
    )
    return dataclasses.asdict(result)


def evaluate(
    run: RunFolder, device: torch.device, features: Path | None, manifests: Path | None
) -> tuple[AdaptConfig, Accuracy]:
    """Accuracy of a run's checkpoint on its target's evaluation split, from the cached features.

    Args:
        features, manifests: where they lie now, None if they have not moved.

    Raises:
        Ma2lError: the run did not finish, or its features are gone or were made differently.
    """
    config, inputs = run.read()
    places = Places(
        features=features or Path(inputs.features),
        manifests=manifests or Path(inputs.manifests),
        store=inputs.store,
        allow_missing=inputs.allow_missing,
    )
    folder = places.features / dataset_of(config.target, places.manifests) / inputs.store
    manifest = manifest_path(config.benchmark, config.target, places.manifests)
    if not folder.is_dir() or not manifest.exists():
        raise RunError(
            f"The run's features {folder} or manifests {manifest} are not there any more. "
            "Where they lie now: --features and --manifests."
        )
    with FeatureStore(folder) as store:
        if store.index["config_sha256"] != inputs.feature_config_sha256:
            raise StoreError(
                f"{store.folder} was made with another config than the run's features."
            )
        videos = videos_of(config, places, config.target, "eval", store)
        kind = choose_bank("auto", needed_bytes(store, videos), device)
        bank = load_bank(store, videos, device, kind)
    model, classes = run.load_model(config)
    names = class_names(config, places)
    if list(names) != classes:
        raise RunError(f"The run knows the classes {classes}, the manifests have {list(names)}.")
    logits_VN = predict(model.to(device), bank, config)
    return config, accuracy(logits_VN.argmax(dim=1), labels_of(videos))
