"""The extract stage: plan, decode, forward, store, index. Running it again goes on where it stopped."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision

from extract.backbone import Backbone, worker_count
from extract.changed import changed_sources
from extract.config import CHANGED, ExtractConfig
from extract.pool import DecoderPool
from extract.report import Progress, Report, now
from extract.session import Session
from extract.videos import VideoFolder
from store.errors import ConfigError, StoreError, counted, first_of
from store.format import INDEX, folder_stem, read_index, store_folder
from store.ids import near_ids
from store.index import StoreIndex
from store.machine import Process, keep_freed_memory
from store.program import program
from store.records import VideoRecord
from store.rewrite import drop_replaced
from store.write import explained

log = logging.getLogger(__name__)


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
        redo: stored videos to extract again; `CHANGED` means those that have another file now. Their old
            features count until the new ones are in a finished shard, and stay where there are none.
        on_progress: called after every batch.
        stopped: asked often; once true, the run ends early and keeps what is complete.

    Raises:
        Ma2lError: nothing can be extracted at all. A single bad video is recorded instead.
    """
    process = process or Process()
    found = VideoFolder(video_roots, options.input, videos)
    backbone = Backbone(options, local_rank=process.local_rank)
    if options.precision == "auto":
        log.info("Computing in %s (--precision auto).", backbone.precision)
        _warn_of_other_precision(backbone, features)
    if backbone.device.type == "cpu":
        keep_freed_memory()
    folder = store_folder(features, dataset, backbone.config)
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    index = StoreIndex(folder, dataset, backbone.config, backbone.width)
    changed = changed_sources(found, (r for v, r in index.stored.items() if v in videos))
    again = _to_redo(redo, changed, index, videos, found, process)
    session = Session(
        backbone, index, videos, process, _run_block(backbone, process), on_progress, again
    )
    todo = session.plan(found, options.limit)
    with DecoderPool(
        ((video, root / path) for video, (root, path) in todo.items()),
        backbone.frames,
        workers=min(options.workers or worker_count(backbone.device), max(1, len(todo))),
        take_turns=backbone.device.type == "cpu",
        deadline=options.decode_timeout,
        stopped=stopped,
    ) as pool:
        session.work(pool)
    if redo:
        _remove_old(index, session.redone)
    written, records = index.write(videos, session.failures, session.run_block())
    return Report(
        folder=folder,
        index=written,
        records=records,
        new_videos=session.stored,
        new_failures=session.videos_done - session.stored,
        new_frames=session.frames_done,
        seconds=time.monotonic() - session.begin,
        weights=backbone.weights_note,
        stopped=stopped(),
        changed=[video for video in changed if video not in again],
        kept={v: session.failures[v].error for v in sorted(again & session.failures.keys())},
    )


def _to_redo(
    redo: Collection[str],
    changed: Sequence[str],
    index: StoreIndex,
    videos: Mapping[str, int | None],
    found: VideoFolder,
    process: Process,
) -> frozenset[str]:
    """Return the stored videos to extract again.

    Raises:
        ConfigError: the work is shared with other processes.
        StoreError: a named video is not stored or could not be extracted now.
    """
    if redo and process.world > 1:
        raise ConfigError("--redo replaces shards of the store at its end: run it in one process.")
    named = set(redo) - {CHANGED}
    unknown = sorted(named - index.stored.keys())
    if unknown:
        raise StoreError(
            f"{counted(len(unknown), 'video', 'is', of=len(named), where='to extract again')} not "
            f"in {index.folder} "
            f"{first_of(unknown)}.{near_ids(unknown[0], index.stored)} A video that is not stored yet is "
            "extracted without --redo if a benchmark lists it."
        )
    lost = {video: found.why_missing(video) for video in sorted(named & videos.keys())}
    lost = {video: why for video, why in lost.items() if len(found.candidates(video)) != 1}
    lost |= dict.fromkeys(sorted(named - videos.keys()), "no benchmark lists it any more")
    if lost:
        first, why = next(iter(lost.items()))
        raise StoreError(
            f"{counted(len(lost), 'video', of=len(named))} cannot be extracted again, so the "
            "features stay as they "
            f"are {first_of([first])}: {why}. Put them where they can be found, or leave them out."
        )
    return frozenset(named | set(changed if CHANGED in redo else ()))


def _remove_old(index: StoreIndex, redone: Mapping[str, VideoRecord]) -> None:
    """Remove the features of which there are newer ones now, also those that a killed run has left.

    Raises:
        StoreError: another command has moved the old ones meanwhile, so that they count.
    """
    index.read_shards()
    beaten = sorted(v for v, record in redone.items() if index.stored.get(v) != record)
    if beaten:
        raise StoreError(
            f"Another command rewrote shards of {index.folder} meanwhile, so the old features of "
            f"{counted(len(beaten), 'video')} still count {first_of(beaten)}. Run the same command again."
        )
    if not index.with_replaced():
        return
    try:
        drop_replaced(index.folder)
    except StoreError as error:
        log.warning(
            "The new features count, and the old ones still take room: %s Then remove them: %s store "
            "repack %s",
            *(error, program(), index.folder),
        )


def _warn_of_other_precision(backbone: Backbone, features: Path) -> None:
    """Say which store of any data set differs from this one by its number type and nothing else.

    `adapt` refuses to use the two together, and the user may have meant to go on with that one.
    """
    mine = _without(backbone.config, "inference", "compute_dtype")
    for path in sorted(features.glob(f"*/{folder_stem(backbone.options.backbone)}-*/{INDEX}")):
        try:
            config = read_index(path.parent)["config"]
        except StoreError:
            continue  # whatever uses that store says what is wrong with it
        other = config.get("compute_dtype")
        alike = _without(config, "inference", "compute_dtype") == mine
        if alike and other != backbone.precision:
            log.warning(
                "%s was computed in %s, this machine computes in %s (--precision auto): this run makes "
                "another store, and adapt cannot use the two together. To go on as there: "
                "--precision %s",
                *(path.parent, other, backbone.precision, other),
            )
            return


def _without(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def _run_block(backbone: Backbone, process: Process) -> dict[str, Any]:
    gpu = backbone.device.type == "cuda"
    return {
        "weights": backbone.weights_note,
        "device": torch.cuda.get_device_name(backbone.device) if gpu else "cpu",
        "batch": backbone.batch,
        "processes": process.world,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        **backbone.versions,
        "python": platform.python_version(),
        "started": now(),
    }
