"""Why two stores differ, by making the features of one of their videos again in several ways.

Each way is one mistake that is easily made (BGR for RGB, another crop, pixels that are not normalised).
The way whose features a store has is how that store was made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extract.again import exact_backbone, kind_of
from extract.backbone import Backbone
from extract.config import is_timm
from extract.decode import FrameOptions
from extract.events import Broken, Frames, Restarted
from extract.pool import DecoderPool
from extract.preprocessing import preprocessing
from extract.videos import VideoFolder
from store.causes import relative_error
from store.errors import DecodeError, StoreError, WeightsError, counted, first_of
from store.read import FeatureStore
from store.recipe import Recipe

MOST_FRAMES = 32
"""Frames of the video that are looked at, from its first: every way computes them anew."""
EXPLAINED = 0.1
"""The largest error of a way that explains a store: rounding makes 0.06 at most."""
_LAGS = range(-2, 3)
_DOUBTFUL = 0.5
"""A way must at least halve the error of what the config says to be named in its place."""


@dataclass(frozen=True)
class Way:
    """One way to make features, and how near it comes to a store."""

    name: str
    error: float
    """||way - store|| / ||store - mean(store)|| at the best of some shifts."""
    lag: int
    """Frame i of the store is frame i + lag of the video's kept frames."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How one store was made, as far as one video tells."""

    recorded: Way
    """What the config says."""
    best: Way

    @property
    def explained(self) -> bool:
        """Whether the best way gives the store's features but for rounding."""
        return self.best.error <= EXPLAINED


def find_causes(
    stores: Sequence[FeatureStore],
    videos: Sequence[str],
    roots: Sequence[Path],
    weights: str | None,
) -> tuple[str, list[Finding]]:
    """Make the features of the first video that is found in several ways, and compare with each store.

    Args:
        stores: two stores; the recipe of the first one that can be computed here is varied.
        videos: ids that both have.
        roots: the folders below which the video files lie.
        weights: where the weights are, as `extract --weights` takes them; None: as the stores note.

    Returns:
        The id of the video, and one finding for each store.

    Raises:
        StoreError: no file is found, or neither store's config says how to make such features.
        WeightsError: the weights of neither store are here.
        DecodeError: the video cannot be decoded.
    """
    backbones = _backbones(stores, weights)
    name, backbone = next(iter(backbones.items()))
    kind = kind_of(Recipe.of(stores["AB".index(name)]))
    found = VideoFolder(roots, kind, videos)
    paths = {v: found.candidates(v) for v in videos}
    usable = [video for video, candidates in paths.items() if len(candidates) == 1]
    if not usable:
        raise StoreError(
            f"None of the {counted(len(videos), 'video')} that differ is found in {found} "
            f"{first_of(videos)}: "
            f"{found.why_missing(videos[0])}. Name the folder that they were extracted from: --videos DIR."
        )
    video = usable[0]
    root, path = paths[video][0]
    decode = _decoder(video, root / path)
    ways = {f"as the config of {name} says": backbone(decode(backbone.frames))}
    ways |= _ways(backbone, decode)
    for letter, other in backbones.items():
        if other.config != backbone.config:
            ways[f"as the config of {letter} says"] = other(decode(other.frames))
    findings = []
    for store, letter in zip(stores, "AB"):
        tried = [_nearest(way, features, store.read(video)) for way, features in ways.items()]
        said = f"as the config of {letter} says"
        recorded = next((way for way in tried if way.name == said), tried[0])
        best = min(tried, key=lambda way: way.error)
        doubtful = best.error > _DOUBTFUL * recorded.error
        findings.append(Finding(recorded=recorded, best=recorded if doubtful else best))
    return video, findings


def _backbones(stores: Sequence[FeatureStore], weights: str | None) -> dict[str, Backbone]:
    """Return the backbones of those stores that can be computed here, by the store's letter."""
    backbones: dict[str, Backbone] = {}
    errors: list[StoreError | WeightsError] = []
    for letter, store in zip("AB", stores):
        try:
            backbones[letter] = exact_backbone(Recipe.of(store), weights)
        except (StoreError, WeightsError) as error:
            errors.append(error)
    if not backbones:
        raise errors[0]
    return backbones


