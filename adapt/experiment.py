"""From manifests and stores to a finished run folder, and back from a run folder to its accuracy."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapt.config import AdaptConfig
from adapt.data import available, choose_stores, labels_of, load_bank
from adapt.evaluate import Accuracy, accuracy, predict
from adapt.model import VideoClassifier
from adapt.runs import Inputs, RunFolder
from adapt.train import TrainingData, train
from extract.errors import RunError, StoreError
from extract.manifest import Video, classes_of, dataset_of, read_manifest
from extract.store import FeatureStore, find_stores

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders that the user chooses."""

    features: Path
    manifests: Path
    store: str | None = None
    allow_missing: bool = False


def adapt(
    config: AdaptConfig,
    places: Places,
    run: RunFolder,
    device: torch.device,
    on_epoch: Callable[[int, dict[str, Any]], None] = lambda epoch, metrics: None,
) -> Accuracy:
    """Train, evaluate on the target's evaluation split, and leave a finished run folder.

    Raises:
        Ma2lError: features or manifests are missing or do not fit, or training cannot go on.
    """
    begin = time.monotonic()
    source_store, target_store = _stores(config, places)
    with source_store, target_store:
        source = _videos(config, places, config.source, "train", source_store)
        target = _videos(config, places, config.target, "train", target_store)
        held_out = _videos(config, places, config.target, "eval", target_store)
        classes = _classes(config, places)
        data = TrainingData(
            source=load_bank(source_store, source, device),
            labels_V=labels_of(source),
            target=load_bank(target_store, target, device),
            classes=classes,
        )
        held_out_bank = load_bank(target_store, held_out, device)
    run.create(
        config,
        Inputs(
            features=str(places.features.resolve()),
            manifests=str(places.manifests.resolve()),
            store=source_store.folder.name,
            feature_config_sha256=source_store.index["config_sha256"],
            allow_missing=places.allow_missing,
        ),
    )
    log.info(
        "%d source, %d target, %d evaluation videos of %s, features %s (%s)",
        *(len(source), len(target), len(held_out), config.benchmark),
        *(source_store.folder.name, source_store.index["run"].get("weights")),
    )

    def each_epoch(epoch: int, model: VideoClassifier, metrics: dict[str, Any]) -> None:
        run.log({"epoch": epoch, **metrics})
        on_epoch(epoch, metrics)

    model = train(config, data, each_epoch)
    run.save_model(model, data.source.width, classes)
    logits_VN = predict(model, held_out_bank, config)
    result = accuracy(logits_VN.argmax(dim=1), labels_of(held_out))
    run.finish(
        result,
        videos=held_out,
        logits_VN=logits_VN,
        classes=classes,
        seconds=time.monotonic() - begin,
    )
    return result


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
    if not folder.is_dir() or not places.manifests.is_dir():
        raise RunError(
            f"The run's features {folder} or manifests {places.manifests} are not there any more. "
            "Where they lie now: --features and --manifests."
        )
    with FeatureStore(folder) as store:
        if store.index["config_sha256"] != inputs.feature_config_sha256:
            raise StoreError(
                f"{store.folder} was made with another config than the run's features."
            )
        videos = _videos(config, places, config.target, "eval", store)
        bank = load_bank(store, videos, device)
    model, classes = run.load_model(config)
    names = _classes(config, places)
    if list(names) != classes:
        raise RunError(f"The run knows the classes {classes}, the manifests have {list(names)}.")
    logits_VN = predict(model.to(device), bank, config)
    return config, accuracy(logits_VN.argmax(dim=1), labels_of(videos))


def _stores(config: AdaptConfig, places: Places) -> tuple[FeatureStore, FeatureStore]:
    datasets = [dataset_of(domain, places.manifests) for domain in (config.source, config.target)]
    source, target = (find_stores(places.features, dataset) for dataset in datasets)
    return choose_stores(
        source, target, chosen=places.store, commands=[_command(d, places) for d in datasets]
    )


def _command(dataset: str, places: Places) -> str:
    options = "" if places.features == Path("features") else f" --features {places.features}"
    return f"python cli.py extract --dataset {dataset}{options}"


def _manifest(config: AdaptConfig, places: Places, domain: str) -> Sequence[Video]:
    return read_manifest(places.manifests / config.benchmark / f"{domain}.csv")


def _classes(config: AdaptConfig, places: Places) -> tuple[str, ...]:
    return classes_of(*(_manifest(config, places, d) for d in (config.source, config.target)))


def _videos(
    config: AdaptConfig, places: Places, domain: str, split: str, store: FeatureStore
) -> list[Video]:
    listed = [v for v in _manifest(config, places, domain) if v.split == split]
    if not listed:
        raise StoreError(f"The {domain} manifest of {config.benchmark} has no {split} videos.")
    found = available(
        listed,
        store,
        f"{domain} {split}",
        _command(dataset_of(domain, places.manifests), places),
        allow_missing=places.allow_missing,
    )
    if len(found) < len(listed):
        log.warning(
            "Going on without %d of %d %s %s videos.",
            len(listed) - len(found),
            len(listed),
            domain,
            split,
        )
    return found
