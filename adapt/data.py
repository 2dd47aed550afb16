"""Batches, the order in which videos come, and which store they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from store.errors import StoreError, first_of
from store.format import config_differences
from store.manifest import Video
from store.read import FeatureStore


@dataclass(frozen=True)
class SourceBatch:
    """A labelled batch: features (B, T, D) float32, labels (B,) long."""

    features_BTD: Tensor
    labels_B: Tensor


@dataclass(frozen=True)
class TargetBatch:
    """An unlabelled batch. It has no field for labels, so no loss can read one."""

    features_BTD: Tensor


def labels_of(videos: Sequence[Video]) -> Tensor:
    """Labels (V,) long."""
    return torch.tensor([video.label for video in videos])


class Stream:
    """Endless video numbers: pass after pass, each in an order of its own. Resumable."""

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
        """What the stream goes on from."""
        return {"generator": self._generator.get_state(), "waiting": self._waiting.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""
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


def choose_stores(
    source: dict[str, FeatureStore],
    target: dict[str, FeatureStore],
    *,
    chosen: str | None,
) -> tuple[FeatureStore, FeatureStore]:
    """One store of each domain, made with the same config; never a guess between several.

    Names alone do not tell: a folder may have been renamed, so the configs' sha256 are compared.

    Args:
        source, target: stores by folder name, which names the config; neither is empty.
        chosen: folder name or the beginning of one, None if the user named none.

    Raises:
        StoreError: none or several fit; the message lists them and what differs.
    """
    both = sorted(set(source) & set(target))
    common = [name for name in both if _same_config(source[name], target[name])]
    if chosen is not None:
        fitting = [name for name in common if name.startswith(chosen)]
        if len(fitting) != 1:
            raise StoreError(
                f"--store {chosen} fits {len(fitting)} stores; both domains have: "
                f"{', '.join(common) or 'none'}."
            )
        return source[fitting[0]], target[fitting[0]]
    if not common:
        pairs = [(source[name], target[name]) for name in both]
        a, b = pairs[0] if pairs else (next(iter(source.values())), next(iter(target.values())))
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


def _same_config(a: FeatureStore, b: FeatureStore) -> bool:
    return bool(a.index["config_sha256"] == b.index["config_sha256"])


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
