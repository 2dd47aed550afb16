"""Importing others' features: read videos side by side, fill the planned shards, index after each of them.

The plan is that of an extraction (`store/plan.py`), so a shard is done when its file stands, and running
again goes on where the last run was stopped, even by a kill.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import StoreError, counted
from store.format import shard_numbers, store_folder, stored_dtype
from store.index import StoreIndex
from store.plan import plan_shards, shard_number
from store.records import VideoRecord
from store.shards import crc32_of
from store.source_files import ExchangeStep, Found, Source, timed
from store.write import ShardWriter, explained


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import leaves. `records` holds every listed video, as the index does."""

    folder: Path
    index: dict[str, Any]
    records: Mapping[str, VideoRecord]
    new_videos: int
    new_frames: int
    seconds: float
    largest_error: float
    """The largest difference between a value of this run and what is stored of it."""
    stopped: bool
    changed: Sequence[str] = ()
    """Videos that were stored before, of which the source has other features now."""


class Importer:
    """Imports videos into one store.

    Args:
        listed: ids of all videos -> their numbers of frames by the lists, or None.
        exact: whether these are numbers of features, so that fewer are too few.
        sources: id -> where it lies.
        run: what is noted beside the config: who made the store, when.
        keep_damaged: store what there is of incomplete videos, marked so, instead of refusing them.
        on_progress, stopped: called after, and asked before, every video.
    """

    def __init__(
        self,
        features: Path,
        dataset: str,
        config: Mapping[str, Any],
        listed: Mapping[str, int | None],
        sources: Mapping[str, Sequence[Source]],
        run: Mapping[str, Any],
        *,
        exact: bool,
        workers: int = 8,
        keep_damaged: bool = False,
        on_progress: Callable[[ExchangeStep], None] = lambda progress: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = store_folder(features, dataset, config)
        with explained(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._index = StoreIndex(self._folder, dataset, config, int(config["width"]))
        self._config, self._listed, self._sources, self._run = config, listed, sources, run
        self._exact, self._workers, self._keep_damaged = exact, workers, keep_damaged
        self._on_progress, self._stopped = on_progress, stopped
        self._dtype = stored_dtype(config)
        self._failures: dict[str, VideoRecord] = {}
        self._done = self._stored = self._frames = 0
        self._largest_error = 0.0
        self._changed: list[str] = []

    def run(self) -> ImportReport:
        """Import what the store lacks, and compare what it has with sources of another time.

        Raises:
            StoreError: the disk is full, or another process fills the same shard. Finished shards stay.
        """
        begin = time.monotonic()
        groups = plan_shards(self._listed)
        todo = [[v for v in group if v not in self._index.stored] for group in groups]
        say = functools.partial(self._report, sum(map(len, todo)), begin)
        with ThreadPoolExecutor(self._workers, "import") as pool:
            self._compare(pool)
            for number, group in enumerate(todo):
                there = [video for video in group if self._is_there(video)]
                self._done += len(group) - len(there)
                if there and not self._stopped():
                    standing = shard_numbers(self._folder)
                    shard = shard_number(number, len(groups), standing)
                    with ShardWriter(self._folder, shard, self._config) as writer:
                        for video, found in self._read(pool, there):
                            self._store(writer, video, found)
                            say()
                    self._index.write(self._listed, self._failures, self._run)
        index, records = self._index.write(self._listed, self._failures, self._run)
        return ImportReport(
            folder=self._folder,
            index=index,
            records=records,
            new_videos=self._stored,
            new_frames=self._frames,
            seconds=time.monotonic() - begin,
            largest_error=self._largest_error,
            stopped=self._stopped(),
            changed=self._changed,
        )

    def _compare(self, pool: ThreadPoolExecutor) -> None:
        """Note the stored videos whose source has other features, or none that can be read."""
        stored = dict(self._index.stored)
        unsure = []
        for video in sorted(stored.keys() & self._listed.keys()):
            found = self._sources.get(video, ())
            if len(found) == 1 and (
                not (t := found[0].mtime_ns) or t != stored[video].source_mtime_ns
            ):
                unsure.append(video)
        for video, future in self._read(pool, unsure):
            try:
                same = crc32_of(self._checked(future.result()[1])) == stored[video].crc32
            except (StoreError, OSError, MemoryError):
                same = False
            if not same:
                self._changed.append(video)
        self._largest_error = 0.0  # of what this run stores

    def _report(self, videos: int, begin: float) -> None:
        self._on_progress(
            ExchangeStep(
                videos_done=self._done,
                videos=videos,
                frames_done=self._frames,
                seconds=time.monotonic() - begin,
            )
        )

    def _is_there(self, video: str) -> bool:
        found = self._sources.get(video, ())
        if len(found) == 1:
            return True
        why = "there are no features of this name"
        if found:
            names = ", ".join(source.path for source in found[:3])
            why = f"{len(found)} places have this name: {names}"
        self._failures[video] = VideoRecord(video=video, status="missing", error=why)
        return False

    def _read(
        self, pool: ThreadPoolExecutor, videos: Sequence[str]
    ) -> Iterator[tuple[str, Future[tuple[int, Found]]]]:
        """Yield the videos in order, a few of them read ahead; memory holds no more than those."""
        waiting: deque[tuple[str, Future[tuple[int, Found]]]] = deque()
        left = iter(videos)
        try:
            while not self._stopped():
                for video in left:
                    waiting.append((video, pool.submit(timed, self._sources[video][0])))
                    if len(waiting) > self._workers:
                        break
                if not waiting:
                    return
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()

    def _store(self, writer: ShardWriter, video: str, future: Future[tuple[int, Found]]) -> None:
        source = self._sources[video][0]
        self._done += 1
        try:
            mtime_ns, found = future.result()
            rows_TD = self._checked(found)
            missing, why = self._lacking(video, found)
        except (StoreError, OSError, MemoryError) as error:
            self._fail(video, source, str(error) or "it does not fit into memory")
            return
        if missing and not self._keep_damaged:
            self._fail(video, source, f"{why}. --keep-damaged stores the rest, marked so")
            return
        record = VideoRecord(
            video=video,
            decoded_frames=len(rows_TD),
            fps=found.fps,
            source=source.path,
            source_bytes=found.bytes,
            source_mtime_ns=mtime_ns,
            missing_frames=missing,
            status="damaged" if missing else "ok",
            error=why,
        )
        writer.add(record, rows_TD)
        self._stored += 1
        self._frames += len(rows_TD)

    def _fail(self, video: str, source: Source, reason: str) -> None:
        self._failures[video] = VideoRecord(
            video=video, source=source.path, status="failed", error=f"{source.path}: {reason}"
        )

    def _lacking(self, video: str, found: Found) -> tuple[int, str]:
        """Return how many frames are missing, by the files and by the list, and why."""
        missing, why = found.missing, found.why
        listed, there = self._listed[video], len(found.features_TD) + found.missing
        if self._exact and listed is not None and there < listed:
            text = f"the list has {counted(listed, 'frame')}, the files {there:,}"
            missing, why = missing + listed - there, f"{why}; {text}" if why else text
        return missing, why

    def _checked(self, found: Found) -> np.ndarray:
        """Return the features in the stored type.

        Raises:
            StoreError: they are no matrix of the store's width, or not finite in that type.
        """
        x_TD, width = found.features_TD, self._config["width"]
        if x_TD.dtype.kind != "f":
            raise StoreError(f"its values are of type {x_TD.dtype}, expected float numbers")
        if x_TD.ndim == 2 and not len(x_TD):
            raise StoreError(found.why or "it has no frames")
        if x_TD.ndim != 2 or x_TD.shape[1] != width:
            raise StoreError(f"its shape is {x_TD.shape}, the others are (frames, {width})")
        bad = int(x_TD.size - np.isfinite(x_TD).sum())
        if bad:
            raise StoreError(f"{counted(bad, 'value', 'is')} not finite")
        with np.errstate(over="ignore"):
            rows_TD = np.ascontiguousarray(x_TD, self._dtype)
        if not np.isfinite(rows_TD).all():
            raise StoreError(
                f"its largest value is {np.abs(x_TD).max():g}, which {self._dtype.name} cannot hold"
                + (". Import with --dtype float32" if self._dtype.itemsize == 2 else "")
            )
        if x_TD.dtype.itemsize > rows_TD.dtype.itemsize:
            error = float(np.abs(rows_TD.astype(x_TD.dtype) - x_TD).max())
            self._largest_error = max(self._largest_error, error)
        return rows_TD
