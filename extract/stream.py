"""Videos in, features of chosen frames out: nothing is stored, and memory stays flat."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extract.backbone import Backbone
from extract.batches import Batches
from extract.events import Attempt, Broken, Decoded, Event, Frames, Opened
from extract.pool import DecoderPool


@dataclass(frozen=True)
class Extracted:
    """Features of some frames of one video."""

    video: str
    frames: int
    """F, how many frames a store would have of the video."""
    numbers_K: np.ndarray
    """Which of them these are, ascending."""
    features_KD: np.ndarray
    """Their features, float16, the same to the bit as those that a store would have on a CPU."""


@dataclass(frozen=True)
class Unreadable:
    """A video that cannot be decoded, or whose features float16 cannot hold."""

    video: str
    reason: str


@dataclass(eq=False)
class _Taken:
    """What is known of a video so far."""

    numbers_K: np.ndarray
    features_KD: np.ndarray
    seen: int = 0
    """Decoded frames."""
    written: int = 0
    """Rows of `features_KD` that have come back from the backbone."""
    too_large: bool = False
    """Whether float16 cannot hold one of them."""


def stream(
    backbone: Backbone,
    videos: Iterable[tuple[str, Path]],
    choose: Callable[[int], np.ndarray],
    *,
    workers: int,
    deadline: float = 120.0,
    decoders: Mapping[str, str] | None = None,
) -> Iterator[Extracted | Unreadable]:
    """Decode every video whole, and compute the chosen frames; the results come in any order.

    Args:
        videos: names, all different, and paths.
        choose: the number of a video's frames F -> which of 0 to F - 1 are wanted, ascending.
        deadline, decoders: see `DecoderPool`.

    Raises:
        DecodeError: no decoder starts.
    """
    turns = backbone.device.type == "cpu"
    with DecoderPool(
        videos,
        backbone.frames,
        workers=workers,
        take_turns=turns,
        deadline=deadline,
        decoders=decoders,
    ) as pool:
        yield from _Stream(backbone, choose).results(pool)


class _Stream:
    def __init__(self, backbone: Backbone, choose: Callable[[int], np.ndarray]) -> None:
        self._width, self._choose = backbone.width, choose
        self._batches = Batches(backbone, self._append)
        self._live: dict[Attempt, _Taken] = {}
        self._decoded: set[Attempt] = set()
        self._done: deque[Extracted | Unreadable] = deque()

    def results(self, pool: Iterable[Event]) -> Iterator[Extracted | Unreadable]:
        for event in pool:
            self._handle(event)
            while self._done:
                yield self._done.popleft()
        self._batches.flush()
        yield from self._done

    def _handle(self, event: Event) -> None:
        attempt = event.attempt
        if isinstance(event, Opened):
            assert attempt.facts is not None
            numbers_K = self._choose(attempt.facts.kept_frames)
            rows_KD = np.empty((len(numbers_K), self._width), np.float16)
            self._live[attempt] = _Taken(numbers_K, rows_KD)
        elif isinstance(event, Frames):
            self._take(attempt, event.images)
        elif isinstance(event, Decoded):
            self._decoded.add(attempt)
            self._complete(attempt)
        else:  # what came so far must be forgotten
            self._live.pop(attempt, None)
            if isinstance(event, Broken) and not event.again:
                self._done.append(Unreadable(attempt.video, f"{event.reason} (tried twice)"))

    def _take(self, attempt: Attempt, images: np.ndarray) -> None:
        taken = self._live.get(attempt)
        if taken is None:
            return
        begin, taken.seen = taken.seen, taken.seen + len(images)
        first, last = np.searchsorted(taken.numbers_K, (begin, taken.seen))
        if last > first:
            self._batches.add(attempt, images[taken.numbers_K[first:last] - begin])

    def _append(self, attempt: Attempt, rows_FD: np.ndarray) -> None:
        taken = self._live.get(attempt)
        if taken is None:
            return
        with np.errstate(over="ignore"):
            rounded_FD = rows_FD.astype(np.float16)
        taken.too_large |= not np.isfinite(rounded_FD).all()
        taken.features_KD[taken.written : taken.written + len(rows_FD)] = rounded_FD
        taken.written += len(rows_FD)
        self._complete(attempt)

    def _complete(self, attempt: Attempt) -> None:
        taken = self._live.get(attempt)
        if taken is None or attempt not in self._decoded or taken.written < len(taken.numbers_K):
            return
        del self._live[attempt]
        self._decoded.discard(attempt)
        assert attempt.facts is not None
        if taken.too_large:
            reason = "its features are not finite, or too large for float16"
            self._done.append(Unreadable(attempt.video, reason))
            return
        kept = attempt.facts.kept_frames
        self._done.append(Extracted(attempt.video, kept, taken.numbers_K, taken.features_KD))
