"""Extract some of a store's videos again and compare: does this machine still give these features?"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.decode import DECODER
from extract.events import Attempt, Broken, Decoded, Frames, Restarted
from extract.pool import DecoderPool
from extract.videos import VideoFolder
from store.compare import Pair, compare_features
from store.errors import DecodeError, StoreError
from store.format import config_differences
from store.read import FeatureStore


def resample(
    store: FeatureStore,
    roots: Sequence[Path],
    count: int,
    *,
    weights: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Iterator[Pair]:
    """`count` seeded random videos of a store, extracted again (a) and as stored (b).

    What decord read is read by PyAV now, so that the two can disagree. What PyAV had to read stays
    PyAV's: decord is not exact on it.

    Args:
        weights: where the weights are now, None if the store's own note still leads to them.

    Raises:
        StoreError: the store cannot be made again here: other weights, or videos that are not there.
        DecodeError: a sampled video cannot be decoded any more.
    """
    config = store.config
    options = ExtractConfig(
        backbone=config["backbone"],
        weights=weights or str(store.index["run"].get("weights")),
        preset=config["preset"],
        stride=config["stride"],
        frames_per_video=config["frames_per_video"],
        precision=config["compute_dtype"],
        input="videos" if config["decoder"] == DECODER else "frames",
        keep_damaged=True,
        device=device,
    )
    backbone = Backbone(options)
    if backbone.config != config:
        same_weights = backbone.config["weights_sha256"] == config["weights_sha256"]
        raise StoreError(
            f"{store.folder} was made otherwise: {config_differences(config, backbone.config)}. "
            + (
                "This version, on this processor, cannot compute as it was computed."
                if same_weights
                else "Name its weights with --weights."
            )
        )
    found = VideoFolder(roots, options.input, store.records)
    chosen = sorted(
        random.Random(seed).sample(sorted(store.records), min(count, len(store.records)))
    )
    paths = {video: [root / path for root, path in found.candidates(video)] for video in chosen}
    missing = [video for video, candidates in paths.items() if len(candidates) != 1]
    if missing:
        raise StoreError(
            f"{len(missing)} of {len(chosen)} sampled videos of {store.folder} cannot be found in "
            f"{found} (first: {missing[0]}). Name the folder that they were extracted from."
        )
    features: dict[Attempt, list[np.ndarray]] = {}
    work = [(video, candidates[0]) for video, candidates in paths.items()]
    others = {video: "pyav" for video in chosen if store.records[video].decoder == "decord"}
    with DecoderPool(work, backbone.frames, workers=1, take_turns=True, decoders=others) as pool:
        for event in pool:
            if isinstance(event, Frames):
                features.setdefault(event.attempt, []).append(backbone(event.images))
            elif isinstance(event, Decoded):
                rows = np.concatenate(features.pop(event.attempt)).astype(np.float16)
                video = event.attempt.video
                yield compare_features(video, rows, store.read(video))
            elif isinstance(event, Restarted):
                features.pop(event.attempt, None)
            elif isinstance(event, Broken) and not event.again:
                raise DecodeError(f"{event.attempt.path}: {event.reason}")
