"""From manifests and stores to the data that runs share."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from adapt import methods
from adapt.bank import Bank, choose_bank, load_bank, needed_bytes
from adapt.choose import available, choose_stores, extract_command
from adapt.config import AdaptConfig
from adapt.data import TrainingData, labels_of
from adapt.rules import NEED_SOURCE_VIDEOS
from adapt.runs import DataRecord
from store.datasets import dataset_of, manifest_path
from store.errors import StoreError, first_of
from store.manifest import Video, classes_of, read_manifest
from store.read import FeatureStore, find_stores
from store.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Folders and features that the user chooses."""

    features: Path
    manifests: Path
    """The user's own benchmarks; the built-in ones are always seen."""
    store: str | None = None
    allow_missing: bool = False
    bank: str = "auto"
    processes: int = 1
    """How many processes of this machine load features of their own at the same time."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What every run of one pair of domains shares."""

    domains: tuple[str, str, str]
    """Benchmark, source and target."""
    data: TrainingData
    held_out: Sequence[Video]
    """The target's evaluation videos."""
    held_out_bank: Bank
    source_held_out: Sequence[Video]
    """The source's evaluation videos, by which an epoch may be chosen; there may be none."""
    source_held_out_bank: Bank | None
    record: DataRecord
    reads_target_labels: bool = False
    """Whether the labelled training videos are the target's."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Which videos a run uses and the open stores of their features, of which nothing is loaded yet."""

    labelled: str
    """The domain whose labels train: the source, or the target where a method is a bound."""
    labelled_store: FeatureStore
    source_store: FeatureStore
    target_store: FeatureStore
    source: Sequence[Video]
    target: Sequence[Video]
    held_out: Sequence[Video]
    source_held_out: Sequence[Video]
    classes: Sequence[str]
    record: DataRecord


@contextmanager
def listed(config: AdaptConfig, options: DataOptions) -> Iterator[Listed]:
    """Choose the stores and list the videos; no feature is read.

    Raises:
        Ma2lError: manifests or features are missing or do not fit together.
    """
    source_store, target_store = _stores(config, options)
    with source_store, target_store:
        bound = methods.find(config.method).reads_target_labels
        labelled = config.target if bound else config.source
        labelled_store = target_store if bound else source_store
        source = videos_of(config, options, labelled, "train", labelled_store)
        target = videos_of(config, options, config.target, "train", target_store)
        held_out = videos_of(config, options, config.target, "eval", target_store)
        record = DataRecord(
            features=str(options.features.resolve()),
            manifests=str(options.manifests.resolve()),
            store=source_store.folder.name,
            feature_config_sha256=source_store.index["config_sha256"],
            recipe=Recipe.of(target_store).as_dict(),
            allow_missing=options.allow_missing,
            videos=_fingerprint((labelled, config.target), source, target, held_out),
        )
        yield Listed(
            labelled=labelled,
            labelled_store=labelled_store,
            source_store=source_store,
            target_store=target_store,
            source=source,
            target=target,
            held_out=held_out,
            source_held_out=[] if bound else _source_held_out(config, options, source_store),
            classes=class_names(config, options),
            record=record,
        )


def load(config: AdaptConfig, options: DataOptions, device: torch.device) -> Loaded:
    """Choose the stores and make their features available.

    Raises:
        Ma2lError: manifests or features are missing, damaged or do not fit together.
    """
    bound = methods.find(config.method).reads_target_labels
    if bound:
        log.warning(f"--method {config.method} trains on the labels of {config.target}.")
    with listed(config, options) as found:
        labelled_store, target_store = found.labelled_store, found.target_store
        source, target, held_out = found.source, found.target, found.held_out
        unseen, classes = found.source_held_out, found.classes
        size = needed_bytes(labelled_store, [*source, *unseen])
        size += needed_bytes(target_store, [*target, *held_out])
        kind = choose_bank(options.bank, size, device, options.processes)
        log.info(
            f"{len(source)} labelled ({found.labelled}), {len(target)} target, {len(held_out)} evaluation "
            f"videos of {config.benchmark}, features {target_store.folder.name} "
            f"({target_store.index['run'].get('weights')}), {size / 1e9:.2f} GB, bank: {kind}"
        )
        untaught = sorted(set(range(len(classes))) - {video.label for video in source})
        if untaught:
            log.warning(
                f"{len(untaught)} of {len(classes)} classes {'has' if len(untaught) == 1 else 'have'} "
                f"no {found.labelled} training video {first_of([classes[n] for n in untaught])}: it "
                "cannot be learned."
            )
        data = TrainingData(
            source=load_bank(labelled_store, source, device, kind),
            labels_V=labels_of(source),
            target=load_bank(target_store, target, device, kind),
            classes=classes,
            device=device,
        )
        held_out_bank = load_bank(target_store, held_out, device, kind)
        unseen_bank = load_bank(found.source_store, unseen, device, kind) if unseen else None
    return Loaded(
        domains=(config.benchmark, config.source, config.target),
        data=data,
        held_out=held_out,
        held_out_bank=held_out_bank,
        source_held_out=unseen,
        source_held_out_bank=unseen_bank,
        record=found.record,
        reads_target_labels=bound,
    )


