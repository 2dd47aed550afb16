"""From manifests and stores to the data that runs share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from adapt import methods
from adapt.bank import Bank, choose_bank, joined, load_bank, needed_bytes
from adapt.choose import available, how_to_get, stores_of
from adapt.config import AdaptConfig
from adapt.data import TrainingData, labels_of
from adapt.fingerprint import features_digest, videos_text
from adapt.rules import NEED_SOURCE_VIDEOS
from adapt.runs import DataRecord
from adapt.sources import (
    check_bound,
    check_classes,
    check_sources,
    listed_videos,
    warn_of_untaught,
)
from store.datasets import dataset_of, manifest_path
from store.errors import StoreError, first_of
from store.manifest import Video, classes_of, has_no_labels
from store.read import FeatureStore
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
    """Benchmark (and the classes that are used, if not all), source and target."""
    data: TrainingData
    held_out: Sequence[Video]
    """The target's evaluation videos."""
    held_out_bank: Bank
    source_held_out: Sequence[Video]
    """The sources' evaluation videos, by which an epoch may be chosen; there may be none."""
    source_held_out_bank: Bank | None
    record: DataRecord
    reads_target_labels: bool = False
    """Whether the labelled training videos are the target's."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Which videos a run uses and the open stores of their features, of which nothing is loaded yet."""

    stores: Mapping[str, FeatureStore]
    """By domain."""
    labelled: Mapping[str, Sequence[Video]]
    """Training videos whose labels train, by domain: the sources', or the target's for a bound."""
    unseen: Mapping[str, Sequence[Video]]
    """The sources' evaluation videos, by domain."""
    target: Sequence[Video]
    held_out: Sequence[Video]
    transductive: bool
    """Whether the target has no labels: all of its videos train, and all are predicted."""
    record: DataRecord


@contextmanager
def listed(config: AdaptConfig, options: DataOptions) -> Iterator[Listed]:
    """Choose the stores and list the videos; no feature is read.

    Raises:
        Ma2lError: manifests or features are missing or do not fit together.
    """
    manifests = {d: _manifest(config, options, d) for d in (*config.sources, config.target)}
    check_sources(config.benchmark, {domain: manifests[domain] for domain in config.sources})
    check_classes(config.benchmark, classes_of(*manifests.values()))
    bound = methods.find(config.method).reads_target_labels
    if bound:
        check_bound(config.method, config.benchmark, config.target, manifests[config.target])
    domains = (config.target,) if bound else config.sources
    found = stores_of(manifests, options.features, options.manifests, options.store)
    with ExitStack() as opened:
        stores = {domain: opened.enter_context(store) for domain, store in found.items()}
        target_store = stores[config.target]
        labelled = {d: videos_of(config, options, d, "train", stores[d]) for d in domains}
        of_target = functools.partial(videos_of, config, options, config.target, store=target_store)
        target = labelled[config.target] if bound else of_target("train")
        transductive = has_no_labels(target)
        held_out = target if transductive else of_target("eval")
        record = DataRecord(
            features=str(options.features.resolve()),
            manifests=str(options.manifests.resolve()),
            store=target_store.folder.name,
            feature_config_sha256=target_store.index["config_sha256"],
            recipe=Recipe.of(target_store).as_dict(),
            allow_missing=options.allow_missing,
            videos=videos_text(config, labelled, target, held_out),
            features_sha256=features_digest(
                stores, {**labelled, config.target: [*target, *held_out]}
            ),
        )
        yield Listed(
            stores=stores,
            labelled=labelled,
            unseen={
                d: [] if bound else _source_held_out(config, options, d, stores[d]) for d in domains
            },
            target=target,
            held_out=held_out,
            transductive=transductive,
            record=record,
        )


def load(config: AdaptConfig, options: DataOptions, device: torch.device) -> Loaded:
    """Choose the stores and make their features available.

    Raises:
        Ma2lError: manifests or features are missing, damaged or do not fit together.
    """
    with listed(config, options) as found:
        target_store = found.stores[config.target]
        bound = methods.find(config.method).reads_target_labels
        of_target = [
            *([] if bound else found.target),
            *([] if found.transductive else found.held_out),
        ]
        size = needed_bytes(target_store, of_target)
        for domain, videos in found.labelled.items():
            size += needed_bytes(found.stores[domain], [*videos, *found.unseen[domain]])
        kind = choose_bank(options.bank, size, device, options.processes)
        learned = [video for videos in found.labelled.values() for video in videos]
        names = ",".join(found.labelled)
        log.info(
            f"{len(learned)} labelled ({names}), {len(found.target)} target, {len(found.held_out)} "
            f"evaluation videos of {config.lists}, features {target_store.folder.name} "
            f"({target_store.index['run'].get('weights')}), {size / 1e9:.2f} GB, bank: {kind}"
        )
        classes = class_names(config, options)
        warn_of_untaught(names, classes, learned)
        bank_of = functools.partial(_bank_of, found.stores, device, kind)
        learned_bank = bank_of(found.labelled)
        data = TrainingData(
            source=learned_bank,
            labels_V=labels_of(learned),
            target=learned_bank if bound else bank_of({config.target: found.target}),
            classes=classes,
            device=device,
        )
        held_out_bank = (
            data.target if found.transductive else bank_of({config.target: found.held_out})
        )
        unseen_bank = bank_of(found.unseen) if any(found.unseen.values()) else None
    return Loaded(
        domains=(config.lists, config.source, config.target),
        data=data,
        held_out=found.held_out,
        held_out_bank=held_out_bank,
        source_held_out=[video for videos in found.unseen.values() for video in videos],
        source_held_out_bank=unseen_bank,
        record=found.record,
        reads_target_labels=bound,
    )


def _bank_of(
    stores: Mapping[str, FeatureStore],
    device: torch.device,
    kind: str,
    videos: Mapping[str, Sequence[Video]],
) -> Bank:
    """One bank of the videos of all domains, in their order."""
    return joined([load_bank(stores[d], rows, device, kind) for d, rows in videos.items() if rows])


def class_names(config: AdaptConfig, options: DataOptions) -> tuple[str, ...]:
    """Of all domains, by label.

    Raises:
        ManifestError: the domains disagree.
    """
    domains = (*config.sources, config.target)
    return classes_of(*(_manifest(config, options, domain) for domain in domains))


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
    remedy = functools.partial(
        how_to_get,
        store=store,
        benchmark=config.benchmark,
        dataset=dataset,
        features=options.features,
        manifests=options.manifests,
    )
    what = f"{domain} {split}"
    found = available(listed, store, what, remedy, allow_missing=options.allow_missing)
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


def _source_held_out(
    config: AdaptConfig, options: DataOptions, domain: str, store: FeatureStore
) -> list[Video]:
    """A source's evaluation videos; none unless all have features, or the epoch is chosen by them."""
    listed = [v for v in _manifest(config, options, domain) if v.split == "eval"]
    if not listed:
        return []
    lacking = [v.id for v in listed if v.id not in store]
    if not lacking or config.select in NEED_SOURCE_VIDEOS:
        return videos_of(config, options, domain, "eval", store)
    log.info(
        f"{len(lacking)} of {len(listed)} {domain} eval videos have no features "
        f"{first_of(lacking)}: no score is taken on them."
    )
    return []


def _manifest(config: AdaptConfig, options: DataOptions, domain: str) -> Sequence[Video]:
    return listed_videos(
        config.benchmark, domain, config.sources[0], config.classes, options.manifests
    )