def _decoder(video: str, path: Path) -> Callable[[FrameOptions], np.ndarray]:
    known: dict[FrameOptions, np.ndarray] = {}

    def decode(options: FrameOptions) -> np.ndarray:
        if options not in known:
            known[options] = _decoded(video, path, options)
        return known[options]

    return decode


def _decoded(video: str, path: Path, options: FrameOptions) -> np.ndarray:
    """Return the first kept frames of a video, (F, crop, crop, 3) uint8."""
    images: list[np.ndarray] = []
    options = dataclasses.replace(options, keep_damaged=True)
    with DecoderPool([(video, path)], options, workers=1, take_turns=True) as pool:
        for event in pool:
            if isinstance(event, Frames):
                if sum(map(len, images)) < MOST_FRAMES:
                    images.append(event.images.copy())
            elif isinstance(event, Restarted):
                images.clear()
            elif isinstance(event, Broken):
                if not event.again:
                    raise DecodeError(f"{path}: {event.reason}")
                images.clear()
    if not images:
        raise DecodeError(f"{path}: no frame was decoded.")
    return np.concatenate(images)[:MOST_FRAMES]


def _ways(
    backbone: Backbone, decode: Callable[[FrameOptions], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the features of every way that differs from the recorded one: name -> (F, width) float32."""
    images = decode(backbone.frames)
    yield "the channel order BGR", backbone(np.ascontiguousarray(images[..., ::-1]))
    own = backbone._mean, backbone._std
    for name, mean, deviation in (
        ("pixels from 0 to 1 that are not normalised", 0.0, 1.0),
        ("pixels from -1 to 1 in place of ImageNet's mean and deviation", 0.5, 0.5),
        ("pixels from 0 to 255 that are not normalised", 0.0, 1 / 255),
    ):
        backbone._mean, backbone._std = [mean] * 3, [deviation] * 3
        yield name, backbone(images)
    backbone._mean, backbone._std = own
    if backbone.precision == "float32":
        backbone.precision = "bfloat16"
        yield "bfloat16 in place of float32", backbone(images)
        backbone.precision = "float32"
    for name, frames in _geometries(backbone):
        yield name, backbone(decode(frames))


def _geometries(backbone: Backbone) -> Iterator[tuple[str, FrameOptions]]:
    """Yield other ways to resize and to crop: name -> options of the decoder."""
    known = {backbone.frames}
    presets = []
    own = ("timm",) if is_timm(backbone.options.backbone) else ("ta3n", "torchvision")
    for preset in own:
        frames = preprocessing(dataclasses.replace(backbone.options, preset=preset))[0]
        sizes = f"shorter side {frames.resize}, crop {frames.crop}"
        presets.append((f"the preset {preset} ({sizes})", frames))
    for name, frames in (
        *presets,
        ("shorter side 256, crop 224", dataclasses.replace(backbone.frames, resize=256, crop=224)),
        ("shorter side 224, crop 224", dataclasses.replace(backbone.frames, resize=224, crop=224)),
        ("bicubic resizing", dataclasses.replace(backbone.frames, interpolation="bicubic")),
        (
            "nearest-neighbour resizing",
            dataclasses.replace(backbone.frames, interpolation="nearest"),
        ),
    ):
        if frames not in known:
            known.add(frames)
            yield name, frames


def _nearest(name: str, way_FD: np.ndarray, stored_TD: np.ndarray) -> Way:
    """Compare with a store's features at the best of some shifts."""
    way, stored = way_FD.astype(np.float64), stored_TD.astype(np.float64)
    if way.shape[1] != stored.shape[1]:
        return Way(name, np.inf, 0)
    errors = {}
    for lag in _LAGS:
        begin = max(0, -lag)
        length = min(len(way) - begin - lag, len(stored) - begin)
        if length >= min(2, len(stored)):
            rows = slice(begin, begin + length)
            errors[lag] = relative_error(way[begin + lag : begin + lag + length], stored[rows])
    lag = min(errors, key=lambda lag: (errors[lag], abs(lag)), default=0)
    return Way(name, errors.get(lag, np.inf), lag)
