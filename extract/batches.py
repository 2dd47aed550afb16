"""Frames of any videos in, full batches through the backbone, features of the same videos out, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from extract.backbone import Backbone
from extract.events import Attempt

_IN_FLIGHT = 3
"""Batches on a GPU at once: one computes, one is copied there, one is copied back."""


@dataclass(eq=False)
class _Batch:
    buffer: Tensor
    spans: list[tuple[Attempt, int]] = field(default_factory=list)
    """Whose frames these are, in order, and how many of each."""
    result: Callable[[], np.ndarray] | None = None

    @property
    def filled(self) -> int:
        return sum(count for _, count in self.spans)


class Batches:
    """Batches that are filled, computed and delivered.

    Args:
        deliver: takes an attempt and the next of its features, (F, width) float32.

    Attributes:
        backbone_seconds, deliver_seconds: what the time went to.
    """

    def __init__(self, backbone: Backbone, deliver: Callable[[Attempt, np.ndarray], None]) -> None:
        self.backbone_seconds = self.deliver_seconds = 0.0
        self._backbone, self._deliver = backbone, deliver
        self._free = [_Batch(backbone.staging()) for _ in range(_IN_FLIGHT)]
        self._filling = self._free.pop()
        self._flying: deque[_Batch] = deque()

    def add(self, attempt: Attempt, images: np.ndarray) -> None:
        """Take the next frames of a video, (F, crop, crop, 3) uint8; they are copied."""
        while len(images):
            room = self._backbone.batch - self._filling.filled
            at, part = self._filling.filled, images[:room]
            self._filling.buffer.numpy()[at : at + len(part)] = part
            self._filling.spans.append((attempt, len(part)))
            images = images[room:]
            if len(part) == room:
                self._launch()

    def flush(self) -> None:
        """Compute and deliver everything that was taken."""
        if self._filling.spans:
            self._launch()
        while self._flying:
            self._collect()

    def _launch(self) -> None:
        begin = time.monotonic()
        self._filling.result = self._backbone.submit(self._filling.buffer)
        self.backbone_seconds += time.monotonic() - begin
        self._flying.append(self._filling)
        if not self._free or self._backbone.device.type == "cpu":
            self._collect()
        self._filling = self._free.pop()

    def _collect(self) -> None:
        """Wait for the oldest batch's features and deliver them."""
        batch = self._flying.popleft()
        assert batch.result is not None
        begin = time.monotonic()
        features_FD = batch.result()
        computed = time.monotonic()
        at = 0
        for attempt, count in batch.spans:
            self._deliver(attempt, features_FD[at : at + count])
            at += count
        self.backbone_seconds += computed - begin
        self.deliver_seconds += time.monotonic() - computed
        batch.spans, batch.result = [], None
        self._free.append(batch)
