"""From manifests and stores to the data that runs share."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from adapt.bank import Bank, choose_bank, load_bank, needed_bytes
from adapt.choose import available, choose_stores, extract_command
from adapt.config import AdaptConfig
from adapt.data import TrainingData, labels_of
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


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What every run of one pair of domains shares."""

    domains: tuple[str, str, str]
    """Benchmark, source and target."""
    data: TrainingData
    held_out: Sequence[Video]
    """The target's evaluation videos."""
    held_out_bank: Bank
    record: DataRecord


def load(config: AdaptConfig, options: DataOptions, device: torch.device) -> Loaded:
    """Choose the stores and make their features available.

    Raises:
        Ma2lError: manifests or features are missing, damaged or do not fit together.
    """
    source_store, target_store = _stores(config, options)
    with source_store, target_store:
        source = videos_of(config, options, config.source, "train", source_store)
        target = videos_of(config, options, config.target, "train", target_store)
        held_out = videos_of(config, options, config.target, "eval", target_store)
        size = needed_bytes(source_store, source) + needed_bytes(target_store, [*target, *held_out])
        kind = choose_bank(options.bank, size, device)
        log.info(
            f"{len(source)} source, {len(target)} target, {len(held_out)} evaluation videos of "
            f"{config.benchmark}, features {source_store.folder.name} "
            f"({source_store.index['run'].get('weights')}), {size / 1e9:.2f} GB, bank: {kind}"
        )
        classes = class_names(config, options)
        untaught = sorted(set(range(len(classes))) - {video.label for video in source})
        if untaught:
            log.warning(
                f"{len(untaught)} of {len(classes)} classes {'has' if len(untaught) == 1 else 'have'} "
                f"no {config.source} training video {first_of([classes[n] for n in untaught])}: it "
                "cannot be learned."
            )
        data = TrainingData(
            source=load_bank(source_store, source, device, kind),
            labels_V=labels_of(source),
            target=load_bank(target_store, target, device, kind),
            classes=classes,
            device=device,
        )
        held_out_bank = load_bank(target_store, held_out, device, kind)
    record = DataRecord(
        features=str(options.features.resolve()),
        manifests=str(options.manifests.resolve()),
        store=source_store.folder.name,
        feature_config_sha256=source_store.index["config_sha256"],
        recipe=Recipe.of(target_store).as_dict(),
        allow_missing=options.allow_missing,
        videos=_fingerprint(config, source, target, held_out),
    )
    return Loaded(
        domains=(config.benchmark, config.source, config.target),
        data=data,
        held_out=held_out,
        held_out_bank=held_out_bank,
        record=record,
    )


def _fingerprint(
    config: AdaptConfig, source: Sequence[Video], target: Sequence[Video], held_out: Sequence[Video]
) -> str:
    """Which videos decide a run's numbers, in their order; labels where they are looked at."""
    used = [[(v.id, v.label) for v in source], [v.id for v in target]]
    used.append([(v.id, v.label) for v in held_out])
    digest = hashlib.sha256(json.dumps(used).encode()).hexdigest()
    return (
        f"{len(source)} {config.source} train, {len(target)} {config.target} train, "
        f"{len(held_out)} {config.target} eval, sha256 {digest[:16]}"
    )


def class_names(config: AdaptConfig, options: DataOptions) -> tuple[str, ...]:
    """Of both domains, by label.

    Raises:
        ManifestError: the domains disagree.
    """
    return classes_of(*(_manifest(config, options, d) for d in (config.source, config.target)))


def videos_of(
    config: AdaptConfig, options: DataOptions, domain: str, split: str, store: FeatureStore
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
