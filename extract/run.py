"""The extract stage: plan, decode, forward, store, index. Running it again goes on where it stopped."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from extract.backbone import Backbone
from extract.changed import changed_sources
from extract.config import CHANGED, ExtractConfig
from extract.plan import plan_shards, shard_number
from extract.pool import Attempt, Decoded, DecoderPool, Event, Frames, Opened, Restarted
from extract.sources import source_text
from extract.videos import VideoFolder
from store.errors import ConfigError, DecodeError, StoreError, first_of
from store.format import INDEX, read_index, shard_numbers, store_folder
from store.index import StoreIndex
from store.machine import Process
from store.records import VideoRecord
from store.rewrite import drop_videos
from store.write import ShardWriter, explained

log = logging.getLogger(__name__)

_IN_FLIGHT = 3
"""Batches on a GPU at once: one computes, one is copied there, one is copied back."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the run stands. The last three say what the time went to, in seconds."""

    videos_done: int
    videos: int
    frames_done: int
    frames: int | None
    """Frames in all, None where nobody published the counts."""
    seconds: float
    decoders: float
    backbone: float
    store: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run leaves. `records` holds every listed video, as the index does."""

    folder: Path
    index: dict[str, Any]
    records: dict[str, VideoRecord]
    new_videos: int
    """Stored in this run."""
    new_failures: int
    new_frames: int
    seconds: float
    weights: str
    stopped: bool
    changed: Sequence[str] = ()
    """Stored videos that have another file now and were not extracted again."""


def extract(
    *,
    dataset: str,
    videos: Mapping[str, int | None],
    video_roots: Sequence[Path],
    features: Path,
    options: ExtractConfig,
    process: Process | None = None,
    redo: Collection[str] = (),
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Report:
    """Store the features of every listed video found below the folders.

    Args:
        dataset: names the folder below `features`.
        videos: listed ids -> published frame count or None.
        process: which of the processes that share the shards this one is; None: the only one.
        redo: stored videos to extract again; `CHANGED` means those that have another file now.
        on_progress: called after every batch.
        stopped: asked often; once true, the run ends early and keeps what is complete.

    Raises:
        Ma2lError: nothing can be extracted at all. A single bad video is recorded instead.
    """
    process = process or Process()
    found = VideoFolder(video_roots, options.input)
    backbone = Backbone(options, local_rank=process.local_rank)
    if options.precision == "auto":
        log.info("Computing in %s (--precision auto).", backbone.precision)
        _warn_of_other_precision(backbone, features)
    folder = store_folder(features, dataset, backbone.config)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    index = StoreIndex(folder, dataset, backbone.config, backbone.width)
    changed = changed_sources(found, (r for v, r in index.stored.items() if v in videos))
    if again := _to_redo(redo, changed, index, process):
        drop_videos(folder, again, pending=True)
        index = StoreIndex(folder, dataset, backbone.config, backbone.width)
    run = _Run(backbone, index, videos, process, _run_block(backbone, process), on_progress)
    todo = run.plan(found, options.limit)
    with DecoderPool(
        ((video, root / path) for video, (root, path) in todo.items()),
        backbone.frames,
        workers=min(options.workers or _worker_count(backbone), max(1, len(todo))),
        take_turns=backbone.device.type == "cpu",
        deadline=options.decode_timeout,
        stopped=stopped,
    ) as pool:
        run.work(pool)
    written, records = index.write(videos, run.failures, run.run_block())
    return Report(
        folder=folder,
        index=written,
        records=records,
        new_videos=run.stored,
        new_failures=run.videos_done - run.stored,
        new_frames=run.frames_done,
        seconds=time.monotonic() - run.begin,
        weights=backbone.weights_note,
        stopped=stopped(),
        changed=[video for video in changed if video not in again],
    )


def _to_redo(
    redo: Collection[str], changed: Sequence[str], index: StoreIndex, process: Process
) -> frozenset[str]:
    if redo and process.world > 1:
        raise ConfigError("--redo takes videos out of the store first: run it in one process.")
    named = set(redo) - {CHANGED}
    unknown = sorted(named - index.stored.keys())
    if unknown:
        raise StoreError(
            f"{len(unknown)} of {len(named)} videos to extract again are not in {index.folder} "
            f"{first_of(unknown)}. Without --redo they are extracted anyway if a benchmark lists them."
        )
    return frozenset(named | set(changed if CHANGED in redo else ()))


@dataclass(eq=False)
class _Shard:
    number: int
    waiting: set[str]
    """Videos of the plan that are neither stored nor given up."""
    writer: ShardWriter | None = None


@dataclass(eq=False)
class _Batch:
    buffer: Tensor
    spans: list[tuple[Attempt, int]] = field(default_factory=list)
    """Whose frames these are, in order, and how many of each."""
    result: Callable[[], np.ndarray] | None = None

    @property
    def filled(self) -> int:
        return sum(count for _, count in self.spans)


class _Run:
    """What is on its way between the decoders and the finished shards."""

    def __init__(
        self,
        backbone: Backbone,
        index: StoreIndex,
        videos: Mapping[str, int | None],
        process: Process,
        run: dict[str, Any],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self.begin = time.monotonic()
        self.failures: dict[str, VideoRecord] = {}
        self.videos_done = self.stored = self.frames_done = 0
        self._backbone, self._index, self._videos, self._process = backbone, index, videos, process
        self._run, self._on_progress = run, on_progress
        self._shards: dict[str, _Shard] = {}
        self._sources: dict[str, str] = {}
        self._filled: list[_Shard] = []
        """Shards that are being filled."""
        self._live: dict[Attempt, int] = {}
        """Attempts whose frames count, and how many of their rows are written."""
        self._decoded: set[Attempt] = set()
        self._free = [_Batch(backbone.staging()) for _ in range(_IN_FLIGHT)]
        self._filling = self._free.pop()
        self._flying: deque[_Batch] = deque()
        self._seconds = {"backbone": 0.0, "store": 0.0}
        self._expected: int | None = 0

    def plan(self, found: VideoFolder, limit: int) -> dict[str, tuple[Path, Any]]:
        """The videos that are this process's to do, in order: id -> (root, path below it)."""
        groups = plan_shards(self._videos)
        standing = shard_numbers(self._index.folder)
        todo: dict[str, tuple[Path, Any]] = {}
        for group in range(self._process.rank, len(groups), self._process.world):
            shard = _Shard(shard_number(group, len(groups), standing), set())
            for video in groups[group]:
                if video in self._index.stored:
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
                if self._filling.spans:
                    self._launch()
                while self._flying:
                    self._collect()
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
            self._seconds["store"] += time.monotonic() - begin
            self._live[attempt] = 0
        elif isinstance(event, Frames):
            if attempt in self._live:
                self._fill(attempt, event.images)
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

    def _fill(self, attempt: Attempt, images: np.ndarray) -> None:
        while len(images):
            room = self._backbone.batch - self._filling.filled
            at, part = self._filling.filled, images[:room]
            self._filling.buffer.numpy()[at : at + len(part)] = part
            self._filling.spans.append((attempt, len(part)))
            images = images[room:]
            if len(part) == room:
                self._launch()

    def _launch(self) -> None:
        begin = time.monotonic()
        self._filling.result = self._backbone.submit(self._filling.buffer)
        self._seconds["backbone"] += time.monotonic() - begin
        self._flying.append(self._filling)
        if not self._free or self._backbone.device.type == "cpu":
            self._collect()
        self._filling = self._free.pop()

    def _collect(self) -> None:
        """Take the oldest batch's features and write them."""
        batch = self._flying.popleft()
        assert batch.result is not None
        begin = time.monotonic()
        features_FD = batch.result()
        computed = time.monotonic()
        at = 0
        for attempt, count in batch.spans:
            rows_FD = features_FD[at : at + count]
            at += count
            if attempt in self._live:
                self._append(attempt, rows_FD)
        self._seconds["backbone"] += computed - begin
        self._seconds["store"] += time.monotonic() - computed
        batch.spans, batch.result = [], None
        self._free.append(batch)

    def _append(self, attempt: Attempt, rows_FD: np.ndarray) -> None:
        try:
            self._writer(self._shards[attempt.video]).append(attempt.video, rows_FD)
        except StoreError as error:
            if error.__cause__ is not None:  # the disk, not the features
                raise
            self._forget(attempt)
            self._fail(attempt, str(error))
            return
        self._live[attempt] += len(rows_FD)
        self._complete(attempt)

    def _complete(self, attempt: Attempt) -> None:
        facts, source = attempt.facts, attempt.source
        if attempt not in self._decoded or attempt not in self._live:
            return
        assert facts is not None and source is not None
        if self._live[attempt] < facts.kept_frames:
            return
        shard = self._shards[attempt.video]
        self._writer(shard).complete(
            VideoRecord(
                video=attempt.video,
                decoded_frames=attempt.decoded_frames,
                container_frames=facts.container_frames,
                fps=facts.fps,
                width=facts.width,
                height=facts.height,
                seconds=round(attempt.decoded_frames / facts.fps, 3) if facts.fps > 0 else 0.0,
                source=self._sources[attempt.video],
                source_bytes=source.bytes,
                source_mtime_ns=source.mtime_ns,
                source_sha256=source.sha256,
                decoder=facts.decoder,
                missing_frames=facts.missing_frames,
                status="damaged" if facts.damage else "ok",
                error=facts.damage,
            )
        )
        self.frames_done += self._live.pop(attempt)
        self._decoded.discard(attempt)
        self.videos_done += 1
        self.stored += 1
        shard.waiting.discard(attempt.video)

    def _forget(self, attempt: Attempt) -> None:
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
        return {**self._run, "ended": _now()}

    def _report(self, pool: DecoderPool) -> None:
        self._on_progress(
            Progress(
                videos_done=self.videos_done,
                videos=len(self._shards),
                frames_done=self.frames_done + sum(self._live.values()),
                frames=self._expected_frames(),
                seconds=time.monotonic() - self.begin,
                decoders=pool.waited,
                **self._seconds,
            )
        )

    def _expected_frames(self) -> int | None:
        frames = self._backbone.frames
        if self._expected is None:
            return None
        if frames.frames_per_video:
            return min(self._expected, frames.frames_per_video * len(self._shards))
        return self._expected // frames.stride


