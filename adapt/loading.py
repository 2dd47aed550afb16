"""From manifests and stores to the data that runs share."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from adapt import methods
from adapt.bank import Bank, choose_bank, joined, load_bank, needed_bytes
from adapt.config import AdaptConfig
from adapt.data import TrainingData, labels_of
from adapt.listing import DataOptions, class_names, listed
from adapt.runs import DataRecord
from adapt.sources import warn_of_untaught
from store.errors import counted
from store.manifest import Video
from store.read import FeatureStore

log = logging.getLogger(__name__)


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
            f"{len(learned)} labelled ({names}), {len(found.target)} target, "
            f"{counted(len(found.held_out), 'evaluation video')} "
            f"of {config.lists}, features {target_store.folder.name} "
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
