"""What a finished run's model says and sees of its videos, before and after adaptation, for a report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adapt import checkpoint, methods
from adapt.bank import Bank, choose_bank, joined, load_bank, needed_bytes
from adapt.config import AdaptConfig
from adapt.data import TrainingData
from adapt.embedding import sample_evenly, shares
from adapt.listing import DataOptions, class_names, videos_of
from adapt.methods import Networks
from adapt.prediction import as_source, predict_with_features
from adapt.recolour import SOURCE_TO_TARGET, Recoloured, RecolouredBank
from adapt.recorded import domain_store, target_store
from adapt.runs import DataRecord, RunFolder
from store.errors import Ma2lError, RunError
from store.manifest import Video
from store.read import FeatureStore

MOST = 1500
"""Videos of both domains together that are shown as points."""
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Features of source videos, then of target videos, for a picture."""

    features_VC: Array
    labels_V: Sequence[int | None]
    """True classes; None where nobody knows it."""
    predicted_V: Sequence[int | None]
    """Of target videos the predicted class, of source videos None."""
    source: int
    """How many of them are source videos."""
    of: tuple[int, int]
    """How many source and target videos there are, of which these may be a sample."""


@dataclass(frozen=True, kw_only=True)
class Review:
    """What a run's checkpoint and features say now of V target evaluation videos."""

    classes: Sequence[str]
    """Their names, by label."""
    videos: Sequence[Video]
    P_VN: Array
    """Probabilities, rows that sum to 1."""
    before: Cloud
    """The mean over the frames of the cached features."""
    after: Cloud | None
    """What the classifier sees."""
    left_out: Sequence[str]
    """What could not be shown, with the reason."""


@dataclass
class _Source:
    """Training videos of all sources: all of them, and those that are shown."""

    bank: Bank
    labels: list[int | None]
    """Of the videos that are shown."""
    shown_bank: Bank
    means_VD: Array
    count: int
    """How many there are."""


def review(
    run: RunFolder, device: torch.device, features: Path | None, manifests: Path | None
) -> Review:
    """Predict a run's target's evaluation videos again, and collect features of both domains.

    Args:
        features, manifests: where they lie now, None if they have not moved.

    Raises:
        Ma2lError: the run did not finish, or its target's features are gone or others than they were.
            Without the features of a source, the pictures are of the target alone, and `left_out` says so.
    """
    config, record = run.read()
    trained = checkpoint.load_model(run, config)
    left_out: list[str] = []
    source = None
    with target_store(config, record, features, manifests) as (store, options):
        videos = videos_of(config, options, config.target, "eval", store)
        if list(class_names(config, options)) != trained.classes:
            raise RunError("The classes in the manifests are not those that the run knows.")
        try:
            source = _source(config, record, options, device, len(videos))
        except Ma2lError as error:
            left_out.append(f"Source videos in the pictures of features: {error}")
        count = source.count if source else 0
        shown = sample_evenly(len(videos), shares((count, len(videos)), MOST)[1])
        means_VD = _means(store, [videos[i] for i in shown])
        bank = _bank(store, videos, device)
    model, target_bank = _unwrapped(trained.model.to(device), bank)
    found = predict_with_features(model, target_bank, config)
    predicted_V = found.logits_VN.argmax(dim=1).tolist()
    labels = [videos[i].label for i in shown]
    predicted = [predicted_V[i] for i in shown]
    after = None
    if found.features_VC is None:
        left_out.append(
            f"Features after adaptation: the model of {config.method} has no layer called classifier."
        )
    else:
        seen_VC = None
        if source is not None:
            seen_VC, reason = _seen_of_source(config, model, source, device)
            left_out += reason
        after = _cloud(source, seen_VC, found.features_VC[shown], labels, predicted, len(videos))
    return Review(
        classes=trained.classes,
        videos=videos,
        P_VN=found.probabilities_VN,
        before=_cloud(
            source, source.means_VD if source else None, means_VD, labels, predicted, len(videos)
        ),
        after=after,
        left_out=left_out,
    )


def _cloud(
    source: _Source | None,
    of_source_VC: Array | None,
    of_target_VC: Array,
    labels: list[int | None],
    predicted: list[int],
    count: int,
) -> Cloud:
    """Join both domains; without features of the source it has the target alone."""
    if source is None or of_source_VC is None:
        return Cloud(
            features_VC=of_target_VC,
            labels_V=labels,
            predicted_V=predicted,
            source=0,
            of=(0, count),
        )
    first = len(of_source_VC)
    return Cloud(
        features_VC=np.concatenate([of_source_VC, of_target_VC]),
        labels_V=[*source.labels, *labels],
        predicted_V=[*[None] * first, *predicted],
        source=first,
        of=(source.count, count),
    )


def _source(
    config: AdaptConfig,
    record: DataRecord,
    options: DataOptions,
    device: torch.device,
    targets: int,
) -> _Source:
    """The training videos of all sources.

    Args:
        targets: how many target videos there are, which get their share of the points.
    """
    with ExitStack() as opened:
        pairs: list[tuple[FeatureStore, Video]] = []
        banks = []
        for domain in config.sources:
            store = opened.enter_context(domain_store(config, record, domain, options))
            videos = videos_of(config, options, domain, "train", store)
            pairs += [(store, video) for video in videos]
            banks.append(_bank(store, videos, device))
        sampled = sample_evenly(len(pairs), shares((len(pairs), targets), MOST)[0])
        shown: dict[FeatureStore, list[Video]] = {}
        for store, video in (pairs[i] for i in sampled):
            shown.setdefault(store, []).append(video)
        return _Source(
            bank=joined(banks),
            labels=[video.label for videos in shown.values() for video in videos],
            shown_bank=joined([_bank(store, videos, device) for store, videos in shown.items()]),
            means_VD=np.concatenate([_means(store, videos) for store, videos in shown.items()]),
            count=len(pairs),
        )


def _seen_of_source(
    config: AdaptConfig, model: nn.Module, source: _Source, device: torch.device
) -> tuple[Array | None, list[str]]:
    """What the classifier sees of the shown source videos, or why that cannot be said."""
    method = methods.find(config.method)
    if method.for_target_alone:
        reason = f"the model of {config.method} is made for the target's videos alone"
    elif config.input_coral == SOURCE_TO_TARGET:
        reason = "--input-coral source-to-target maps them, and a checkpoint does not hold that map"
    else:
        data = TrainingData(
            source=source.bank,
            labels_V=torch.zeros(0),
            target=source.bank,
            classes=(),
            device=device,
        )
        as_trained = as_source(config, Networks(model), data)
        return predict_with_features(as_trained, source.shown_bank, config).features_VC, []
    return None, [f"Source videos in the picture after adaptation: {reason}."]


def _unwrapped(model: nn.Module, bank: Bank) -> tuple[nn.Module, Bank]:
    """The model proper, and the bank as that takes it: mapped where the map stands before the model."""
    if isinstance(model, Recoloured):
        return model.model, RecolouredBank(bank, model.recolouring)
    return model, bank


def _bank(store: FeatureStore, videos: Sequence[Video], device: torch.device) -> Bank:
    return load_bank(
        store, videos, device, choose_bank("auto", needed_bytes(store, videos), device)
    )


def _means(store: FeatureStore, videos: Sequence[Video]) -> Array:
    """Mean over the frames of each video's features (V, D)."""
    return np.stack([store.read(video.id).astype(np.float64).mean(axis=0) for video in videos])