def unlike_published(
    videos: Mapping[str, int | None], records: Sequence[VideoRecord]
) -> list[VideoRecord]:
    """Whole stored videos whose decoded frame count is not the published one."""
    return [
        record
        for record in records
        if record.status == "ok" and videos.get(record.video) not in (None, record.decoded_frames)
    ]


def _warn_of_other_precision(backbone: Backbone, features: Path) -> None:
    """Say which store of any data set differs from this one by its number type and nothing else.

    `adapt` refuses to use the two together, and the user may have meant to go on with that one.
    """
    for path in sorted(features.glob(f"*/{backbone.options.backbone}-*/{INDEX}")):
        try:
            config = read_index(path.parent)["config"]
        except StoreError:
            continue  # whatever uses that store says what is wrong with it
        other = config.get("compute_dtype")
        if other != backbone.precision and config == backbone.config | {"compute_dtype": other}:
            log.warning(
                "%s was computed in %s, this machine computes in %s (--precision auto): this run makes "
                "another store, and adapt cannot use the two together. To go on as there: "
                "--precision %s",
                *(path.parent, other, backbone.precision, other),
            )
            return


def _run_block(backbone: Backbone, process: Process) -> dict[str, Any]:
    gpu = backbone.device.type == "cuda"
    return {
        "weights": backbone.weights_note,
        "device": torch.cuda.get_device_name(backbone.device) if gpu else "cpu",
        "batch": backbone.batch,
        "processes": process.world,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "started": _now(),
    }


def _worker_count(backbone: Backbone) -> int:
    if backbone.device.type == "cpu":
        return torch.get_num_threads()  # they take turns with the backbone on the same cores
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(16, (cores or 1) // max(1, torch.cuda.device_count()) or 1)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
