"""From a finished run folder back to its accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adapt import checkpoint
from adapt.accuracy import Accuracy, accuracy_on
from adapt.bank import Bank, choose_bank, load_bank, needed_bytes
from adapt.config import AdaptConfig
from adapt.details import Details, details
from adapt.listing import class_names, videos_of
from adapt.prediction import predict
from adapt.recorded import target_store
from adapt.runs import DataRecord, RunFolder
from store.errors import RunError
from store.manifest import Video


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """What a run's checkpoint says now of its target's evaluation videos."""

    config: AdaptConfig
    result: Accuracy | None
    """None where no video has a label."""
    predicted: Mapping[str, str]
    """The class of each video, by id."""
    classes: Sequence[str]
    details: Details | None
    """Of the videos that have a label; None where none has."""
    videos: Sequence[Video]
    probabilities_VN: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The target's evaluation videos of a run, with their features."""

    videos: Sequence[Video]
    bank: Bank
    classes: tuple[str, ...]


class Evaluator:
    """Predicts the target's evaluation splits of runs again, from checkpoints and cached features.

    The features of a run are kept for the next one, which often shares them: seeds do.

    Args:
        features, manifests: where they lie now, None if they have not moved.
    """

    def __init__(
        self, device: torch.device, features: Path | None = None, manifests: Path | None = None
    ) -> None:
        self._device, self._features, self._manifests = device, features, manifests
        self._key: object = None
        self._held_out: HeldOut | None = None

    def evaluate(self, run: RunFolder) -> Repeated:
        """Predict a run's target's evaluation split again.

        Raises:
            Ma2lError: the run did not finish, or its features are gone or were made differently.
        """
        config, record = run.read()
        held_out = self._of(config, record)
        trained = checkpoint.load_model(run, config)
        names, videos = held_out.classes, held_out.videos
        if list(names) != trained.classes:
            raise RunError(
                f"The run knows the classes {trained.classes}, the manifests have {list(names)}."
            )
        logits_VN = predict(trained.model.to(self._device), held_out.bank, config)
        predicted = logits_VN.argmax(dim=1).tolist()
        known = [(number, v.label) for number, v in enumerate(videos) if v.label is not None]
        rows, labels = zip(*known) if known else ((), ())
        P_VN = logits_VN.double().softmax(dim=1).numpy()
        return Repeated(
            config=config,
            result=accuracy_on(predicted, videos),
            predicted={video.id: names[p] for video, p in zip(videos, predicted)},
            classes=names,
            details=details(P_VN[list(rows)], np.array(labels), names) if known else None,
            videos=videos,
            probabilities_VN=P_VN,
        )

    def _of(self, config: AdaptConfig, record: DataRecord) -> HeldOut:
        """What the last run was evaluated on if this one is on the same, else what this one is."""
        key = (
            *(config.benchmark, config.source, config.target, config.classes, config.frames),
            *(record.features, record.manifests, record.store, record.feature_config_sha256),
            record.allow_missing,
        )
        if self._held_out is None or key != self._key:
            self._held_out = None  # two at once may not fit into memory
            places = self._features, self._manifests
            with target_store(config, record, *places) as (store, options):
                videos = videos_of(config, options, config.target, "eval", store)
                kind = choose_bank("auto", needed_bytes(store, videos), self._device)
                bank = load_bank(store, videos, self._device, kind)
            names = class_names(config, options)
            self._held_out = HeldOut(videos=videos, bank=bank, classes=names)
            self._key = key
        return self._held_out


def together(seeds: Sequence[Repeated]) -> Accuracy | None:
    """The accuracy of the mean of several runs' probabilities, None where no video has a label.

    The runs differ in their seed alone (`ensemble.unlike_but_for_seed`), so their videos are the same.
    """
    P_VN = np.mean([seed.probabilities_VN for seed in seeds], axis=0)
    return accuracy_on(P_VN.argmax(axis=1).tolist(), seeds[0].videos)
