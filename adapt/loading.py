"""From manifests and stores to the data that runs share."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
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
from store.errors import ConfigError, ManifestError, StoreError, first_of
from store.manifest import (
    Video,
    chosen_classes,
    classes_of,
    has_no_labels,
    read_manifest,
    with_classes,
)
from store.options import parse_names
from store.read import FeatureStore, find_stores

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


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What every run of one pair of domains shares."""

    domains: tuple[str, str, str]
    """Benchmark (and the classes that are used, if not all), source and target."""
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


def load(config: AdaptConfig, options: DataOptions, device: torch.device) -> Loaded:
    """Choose the stores and make their features available.

    Raises:
        Ma2lError: manifests or features are missing, damaged or do not fit together.
    """
    _refuse_source_without_labels(config, options)
    source_store, target_store = _stores(config, options)
    with source_store, target_store:
        bound = methods.find(config.method).reads_target_labels
        labelled, labelled_store = config.source, source_store
        if bound:
            _refuse_bound_without_labels(config, options)
            labelled, labelled_store = config.target, target_store
            log.warning(f"--method {config.method} trains on the labels of {config.target}.")
        source = videos_of(config, options, labelled, "train", labelled_store)
        target = videos_of(config, options, config.target, "train", target_store)
        transductive = has_no_labels(target)  # then all videos train and all are predicted
        held_out = (
            target
            if transductive
            else videos_of(config, options, config.target, "eval", target_store)
        )
        unseen = [] if bound else _source_held_out(config, options, source_store)
        size = needed_bytes(labelled_store, [*source, *unseen])
        size += needed_bytes(target_store, target if transductive else [*target, *held_out])
        kind = choose_bank(options.bank, size, device)
        log.info(
            f"{len(source)} labelled ({labelled}), {len(target)} target, {len(held_out)} evaluation "
            f"videos of {config.lists}, features {source_store.folder.name} "
            f"({source_store.index['run'].get('weights')}), {size / 1e9:.2f} GB, bank: {kind}"
        )
        classes = class_names(config, options)
        untaught = sorted(set(range(len(classes))) - {video.label for video in source})
        if untaught:
            log.warning(
                f"{len(untaught)} of {len(classes)} classes {'has' if len(untaught) == 1 else 'have'} "
                f"no {labelled} training video {first_of([classes[n] for n in untaught])}: it "
                "cannot be learned."
            )
        data = TrainingData(
            source=load_bank(labelled_store, source, device, kind),
            labels_V=labels_of(source),
            target=load_bank(target_store, target, device, kind),
            classes=classes,
            device=device,
        )
        held_out_bank = (
            data.target if transductive else load_bank(target_store, held_out, device, kind)
        )
        unseen_bank = load_bank(source_store, unseen, device, kind) if unseen else None
    record = DataRecord(
        features=str(options.features.resolve()),
        manifests=str(options.manifests.resolve()),
        store=source_store.folder.name,
        feature_config_sha256=source_store.index["config_sha256"],
        allow_missing=options.allow_missing,
        videos=_fingerprint((labelled, config.target), source, target, held_out),
    )
    return Loaded(
        domains=(config.lists, config.source, config.target),
        data=data,
        held_out=held_out,
        held_out_bank=held_out_bank,
        source_held_out=unseen,
        source_held_out_bank=unseen_bank,
        record=record,
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
    known = sum(video.label is not None for video in held_out)
    labels = f" ({known} with a label)" if has_no_labels(held_out) else ""
    return (
        f"{len(source)} {domains[0]} train, {len(target)} {domains[1]} train, "
        f"{len(held_out)} {domains[1]} eval{labels}, sha256 {digest[:16]}"
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
    listed = [v for v in _manifest(config, options, domain) if v.is_in(split)]
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


def _refuse_source_without_labels(config: AdaptConfig, options: DataOptions) -> None:
    if has_no_labels(_manifest(config, options, config.source)):
        raise ManifestError(
            f"{config.source} of {config.benchmark} is a domain without labels, so it can only be the "
            f"--target: a source teaches its classes. Put its videos into one folder per class and make a "
            f"benchmark with --domain {config.source}=DIR, or choose another --source."
        )


def _refuse_bound_without_labels(config: AdaptConfig, options: DataOptions) -> None:
    if has_no_labels(_manifest(config, options, config.target)):
        raise ConfigError(
            f"--method {config.method} learns from the target's labels, and {config.target} of "
            f"{config.benchmark} is a domain without labels. Choose another method, or put its videos into "
            "one folder per class and make the benchmark again."
        )


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
    """A domain's videos, of the chosen classes alone if there is a choice.

    Raises:
        ManifestError: the manifest breaks a rule, or a domain with labels lacks a chosen class.
    """
    videos = read_manifest(manifest_path(config.benchmark, domain, options.manifests))
    if not config.classes:
        return videos
    names = parse_names(config.classes, "--classes")
    if not has_no_labels(videos):
        chosen_classes(videos, names, domain)
    source = read_manifest(manifest_path(config.benchmark, config.source, options.manifests))
    if has_no_labels(source):  # refused where the data are loaded
        return videos
    return with_classes(videos, chosen_classes(source, names, config.source))
