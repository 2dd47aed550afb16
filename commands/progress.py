"""Showing the progress of a long command."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from adapt.config import AdaptConfig
from commands.text import say, shown
from store.machine import Process

if TYPE_CHECKING:
    from extract.report import Progress


class _Lines:
    """Shows a bar on a terminal, and elsewhere a line every few seconds, so that logs stay readable."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._said = time.monotonic()
        self._done = 0

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def show(self, done: int, total: int, detail: str, left: str) -> None:
        """Show that `done` of `total` are done, with a detail and the time left."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(
                    length=total,
                    label=shown(self._label),
                    show_pos=True,
                    show_eta=False,
                    item_show_func=str,
                    file=sys.stderr,
                )
            self._bar.update(done - self._bar.pos, f"{detail}, {left}")
        elif time.monotonic() - self._said > 5 or done == total > self._done:
            self._said, self._done = time.monotonic(), done
            say(f"{self._label}: {done:,}/{total:,}, {detail}, {left}", err=True)


class ExtractProgress(_Lines):
    """Shows videos, frames per second, which part is the slowest, and the time left."""

    def __init__(self, dataset: str, process: Process) -> None:
        rank = f" (rank {process.rank} of {process.world})" if process.world > 1 else ""
        super().__init__(dataset + rank)
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        """Show the progress, twice a second at most."""
        if progress.seconds - self._shown < 0.5 and progress.videos_done < progress.videos:
            return
        self._shown = progress.seconds
        rate = progress.frames_done / max(progress.seconds, 1e-9)
        done, total = progress.videos_done, progress.videos
        if progress.frames:  # frames tell the time left better than videos, where they are known
            done, total = progress.frames_done, max(progress.frames, progress.frames_done)
        left = progress.seconds / done * (total - done) if done else float("inf")
        parts = {
            "decoder": progress.decoders,
            "backbone": progress.backbone,
            "disk": progress.store,
        }
        slowest = max(parts, key=lambda name: parts[name])
        share = 100 * parts[slowest] / max(progress.seconds, 1e-9)
        self.show(
            progress.videos_done,
            progress.videos,
            f"{rate:,.1f} frames/s, {slowest}-bound ({share:.0f} %)",
            _left(left),
        )


class AdaptProgress(_Lines):
    """Shows epochs, losses and the time left."""

    def __init__(self, config: AdaptConfig, runs: int) -> None:
        super().__init__(f"{config.source} -> {config.target}")
        self._epochs = int(config.as_dict().get("epochs", 1))  # a fit without gradients has none
        self._total = self._epochs * runs
        self._trained = 0
        self._runs: list[AdaptConfig] = []
        self._begin = time.monotonic()

    def __call__(self, config: AdaptConfig, epoch: int, metrics: Mapping[str, float]) -> None:
        """Show the end of an epoch."""
        self._trained += 1
        if config not in self._runs[-1:]:
            self._runs.append(config)
        done = (len(self._runs) - 1) * self._epochs + epoch
        seconds = (time.monotonic() - self._begin) / self._trained * (self._total - done)
        names = ("source", "entropy", "adversarial", "frame", "relation", "video")
        losses = " ".join(f"{name} {metrics[name]:.3f}" for name in names if name in metrics)
        self.show(done, self._total, losses, _left(seconds))


class PredictProgress(_Lines):
    """Shows predicted videos, videos per second and the time left."""

    def __init__(self, videos: int) -> None:
        super().__init__("predict")
        self._videos = videos
        self._begin = time.monotonic()

    def __call__(self, done: int) -> None:
        """Show that `done` videos are done, the unreadable ones among them."""
        seconds = time.monotonic() - self._begin
        left = _left(seconds / done * (self._videos - done))
        self.show(done, self._videos, f"{done / max(seconds, 1e-9):,.1f} videos/s", left)


def _left(seconds: float) -> str:
    if seconds == float("inf"):
        return "time left unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    shown = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{shown} left"
