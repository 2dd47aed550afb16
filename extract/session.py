"""Between the decoders and the finished shards: frames into batches, features into videos and shards.

Frames of several videos share a batch, so a video is complete once all its rows have come back, and a
shard once all its videos are stored or given up. What a failed attempt gave is forgotten.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.backbone import Backbone
from extract.batches import Batches
from extract.events import Attempt, Decoded, Event, Frames, Opened, Restarted
from extract.pool import DecoderPool
from extract.report import Progress, now
from extract.sources import source_text
from extract.videos import VideoFolder
from store.errors import DecodeError, StoreError
from store.format import shard_numbers
from store.index import StoreIndex
from store.machine import Process
from store.plan import plan_shards, shard_number
from store.records import VideoRecord
from store.write import ShardWriter

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Shard:
    number: int
    waiting: set[str]
    """Videos of the plan that are neither stored nor given up."""
    writer: ShardWriter | None = None


class Session:
    """One run's frames and features on their way between the decoders and the finished shards.

    Args:
        videos: listed ids -> published frame count or None.
        run: who makes the store, and with what; see `StoreIndex.write`.
        on_progress: called after every batch.
        again: stored videos to extract again. Their shards get numbers above all others, so they count
            from the moment at which they are finished.
    """

    def __init__(
        self,
        backbone: Backbone,
        index: StoreIndex,
        videos: Mapping[str, int | None],
        process: Process,
        run: dict[str, Any],
        on_progress: Callable[[Progress], None],
        again: Collection[str] = (),
    ) -> None:
        self.begin = time.monotonic()
        self.failures: dict[str, VideoRecord] = {}
        self.redone: dict[str, VideoRecord] = {}  # of videos that were extracted again
        self.videos_done = self.stored = self.frames_done = 0
        self._backbone, self._index, self._videos, self._process = backbone, index, videos, process
        self._run, self._on_progress = run, on_progress
        self._old = {video: index.stored[video] for video in again}
        self._shards: dict[str, _Shard] = {}
        self._sources: dict[str, str] = {}
        self._filled: list[_Shard] = []  # shards that are being filled
        self._live: dict[Attempt, int] = {}  # attempts whose frames count -> rows that are written
        self._decoded: set[Attempt] = set()
        self._refused: dict[Attempt, str] = {}  # attempts whose features cannot be stored -> why
        self._batches = Batches(backbone, self._append)
        self._begin_seconds = 0.0
        self._expected: int | None = 0

    def plan(self, found: VideoFolder, limit: int) -> dict[str, tuple[Path, Any]]:
        """The videos that are this process's to do, in order: id -> (root, path below it)."""
        groups = plan_shards(self._videos)
        standing = shard_numbers(self._index.folder)
        below = range(1 + max(standing, default=-1))
        todo: dict[str, tuple[Path, Any]] = {}
        for group in range(self._process.rank, len(groups), self._process.world):
            taken = below if self._old.keys() & set(groups[group]) else standing
            shard = _Shard(shard_number(group, len(groups), taken), set())
            for video in groups[group]:
                if video in self._index.stored and video not in self._old:
                    continue
                candidates = found.candidates(video)
                if len(candidates) != 1:
                    self.failures[video] = VideoRecord(
                        video=video, status="missing", error=found.why_missing(video)
                    )
                elif not limit or len(todo) < limit:
                    todo[video] = candidates[0]
                    shard.waiting.add(video)
                    self._shards[video] = shard
        self._sources = {video: source_text(path) for video, (_, path) in todo.items()}
        counts = [self._videos[video] for video in todo]
        self._expected = None if None in counts else sum(filter(None, counts))
        return todo

    def work(self, pool: DecoderPool) -> None:
        """Take the pool's events to the end, or until it stops; what is complete is stored."""
        with ThreadPoolExecutor(1, "finish") as finisher:
            finishing: list[Future[Any]] = []
            broken: DecodeError | None = None
            try:
                try:
                    for event in pool:
                        self._handle(event)
                        self._finish(finisher, finishing)
                        self._report(pool)
                except DecodeError as error:  # no decoder starts: what is complete is kept
                    broken = error
                self._batches.flush()
                for shard in self._filled:
                    shard.waiting.clear()  # after an early stop: what is complete is kept
                self._finish(finisher, finishing)
                self._report(pool)
            except BaseException as error:
                for shard in self._filled:
                    if shard.writer is not None:
                        shard.writer.__exit__(type(error), error, error.__traceback__)
                raise
            for future in finishing:
                future.result()
            if broken is not None:
                self._index.write(self._videos, self.failures, self.run_block())
                raise broken

    def _handle(self, event: Event) -> None:
        attempt = event.attempt
        if isinstance(event, Opened):
            assert attempt.facts is not None
            begin = time.monotonic()
            writer = self._writer(self._shards[attempt.video])
            writer.begin(attempt.video, attempt.facts.kept_frames, self._backbone.width)
            self._begin_seconds += time.monotonic() - begin
            self._live[attempt] = 0
        elif isinstance(event, Frames):
            if attempt in self._live:
                self._batches.add(attempt, event.images)
        elif isinstance(event, Decoded):
            self._decoded.add(attempt)
            self._complete(attempt)
        elif isinstance(event, Restarted):
            self._forget(attempt)
        else:
            self._forget(attempt)
            if event.again:
                log.warning("%s: %s; trying once more", attempt.path, event.reason)
            else:
                self._fail(attempt, f"{event.reason} (tried twice)")

    def _append(self, attempt: Attempt, rows_FD: np.ndarray) -> None:
        if attempt not in self._live:
            return
        try:
            self._writer(self._shards[attempt.video]).append(attempt.video, rows_FD)
        except StoreError as error:
            if error.__cause__ is not None:  # the disk, not the features
                raise
            self._forget(attempt)
            # It counts when the decoder is at its end, which may begin again before.
            self._refused[attempt] = str(error)
            self._complete(attempt)
            return
        self._live[attempt] += len(rows_FD)
        self._complete(attempt)

    def _complete(self, attempt: Attempt) -> None:
        if attempt in self._decoded and attempt in self._refused:
            return self._fail(attempt, self._refused.pop(attempt))
        if attempt not in self._decoded or attempt not in self._live:
            return
        assert attempt.facts is not None
        if self._live[attempt] < attempt.facts.kept_frames:
            return
        shard, old = self._shards[attempt.video], self._old.get(attempt.video)
        record = attempt.record(self._sources[attempt.video])
        if old and old.status == "ok" != record.status:  # --keep-damaged keeps whole features, too
            self._forget(attempt)
            return self._fail(attempt, record.error)
        record = self._writer(shard).complete(record)
        if old:
            self.redone[record.video] = record
        self.frames_done += self._live.pop(attempt)
        self._decoded.discard(attempt)
        self.videos_done += 1
        self.stored += 1
        shard.waiting.discard(attempt.video)

    def _forget(self, attempt: Attempt) -> None:
        self._refused.pop(attempt, None)
        if self._live.pop(attempt, None) is not None:
            self._writer(self._shards[attempt.video]).discard(attempt.video)

    def _fail(self, attempt: Attempt, reason: str) -> None:
        log.warning("%s: %s", attempt.path, reason)
        source = self._sources[attempt.video]
        self.failures[attempt.video] = VideoRecord(
            video=attempt.video, source=source, status="failed", error=f"{source}: {reason}"
        )
        self.videos_done += 1
        self._shards[attempt.video].waiting.discard(attempt.video)

    def _writer(self, shard: _Shard) -> ShardWriter:
        if shard.writer is None:
            writer = ShardWriter(self._index.folder, shard.number, self._backbone.config)
            shard.writer = writer.__enter__()
            self._filled.append(shard)
        return shard.writer

    def _finish(self, finisher: ThreadPoolExecutor, finishing: list[Future[Any]]) -> None:
        """Hand shards that are full to the thread that syncs and hashes them."""
        for shard in [shard for shard in self._filled if not shard.waiting]:
            self._filled.remove(shard)
            writer, shard.writer = shard.writer, None
            assert writer is not None
            finishing.append(finisher.submit(self._close, writer, dict(self.failures)))
        while finishing and finishing[0].done():
            finishing.pop(0).result()

    def _close(self, writer: ShardWriter, failures: dict[str, VideoRecord]) -> None:
        writer.__exit__(None, None, None)
        self._index.write(self._videos, failures, self.run_block())

    def run_block(self) -> dict[str, Any]:
        """Who made it, on what, from when to when."""
        return {**self._run, "ended": now()}

    def _report(self, pool: DecoderPool) -> None:
        self._on_progress(
            Progress(
                videos_done=self.videos_done,
                videos=len(self._shards),
                frames_done=self.frames_done + sum(self._live.values()),
                frames=self._backbone.frames.kept_of(self._expected, len(self._shards)),
                seconds=time.monotonic() - self.begin,
                decoders=pool.waited,
                backbone=self._batches.backbone_seconds,
                store=self._begin_seconds + self._batches.deliver_seconds,
            )
        )