def _fingerprint(
    domains: tuple[str, str],
    source: Sequence[Video],
    target: Sequence[Video],
    held_out: Sequence[Video],
) -> str:
    """Which videos decide a run's numbers, in their order; labels where they are looked at."""
    used = [[(v.id, v.label) for v in source], [v.id for v in target]]
    used.append([(v.id, v.label) for v in held_out])
    digest = hashlib.sha256(json.dumps(used).encode()).hexdigest()
    return (
        f"{len(source)} {domains[0]} train, {len(target)} {domains[1]} train, "
        f"{len(held_out)} {domains[1]} eval, sha256 {digest[:16]}"
    )


def class_names(config: AdaptConfig, options: DataOptions) -> tuple[str, ...]:
    """Of both domains, by label.

    Raises:
        ManifestError: the domains disagree.
    """
    return classes_of(*(_manifest(config, options, d) for d in (config.source, config.target)))


def videos_of(
    config: AdaptConfig,
    options: DataOptions,
    domain: str,
    split: str,
    store: FeatureStore,
) -> list[Video]:
    """The listed videos of a split that the store has.

    Raises:
        StoreError: none are listed, or some have no features and that is not allowed.
    """
    listed = [v for v in _manifest(config, options, domain) if v.split == split]
    if not listed:
        raise StoreError(
            f"The {domain} manifest of {config.benchmark} has no {split} videos. Mark some in the "
            f"column split of {manifest_path(config.benchmark, domain, options.manifests)}."
        )
    dataset = dataset_of(domain, options.manifests)
    command = extract_command(dataset, options.features, options.manifests, store)
    what = f"{domain} {split}"
    found = available(listed, store, what, command, allow_missing=options.allow_missing)
    if len(found) < len(listed):
        lacking = len(listed) - len(found)
        log.warning(f"Continuing without {lacking} of {len(listed)} {what} videos.")
    short = [v.id for v in found if store.records[v.id].frames < config.frames]
    if short:
        log.warning(
            f"{len(short)} of {len(found)} {what} videos have fewer features than the "
            f"{config.frames} frames sampled, so that frames repeat {first_of(short)}."
        )
    return found


def _source_held_out(config: AdaptConfig, options: DataOptions, store: FeatureStore) -> list[Video]:
    """The source's evaluation videos; none unless all have features, or the epoch is chosen by them."""
    listed = [v for v in _manifest(config, options, config.source) if v.split == "eval"]
    if not listed:
        return []
    lacking = [v.id for v in listed if v.id not in store]
    if not lacking or config.select in NEED_SOURCE_VIDEOS:
        return videos_of(config, options, config.source, "eval", store)
    log.info(
        f"{len(lacking)} of {len(listed)} {config.source} eval videos have no features "
        f"{first_of(lacking)}: no score is taken on the source."
    )
    return []


def _stores(config: AdaptConfig, options: DataOptions) -> tuple[FeatureStore, FeatureStore]:
    datasets = [dataset_of(d, options.manifests) for d in (config.source, config.target)]
    found = [find_stores(options.features, dataset, options.store) for dataset in datasets]
    # What one domain's features were made with is what the other's should be made with.
    made = next((store for stores in found for store in stores.values()), None)
    lacking = []
    for domain, dataset, stores in zip((config.source, config.target), datasets, found):
        if not stores:
            videos = [video.id for video in _manifest(config, options, domain)]
            command = extract_command(dataset, options.features, options.manifests, made)
            lacking.append(
                f"{len(videos):,} of {len(videos):,} {domain} videos have no features in "
                f"{options.features / dataset} {first_of(videos)}. Run: {command}"
            )
    if lacking:
        raise StoreError("\n".join(lacking))
    return choose_stores(*found, chosen=options.store)


def _manifest(config: AdaptConfig, options: DataOptions, domain: str) -> Sequence[Video]:
    return read_manifest(manifest_path(config.benchmark, domain, options.manifests))
