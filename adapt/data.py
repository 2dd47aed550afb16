"""Cached features in memory and the batches drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adapt.sampling import centred, jittered
from extract.errors import StoreError, first_of
from extract.manifest import Video
from extract.store import FeatureStore, config_differences


@dataclass(frozen=True)
class SourceBatch:
    """A labelled batch: features (B, T, D) float32, labels (B,) long."""

    features_BTD: Tensor
    labels_B: Tensor


@dataclass(frozen=True)
class TargetBatch:
    """An unlabelled batch. It has no field for labels, so no loss can read one."""

    features_BTD: Tensor


class FeatureBank:
    """All features of some videos as one float16 block; frames are picked by index arithmetic.

    Attributes:
        block: (frames of all videos, D) float16.
        counts_V: frames per video, (V,) long.
    """

    def __init__(self, features: Sequence[np.ndarray], device: torch.device) -> None:
        self.counts_V = torch.tensor([len(f) for f in features], device=device)
        self.block = torch.from_numpy(np.concatenate(features)).to(device)
        self._begin_V = self.counts_V.cumsum(0) - self.counts_V

    def __len__(self) -> int:
        return len(self.counts_V)

    @property
    def width(self) -> int:
        """D, the backbone's width."""
        return self.block.shape[1]

    def draw(self, videos_B: Tensor, frames: int, generator: torch.Generator | None) -> Tensor:
        """Sampled frames of some videos, float32 (B, T, D): jittered by the generator, else centred."""
        videos_B = videos_B.to(self.block.device)
        counts_B = self.counts_V[videos_B]
        if generator is None:
            index_BT = centred(counts_B, frames)
        else:  # drawn on the CPU, so that a seed gives the same frames on every device
            index_BT = jittered(counts_B.cpu(), frames, generator).to(self.block.device)
        return self.block[self._begin_V[videos_B, None] + index_BT].float()


def load_bank(store: FeatureStore, videos: Sequence[Video], device: torch.device) -> FeatureBank:
    """Read the videos' features into memory, each checked against its crc32.

    Raises:
        StoreError: a video is not in the store, or its bytes are damaged.
    """
    return FeatureBank([store.read(video.id) for video in videos], device)


def labels_of(videos: Sequence[Video]) -> Tensor:
    """Labels (V,) long."""
    return torch.tensor([video.label for video in videos])


def shuffled(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches (size,) of video numbers: pass after pass over 0..count-1, each in a new order."""
    return _batches(lambda: torch.randperm(count, generator=generator), size)


def class_balanced(labels_V: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """As `shuffled`, but a pass takes as many videos per class as the smallest class has."""
    members = [torch.nonzero(labels_V == label).squeeze(1) for label in labels_V.unique()]
    least = min(len(member) for member in members)

    def one_pass() -> Tensor:
        chosen = [m[torch.randperm(len(m), generator=generator)[:least]] for m in members]
        joined = torch.cat(chosen)
        return joined[torch.randperm(len(joined), generator=generator)]

    return _batches(one_pass, size)


def _batches(one_pass: Callable[[], Tensor], size: int) -> Iterator[Tensor]:
    waiting = torch.empty(0, dtype=torch.long)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, one_pass()])
        yield waiting[:size]
        waiting = waiting[size:]


def choose_stores(
    source: dict[str, FeatureStore],
    target: dict[str, FeatureStore],
    *,
    chosen: str | None,
    commands: Sequence[str],
) -> tuple[FeatureStore, FeatureStore]:
    """One store of each domain, made with the same config; never a guess between several.

    Args:
        source, target: stores by folder name, which names the config.
        chosen: folder name or the beginning of one, None if the user named none.
        commands: the extract commands of both data sets, for messages.

    Raises:
        StoreError: none or several fit; the message lists them and what differs.
    """
    if not source or not target:
        lacking = [c for c, stores in zip(commands, (source, target)) if not stores]
        raise StoreError("There are no features yet. Run:\n  " + "\n  ".join(lacking))
    common = sorted(set(source) & set(target))
    if chosen is not None:
        fitting = [name for name in common if name.startswith(chosen)]
        if len(fitting) != 1:
            raise StoreError(
                f"--store {chosen} fits {len(fitting)} stores; both domains have: "
                f"{', '.join(common) or 'none'}."
            )
        return source[fitting[0]], target[fitting[0]]
    if not common:
        (a, *_), (b, *_) = source.values(), target.values()
        raise StoreError(
            "The features of source and target were made differently and cannot be mixed: "
            f"{a.folder} and {b.folder} differ in {config_differences(a.config, b.config)}. "
            "Extract one of them again with the other's options."
        )
    if len(common) > 1:
        base = source[common[0]].config
        lines = [f"  --store {common[0]}"] + [
            f"  --store {name}   ({config_differences(base, source[name].config)})"
            for name in common[1:]
        ]
        raise StoreError(
            "Several stores fit, made with different options. Choose one:\n" + "\n".join(lines)
        )
    return source[common[0]], target[common[0]]


def available(
    videos: Sequence[Video], store: FeatureStore, what: str, command: str, *, allow_missing: bool
) -> list[Video]:
    """The videos that the store has.

    Raises:
        StoreError: some are missing and that is not allowed, or all are.
    """
    missing = [video.id for video in videos if video.id not in store]
    if missing and (not allow_missing or len(missing) == len(videos)):
        raise StoreError(
            f"{len(missing)} of {len(videos)} {what} videos have no features in {store.folder} "
            f"{first_of(missing)}.\nRun: {command}\n"
            "or go on without them: --allow-missing"
        )
    return [video for video in videos if video.id in store]
