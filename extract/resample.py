"""Extract some of a store's videos again and compare: does this machine still give these features?"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from extract.again import backbone_by, kind_of
from extract.stream import Unreadable, stream
from extract.videos import VideoFolder
from store.compare import Pair, compare_features
from store.errors import DecodeError, StoreError, counted
from store.read import FeatureStore
from store.recipe import Recipe


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
        StoreError: the store cannot be made again here, or its videos are not there.
        WeightsError: its weights are not here.
        DecodeError: a sampled video cannot be decoded any more.
    """
    recipe = Recipe.of(store)
    backbone = backbone_by(recipe, weights=weights, device=device, keep_damaged=True)
    found = VideoFolder(roots, kind_of(recipe), store.records)
    chosen = sorted(
        random.Random(seed).sample(sorted(store.records), min(count, len(store.records)))
    )
    paths = {video: [root / path for root, path in found.candidates(video)] for video in chosen}
    missing = [video for video, candidates in paths.items() if len(candidates) != 1]
    if missing:
        raise StoreError(
            f"{counted(len(missing), 'sampled video', of=len(chosen))} of {store.folder} cannot be found in "
            f"{found} (first: {missing[0]}). Name the folder that they were extracted from."
        )
    work = [(video, candidates[0]) for video, candidates in paths.items()]
    others = {video: "pyav" for video in chosen if store.records[video].decoder == "decord"}
    for result in stream(backbone, work, np.arange, workers=1, decoders=others):
        if isinstance(result, Unreadable):
            raise DecodeError(f"{paths[result.video][0]}: {result.reason}")
        yield compare_features(result.video, result.features_KD, store.read(result.video))
