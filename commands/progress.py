"""What the progress of extract, adapt and benchmark shows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapt.config import AdaptConfig
from commands.bar import Lines, time_left
from store.machine import Process
from store.remote import Progress as TransferEvents

if TYPE_CHECKING:
    from adapt.crew import Event
    from adapt.plan import Job
    from adapt.scoreboard import Row
    from extract.report import Progress
    from store.moving import Moved
    from store.source_files import ExchangeStep


class ExtractProgress(Lines):
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
            time_left(left),
        )


_NO_LOSS = ("epoch", "learning_rate", "reversal", "scores", "seconds")
"""What stands in an epoch's metrics beside its losses."""


class AdaptProgress(Lines):
    """Shows epochs, losses and the time left."""

    def __init__(self, config: AdaptConfig, runs: int) -> None:
        super().__init__(f"{config.source} -> {config.target}")
        self._epochs = int(config.as_dict().get("epochs", 1))  # a fit without gradients has none
        self._total = self._epochs * runs
        self._trained = 0
        self._runs: list[AdaptConfig] = []
        self._begin = time.monotonic()
        self._along: _Along | None = None

    def of_baseline(self, config: AdaptConfig, metrics: Mapping[str, Any]) -> None:
        """Show the end of an epoch of source only, which is trained along and is no epoch of a run."""
        if self._along is None:
            self._along = _Along(config.epochs)
        self._along(metrics)
        if metrics["epoch"] == config.epochs:
            self._along.__exit__()
            self._begin += self._along.seconds
            self._along = None

    def __call__(self, config: AdaptConfig, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Show the end of an epoch."""
        self._trained += 1
        if config not in self._runs[-1:]:
            self._runs.append(config)
        done = (len(self._runs) - 1) * self._epochs + epoch
        seconds = (time.monotonic() - self._begin) / self._trained * (self._total - done)
        self.show(done, self._total, _losses(metrics), time_left(seconds))


class _Along(Lines):
    """Shows how far source only has come that is trained along with a run."""

    def __init__(self, epochs: int) -> None:
        super().__init__("source only, trained along")
        self._epochs = epochs
        self.seconds = 0.0
        """How long its epochs took until now."""

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        self.seconds += metrics["seconds"]
        done = metrics["epoch"]
        left = time_left(self.seconds / done * (self._epochs - done))
        self.show(done, self._epochs, _losses(metrics), left)


def _losses(metrics: Mapping[str, Any]) -> str:
    """`source 1.098 entropy 0.693`."""
    return " ".join(
        f"{name} {value:.3f}"
        for name, value in metrics.items()
        if name not in _NO_LOSS and not isinstance(value, Mapping)  # a group, such as level weights
    )


class BenchmarkProgress(Lines):
    """Shows how many runs are done, what is trained now, and the time left of the whole plan.

    Args:
        jobs: the runs that are still to be done; known: seconds of finished runs, by row.
        processes: how many run side by side.
    """

    def __init__(
        self,
        label: str,
        jobs: Sequence[Job],
        known: Mapping[Row, Sequence[float]],
        processes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(label)
        self._todo = {job.folder: job for job in jobs}
        self._total, self._processes, self._clock = len(jobs), processes, clock
        self._known = {row: list(seconds) for row, seconds in known.items()}
        self._running: dict[Path, tuple[float, int | None, int]] = {}
        """Of a run: when it began, the first epoch that it said, and the last one."""

    def __call__(self, event: Event) -> None:
        """Take note of an event and show where the plan is."""
        folder = event.job.folder
        if event.kind == "started":
            self._running[folder] = (self._clock(), None, 0)
        elif event.kind == "epoch":
            begin, first, _ = self._running[folder]
            self._running[folder] = (begin, event.epoch if first is None else first, event.epoch)
        elif event.kind in ("done", "failed"):
            begin, _, _ = self._running.pop(folder)
            del self._todo[folder]
            if event.kind == "done":
                self._known.setdefault(event.job.row, []).append(self._clock() - begin)
        now = ", ".join(
            f"{'-'.join(self._todo[f].row)} seed {self._todo[f].config.seed} epoch {epoch}"
            for f, (_, _, epoch) in self._running.items()
        )
        left = time_left(self.seconds_left())
        self.show(self._total - len(self._todo), self._total, now or "writing tables", left)

    def seconds_left(self) -> float:
        """An estimate from how long runs of the same row, or else of any row, took; inf if none did."""
        rows = {row: sum(seconds) / len(seconds) for row, seconds in self._known.items()}
        found = {f: self._whole(f, rows.get(job.row)) for f, job in self._todo.items()}
        judged = [seconds for seconds in found.values() if seconds is not None]
        if found and not judged:
            return float("inf")
        usual = sum(judged) / max(1, len(judged))
        lefts = [
            max(0.0, (usual if whole is None else whole) - self._spent(folder))
            for folder, whole in found.items()
        ]
        return max([sum(lefts) / self._processes, *lefts[: self._processes]], default=0.0)

    def _spent(self, folder: Path) -> float:
        return self._clock() - self._running[folder][0] if folder in self._running else 0.0

    def _whole(self, folder: Path, usual: float | None) -> float | None:
        """How long a run takes in all: by its own epochs, or as others of its row did."""
        _, first, epoch = self._running.get(folder, (0.0, None, 0))
        if first is None:
            return usual
        epochs = self._todo[folder].epochs
        return self._spent(folder) * (epochs - first + 1) / (epoch - first + 1)


class MoveProgress(Lines):
    """Shows videos that were moved to new shards, megabytes per second and the time left."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._begin = time.monotonic()

    def __call__(self, moved: Moved) -> None:
        """Show how far it is."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        rate = f"{moved.bytes / seconds / 1e6:,.1f} MB/s"
        left = seconds / moved.bytes * (moved.of_bytes - moved.bytes)
        self.show(moved.videos, moved.of_videos, rate, time_left(left))


class ExchangeProgress(Lines):
    """Shows imported or exported videos, features per second and the time left."""

    def __call__(self, progress: ExchangeStep) -> None:
        """Show the end of a video."""
        done, seconds = progress.videos_done, max(progress.seconds, 1e-9)
        left = seconds / done * (progress.videos - done) if done else float("inf")
        rate = progress.frames_done / seconds
        self.show(done, progress.videos, f"{rate:,.0f} features/s", time_left(left))


class TransferProgress(Lines, TransferEvents):
    """Shows the megabytes of a store that were moved, how fast, and the time left."""

    def __init__(self, doing: str) -> None:
        super().__init__(doing)
        self._doing = doing
        self._lock = threading.Lock()
        self._moved = self._total = 0
        self._begin = time.monotonic()

    def begin(self, what: str, total: int) -> None:
        """Begin with a store, of which `total` bytes are to be moved."""
        self.__exit__()
        super().__init__(f"{self._doing} {what}, MB")
        self._moved, self._total, self._begin = 0, total, time.monotonic()

    def tick(self, count: int) -> None:
        """Show that `count` bytes more were moved; called from several threads."""
        with self._lock:
            self._moved += count
            seconds = max(time.monotonic() - self._begin, 1e-9)
            rate = self._moved / seconds
            left = (self._total - self._moved) / rate if rate > 0 else float("inf")
            done, total = (math.ceil(n / 1e6) for n in (self._moved, self._total))
            self.show(done, total, f"{rate / 1e6:,.1f} MB/s", time_left(left))
