"""Exporting a store into the layouts of other projects; the other way of `store/importing.py`.

A video's files are made in a hidden folder and moved into place together, so what has its name is whole.
`exported.json` says of which store the folder is; lists of the videos are written last. Running again goes
on after a kill.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from store.errors import StoreError, counted, first_of, printable
from store.files import explained, write_text
from store.format import VIDEOS, read_table
from store.ids import check_id, folders_of_others
from store.locks import LOCK, folder_lock
from store.plain import read_plain, size_of
from store.read import FeatureStore
from store.source_files import ExchangeStep
from store.torch_file import tensor_bytes

FRAMES_FOLDER = "RGB-feature"
"""Below the exported folder, where the layout t7 has its videos, as TA3N has them."""
MARK, _PARTS = "exported.json", ".partial"
_LARGEST_MARK, _LARGEST_HEADER = 1 << 20, 256


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export leaves."""

    videos: int
    """All that the folder has now."""
    new_videos: int
    new_frames: int
    seconds: float
    stopped: bool


class Exporter:
    """Exports videos of a store.

    Args:
        out: the folder to fill: new, empty, or one that an export of the same store and layout began.
        layout: `t7` (float32, a file per frame) or `npy` (a file per video).
        dtype: of `npy`, the number type; `t7` always has float32, because its readers expect it.
        on_progress, stopped: called after, and asked before, every video.

    Raises:
        StoreError: a video's name would lead elsewhere, or the folder holds something else.
    """

    def __init__(
        self,
        store: FeatureStore,
        videos: Sequence[str],
        out: Path,
        layout: str,
        dtype: str,
        *,
        workers: int = 8,
        on_progress: Callable[[ExchangeStep], None] = lambda step: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        for video in videos:
            check_id(video, str(store.folder))
        inside = folders_of_others(videos) if layout == "t7" else []
        if inside:
            raise StoreError(
                f"{counted(len(inside), 'video', 'has', where=f'of {store.folder}')} the name of "
                "a folder of others "
                f"{first_of([inside[0][0]])}, so they cannot be exported."
            )
        self._store, self._videos, self._out = store, videos, out
        self._layout, self._dtype, self._workers = layout, np.dtype(dtype), workers
        self._on_progress, self._stopped = on_progress, stopped

    def run(self, lists: Mapping[str, str]) -> ExportReport:
        """Export what the folder lacks.

        Args:
            lists: names of list files -> their texts, written last.

        Raises:
            StoreError: the store is damaged, or the disk is full. What is complete stays.
        """
        begin = time.monotonic()
        with _explained(self._out):
            self._out.mkdir(parents=True, exist_ok=True)
            with folder_lock(self._out, wait=False) as alone:
                if not alone:
                    raise StoreError(f"Another export is filling {printable(self._out)}.")
                self._claim()
                todo = [video for video in self._videos if not self._stands(video)]
                done, frames = self._fill(todo, begin)
                if hasattr(os, "sync"):
                    os.sync()  # once for all: syncing each file takes longer than writing it
                if done == len(todo):
                    for name, text in lists.items():
                        write_text(self._out / name, text)
        return ExportReport(
            videos=len(self._videos) - len(todo) + done,
            new_videos=done,
            new_frames=frames,
            seconds=time.monotonic() - begin,
            stopped=done < len(todo),
        )

    def _fill(self, todo: Sequence[str], begin: float) -> tuple[int, int]:
        """Write these videos; return how many were written until the end or a stop, and their features."""
        done = frames = 0
        parts = self._out / _PARTS
        shutil.rmtree(parts, ignore_errors=True)  # of a run that was killed
        parts.mkdir()
        try:
            with ThreadPoolExecutor(self._workers, "export") as pool:
                for future in self._write_all(pool, todo, parts):
                    frames += future.result()
                    done += 1
                    self._on_progress(
                        ExchangeStep(
                            videos_done=done,
                            videos=len(todo),
                            frames_done=frames,
                            seconds=time.monotonic() - begin,
                        )
                    )
        finally:
            shutil.rmtree(parts, ignore_errors=True)
        return done, frames

    def _claim(self) -> None:
        """Make sure that the folder is this export's, and note it."""
        table = read_table(self._store.folder / VIDEOS)
        mark = {
            "dataset": self._store.index["dataset"],
            "config_sha256": self._store.index["config_sha256"],
            "videos_sha256": hashlib.sha256(table).hexdigest(),
            "format": self._layout,
            "dtype": self._dtype.name,
            "config": self._store.config,
        }
        path = self._out / MARK
        if path.exists():
            try:
                found = json.loads(read_plain(path, _LARGEST_MARK))
            except (ValueError, RecursionError):
                found = None
            if found != mark:
                raise StoreError(
                    f"{printable(self._out)} holds the export of another store, of another state of this "
                    "one, or in another format. Remove it, or give another --out."
                )
        elif any(path.name != LOCK for path in self._out.iterdir()):
            raise StoreError(
                f"{printable(self._out)} is not empty. Give another --out, which need not exist."
            )
        else:
            write_text(path, json.dumps(mark, indent=1) + "\n")

    def _place(self, video: str) -> Path:
        if self._layout == "t7":
            return self._out / FRAMES_FOLDER / video
        return self._out / f"{video}.npy"

    def _stands(self, video: str) -> bool:
        """Return whether a video is there, with files of the right number and size."""
        place, record = self._place(video), self._store.records[video]
        width = self._store.width
        if self._layout == "npy":
            size = record.frames * width * self._dtype.itemsize
            return 0 < (size_of(place) or 0) - size <= _LARGEST_HEADER
        if not place.is_dir():
            return False
        size = len(tensor_bytes(np.zeros(width, np.float32)))
        found = {path.name: size_of(path) for path in place.iterdir()}
        if found == {_frame_name(i): size for i in range(1, record.frames + 1)}:
            return True
        shutil.rmtree(place)  # what a power failure left
        return False

    def _write_all(
        self, pool: ThreadPoolExecutor, videos: Sequence[str], parts: Path
    ) -> Iterator[Future[int]]:
        """Yield the writing of each video in order; features are read here, because HDF5 is not shared."""
        waiting: deque[Future[int]] = deque()
        try:
            for number, video in enumerate(videos):
                if self._stopped():
                    break
                features_TD = self._store.read(video)
                part = parts / str(number)
                waiting.append(pool.submit(self._write, video, features_TD, part))
                if len(waiting) > self._workers:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()

    def _write(self, video: str, features_TD: np.ndarray, part: Path) -> int:
        place = self._place(video)
        if self._layout == "npy":
            with part.open("wb") as file:
                np.lib.format.write_array(
                    file, features_TD.astype(self._dtype), version=(1, 0), allow_pickle=False
                )
        else:
            part.mkdir()
            for number, row_D in enumerate(features_TD, 1):
                (part / _frame_name(number)).write_bytes(tensor_bytes(row_D))
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, place)
        return len(features_TD)


def _frame_name(number: int) -> str:
    return f"img_{number:05}.t7"


def _explained(path: Path) -> contextlib.AbstractContextManager[None]:
    return explained(
        path,
        StoreError,
        "What is complete stays. Make room or give another --out, then run the same command again.",
    )
