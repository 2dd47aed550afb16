"""Batches, and the order in which videos come."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapt import parallel
from adapt.bank import Bank, sample
from adapt.config import AdaptConfig
from store.manifest import Video

_PER_CLASS: Mapping[str, Callable[[Iterable[int]], int]] = {
    "smallest-class": min,
    "largest-class": max,
}


@dataclass(frozen=True)
class SourceBatch:
    """A labelled batch: features (B, T, D) float32, labels (B,) long."""

    features_BTD: Tensor
    labels_B: Tensor


@dataclass(frozen=True)
class TargetBatch:
    """An unlabelled batch. It has no field for labels, so no loss can read one."""

    features_BTD: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The source's training videos with labels (V,), the target's without: those are not even loaded."""

    source: Bank
    labels_V: Tensor
    target: Bank
    classes: Sequence[str]
    device: torch.device


def labels_of(videos: Sequence[Video]) -> Tensor:
    """Labels (V,) long, of videos that all have one."""
    return torch.tensor([video.label for video in videos])


class Stream:
    """Endless video numbers: pass after pass, each in an order of its own. It can be resumed."""

    def __init__(
        self, one_pass: Callable[[torch.Generator], Tensor], generator: torch.Generator
    ) -> None:
        self._one_pass = one_pass
        self._generator = generator
        self._waiting = torch.empty(0, dtype=torch.long)

    def take(self, count: int) -> Tensor:
        """The next video numbers, (count,) long; a pass may end within."""
        passes, ready = [self._waiting], len(self._waiting)
        while ready < count:
            passes.append(self._one_pass(self._generator))
            ready += len(passes[-1])
        joined = torch.cat(passes)
        self._waiting = joined[count:]
        return joined[:count]

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` continues from."""
        return {"generator": self._generator.get_state(), "waiting": self._waiting.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from there."""
        self._generator.set_state(state["generator"])
        self._waiting = state["waiting"]


def shuffled(count: int, generator: torch.Generator) -> Stream:
    """Every pass is 0..count-1 in a new order."""
    return Stream(lambda random: torch.randperm(count, generator=random), generator)


def class_balanced(
    labels_V: Tensor,
    generator: torch.Generator,
    per_class: Callable[[Iterable[int]], int] = min,
) -> Stream:
    """Every pass takes equally many videos of each class: `per_class` of the classes' sizes, min or max.

    Classes with fewer are gone through again and again, each time in a new order.
    """
    members = [torch.nonzero(labels_V == label).squeeze(1) for label in labels_V.unique()]
    count = per_class(len(member) for member in members)

    def of_class(member: Tensor, random: torch.Generator) -> Tensor:
        rounds = math.ceil(count / len(member))
        orders = [torch.randperm(len(member), generator=random) for _ in range(rounds)]
        return member[torch.cat(orders)[:count]]

    def one_pass(random: torch.Generator) -> Tensor:
        joined = torch.cat([of_class(member, random) for member in members])
        return joined[torch.randperm(len(joined), generator=random)]

    return Stream(one_pass, generator)


def source_stream(config: AdaptConfig, labels_V: Tensor, generator: torch.Generator) -> Stream:
    """The source's order, by `--source-sampling`."""
    if config.source_sampling == "shuffled":
        return shuffled(len(labels_V), generator)
    return class_balanced(labels_V, generator, _PER_CLASS[config.source_sampling])


def batch_sizes(config: AdaptConfig, data: TrainingData) -> tuple[int, int]:
    """Source and target videos of a step; `proportional` is floor(B_s V_t / V_s), but at least one."""
    if config.target_batch == "equal":
        return config.batch_size, config.batch_size
    return config.batch_size, max(1, config.batch_size * len(data.target) // len(data.source))


def steps_of(config: AdaptConfig, data: TrainingData) -> int:
    """Steps of an epoch, which is one pass over the target: ceil(V_t / target videos of a step)."""
    return math.ceil(len(data.target) / batch_sizes(config, data)[1])


def batches(
    config: AdaptConfig,
    data: TrainingData,
    streams: tuple[Stream, Stream],
    generators: tuple[torch.Generator, torch.Generator],
) -> Iterator[tuple[SourceBatch, TargetBatch]]:
    """The batch pairs of one epoch, this process's share of each; every batch is full.

    Several draws of a video stand in the batch like several videos, because losses are means. All
    random choices of the epoch are made before the first batch.

    Args:
        streams, generators: of the source and of the target: the order, and the frames of `jittered`.
    """
    steps = steps_of(config, data)
    sizes = [size * config.draws for size in batch_sizes(config, data)]
    source_V, target_V = (
        stream.take(steps * size // config.draws).repeat_interleave(config.draws)
        for stream, size in zip(streams, sizes)
    )
    centred = config.train_sampling == "centred"
    source_frames, target_frames = (
        sample(bank, videos_V, config.frames, None if centred else generator)
        for bank, videos_V, generator in zip(
            (data.source, data.target), (source_V, target_V), generators
        )
    )
    labels = data.labels_V[source_V].to(data.device)
    for i in range(steps):
        s, t = (parallel.share(slice(i * size, (i + 1) * size)) for size in sizes)
        yield (
            SourceBatch(data.source.gather(source_V[s], source_frames[s]), labels[s]),
            TargetBatch(data.target.gather(target_V[t], target_frames[t])),
        )
