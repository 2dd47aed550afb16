"""The extract stage: plan, decode, forward, store, index. Running it again goes on where it stopped."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.decode import Decoder
from extract.errors import DecodeError, StoreError
from extract.files import VideoFolder
from extract.store import (
    ShardWriter,
    VideoRecord,
    next_shard_number,
    store_folder,
    stored_records,
    write_index,
)

log = logging.getLogger(__name__)

SHARD_VIDEOS = 256
"""Videos per shard. What a kill can cost is the shard being filled, so smaller is safer; 256 videos of
UCF101 are 0.2 GB, and the 46,624 of Kinetics-Gameplay make 183 files."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the run stands; given to the callback after every video."""

    videos_done: int
    videos: int
    frames_done: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run leaves. `records` holds every listed video, this run's and earlier ones."""

    folder: Path
    index: dict[str, Any]
    records: dict[str, VideoRecord]
    new_videos: int
    new_frames: int
    seconds: float
    weights: str


def extract(
    *,
    dataset: str,
    videos: dict[str, int | None],
    video_root: Path,
    features: Path,
    options: ExtractConfig,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Store the features of every listed video found below `video_root`.

    Args:
        dataset: names the folder below `features`.
        videos: listed ids -> published frame count or None.
        on_progress: called after every video.

    Raises:
        Ma2lError: nothing can be extracted at all. A single bad video is recorded instead.
    """
    begin = time.monotonic()
    folder_index = VideoFolder(video_root)
    backbone = Backbone(options)
    folder = store_folder(features, dataset, backbone.config)
    folder.mkdir(parents=True, exist_ok=True)
    stored = stored_records(folder, backbone.config)
    records: dict[str, VideoRecord] = {}
    paths: dict[str, Path] = {}
    for video in videos:
        if video in stored:
            records[video] = stored[video]
            continue
        problem, path = _locate(folder_index, video)
        if path is None:
            records[video] = VideoRecord(video=video, status="missing", error=problem)
        else:
            records[video] = VideoRecord(video=video, status="pending", error="not extracted yet")
            if not options.limit or len(paths) < options.limit:
                paths[video] = path
    run = {
        "weights": backbone.weights_note,
        "device": _device_name(backbone.device),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "started": _now(),
    }
    frames_done = videos_done = 0
    results = _features(paths, video_root, backbone, options)
    number = next_shard_number(folder)
    while batch := list(itertools.islice(paths, videos_done, videos_done + SHARD_VIDEOS)):
        with ExitStack() as shard_stack:
            writer: ShardWriter | None = None
            for record, features_TD in itertools.islice(results, len(batch)):
                if record.status == "ok":
                    if writer is None:
                        writer = shard_stack.enter_context(
                            ShardWriter(folder, number, backbone.config)
                        )
                    try:
                        record = writer.add(record, features_TD)
                        frames_done += record.frames
                    except StoreError as error:
                        record = dataclasses.replace(record, status="failed", error=str(error))
                records[record.video] = record
                videos_done += 1
                on_progress(
                    Progress(
                        videos_done=videos_done,
                        videos=len(paths),
                        frames_done=frames_done,
                        seconds=time.monotonic() - begin,
                    )
                )
        number += writer is not None
        _index(folder, dataset, backbone, records, run)
    index = _index(folder, dataset, backbone, records, run)
    return Report(
        folder=folder,
        index=index,
        records=records,
        new_videos=videos_done,
        new_frames=frames_done,
        seconds=time.monotonic() - begin,
        weights=backbone.weights_note,
    )


def _features(
    paths: dict[str, Path], video_root: Path, backbone: Backbone, options: ExtractConfig
) -> Iterator[tuple[VideoRecord, np.ndarray]]:
    """Records and (T, width) features of the videos, in order; empty features where the status is failed.

    Decoders take turns: while one video goes through the backbone, the next ones are being decoded.
    """
    if not paths:
        return
    with ExitStack() as stack:
        decoders = []
        for _ in range(min(_worker_count(options, backbone), len(paths))):
            decoders.append(Decoder(block=options.batch))
            stack.callback(decoders[-1].close)
        order = list(paths.items())
        for decoder, (_, path) in zip(decoders, order):
            decoder.start(path, options.stride)
        for position, (video, path) in enumerate(order):
            decoder = decoders[position % len(decoders)]
            record = VideoRecord(video=video, source=path.relative_to(video_root).as_posix())
            blocks: list[np.ndarray] = []
            try:
                blocks += (backbone(frames) for frames in decoder.blocks())
                facts = decoder.facts
                assert facts is not None  # blocks() ended without an error
                record = dataclasses.replace(
                    record, **dataclasses.asdict(facts), seconds=round(facts.seconds, 3)
                )
            except DecodeError as error:
                log.warning("%s", error)
                record = dataclasses.replace(record, status="failed", error=str(error))
            ahead = position + len(decoders)
            if ahead < len(order):
                decoder.start(order[ahead][1], options.stride)
            yield record, np.concatenate(blocks or [np.empty((0, backbone.width), np.float32)])


def _locate(folder: VideoFolder, video: str) -> tuple[str, Path | None]:
    candidates = folder.candidates(video)
    if not candidates:
        return "no video file of that name", None
    if len(candidates) > 1:
        names = ", ".join(str(path.relative_to(folder.root)) for path in candidates[:3])
        return f"{len(candidates)} files could be meant: {names}", None
    return "", candidates[0]


def _index(
    folder: Path,
    dataset: str,
    backbone: Backbone,
    records: dict[str, VideoRecord],
    run: dict[str, Any],
) -> dict[str, Any]:
    return write_index(
        folder,
        dataset=dataset,
        config=backbone.config,
        width=backbone.width,
        records=records.values(),
        run={**run, "ended": _now()},
    )


def _worker_count(options: ExtractConfig, backbone: Backbone) -> int:
    if options.workers:
        return options.workers
    # On a CPU the decoder is idle nearly all the time and must not take a core from the backbone.
    return 1 if backbone.device.type == "cpu" else min(8, os.cpu_count() or 1)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def unlike_published(
    videos: dict[str, int | None], records: Sequence[VideoRecord]
) -> list[VideoRecord]:
    """Stored videos whose decoded frame count is not the published one."""
    return [
        record
        for record in records
        if record.status == "ok" and videos.get(record.video) not in (None, record.decoded_frames)
    ]
