"""Which videos and stores a run uses, listed from manifests; no feature is read."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapt import methods
from adapt.choose import available, how_to_get, stores_of
from adapt.config import AdaptConfig
from adapt.fingerprint import features_digest, videos_text
from adapt.rules import NEED_SOURCE_VIDEOS
from adapt.runs import DataRecord
from adapt.sources import check_bound, check_classes, check_sources, listed_videos
from store.datasets import dataset_of, manifest_path
from store.errors import StoreError, counted, first_of
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
class Listed:
    """Which videos a run uses and the open stores of their features, of which nothing is loaded yet."""

    stores: Mapping[str, FeatureStore]
    """By domain."""
    labelled: Mapping[str, Sequence[Video]]
    """Training videos whose labels train, by domain: the sources', or the target's for a bound."""
    unseen: Mapping[str, Sequence[Video]]
    """The sources' evaluation videos, by domain."""
    choosing: Mapping[str, Sequence[Video]]
    """The same where they choose the epoch, so that they decide the run's numbers; else empty."""
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
        unseen = {
            d: [] if bound else _source_held_out(config, options, d, stores[d]) for d in domains
        }
        choosing = unseen if config.select in NEED_SOURCE_VIDEOS else {}
        record = DataRecord(
            features=str(options.features.resolve()),
            manifests=str(options.manifests.resolve()),
            store=target_store.folder.name,
            feature_config_sha256=target_store.index["config_sha256"],
            recipe=Recipe.of(target_store).as_dict(),
            allow_missing=options.allow_missing,
            videos=videos_text(config, labelled, target, held_out, choosing),
            features_sha256=features_digest(
                stores,
                {
                    **{d: [*videos, *choosing.get(d, [])] for d, videos in labelled.items()},
                    config.target: [*target, *held_out],
                },
            ),
        )
        yield Listed(
            stores=stores,
            labelled=labelled,
            unseen=unseen,
            choosing=choosing,
            target=target,
            held_out=held_out,
            transductive=transductive,
            record=record,
        )


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
        log.warning(f"Continuing without {counted(lacking, f'{what} video', of=len(listed))}.")
    short = [v.id for v in found if store.records[v.id].frames < config.frames]
    if short:
        log.warning(
            f"{counted(len(short), f'{what} video', 'has', of=len(found))} fewer features than the "
            f"{counted(config.frames, 'frame')} sampled, so that frames repeat {first_of(short)}."
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
        f"{counted(len(lacking), f'{domain} eval video', 'has', of=len(listed))} no features "
        f"{first_of(lacking)}: no score is taken on them."
    )
    return []


def _manifest(config: AdaptConfig, options: DataOptions, domain: str) -> Sequence[Video]:
    return listed_videos(
        config.benchmark, domain, config.sources[0], config.classes, options.manifests
    )
