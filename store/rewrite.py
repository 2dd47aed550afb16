"""Removing videos from a store, or what newer features replaced, and packing what is left. Shards never
change, so they are replaced.

The new shard is finished before the old one is removed, and its number is higher than that of any other
shard, so it counts while both are there (`StoreIndex`). The index is written without a shard before that
is removed, so that a reader always finds every video that stays. A kill at any point loses nothing; run
it again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.files import sync_folder
from store.format import VIDEOS, read_index, read_records, shards_in, stored_dtype
from store.index import StoreIndex
from store.moving import Mover, Part, Report, alone_in, next_number
from store.plan import SHARD_FRAMES, SHARD_VIDEOS, pack
from store.write import PER_SHARD, overhead_of


@dataclass(frozen=True, kw_only=True)
class Repacked:
    """A store before and after `repack`."""

    moved: int
    """Videos that were moved to another shard."""
    shards: tuple[int, int]
    bytes: tuple[int, int]


def drop_videos(
    folder: Path,
    videos: Collection[str],
    on_progress: Report = lambda moved: None,
) -> int:
    """Remove the features of some videos from a store; return how many of them it had.

    Args:
        videos: their ids. If a video is not stored, only its row is removed.
        on_progress: told after each video that was moved to another shard.

    Raises:
        StoreError: another process is filling shards there, the store is damaged, or the disk is full.
            Shards that were not rewritten by then are unchanged.
    """
    gone = frozenset(videos)
    with alone_in(folder):
        store, index, listed = _opened(folder)
        dropped = gone & store.stored.keys()
        old = [p for p in shards_in(folder) if gone & store.records_of(p.name).keys()]
        _replace(store, index, listed - gone, old, gone, on_progress)
    return len(dropped)


def drop_replaced(folder: Path) -> None:
    """Remove features of videos that are in a shard of a higher number too, which is the one that counts.

    Raises:
        StoreError: as `drop_videos`.
    """
    with alone_in(folder):
        store, index, listed = _opened(folder)
        if old := [folder / name for name in store.with_replaced()]:
            _replace(store, index, listed, old, frozenset(), lambda moved: None)


def repack(folder: Path, on_progress: Report = lambda moved: None) -> Repacked:
    """Give a store shards of the usual size again, in which every byte counts.

    Shards are replaced if they hold features that nothing refers to, are larger than `plan_shards` makes
    them, or are less than half full and fewer of them would do. The others stay as they are, so a store
    that was repacked stays as it is.

    Raises:
        StoreError: as `drop_videos`.
    """
    with alone_in(folder):
        store, index, listed = _opened(folder)
        before = _sizes(folder)
        old = _to_repack(store)
        moved = _replace(store, index, listed, old, frozenset(), on_progress) if old else 0
        after = _sizes(folder)
    return Repacked(moved=moved, shards=(len(before), len(after)), bytes=(sum(before), sum(after)))


def _opened(folder: Path) -> tuple[StoreIndex, dict[str, Any], set[str]]:
    """Return a store's shards, its index, and the ids of all videos that it lists or holds."""
    index = read_index(folder)
    store = StoreIndex(folder, index["dataset"], index["config"], index["width"])
    listed = {row.video for row in read_records(folder / VIDEOS)} | store.stored.keys()
    return store, index, listed


def _sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in shards_in(folder)]


def _to_repack(store: StoreIndex) -> list[Path]:
    """Return the shards that `repack` replaces."""
    bad, small, replaced = [], [], store.with_replaced()
    for path in shards_in(store.folder):
        records = store.records_of(path.name)
        count, frames = len(records), sum(record.frames for record in records.values())
        room = (
            stored_dtype(store.config).itemsize * frames * store.width
            + sum(map(overhead_of, records))
            + PER_SHARD
        )
        large = count > SHARD_VIDEOS or (frames > SHARD_FRAMES and count > 1)
        if path.name in replaced or large or path.stat().st_size > room:
            bad.append(path)
        elif 2 * count < SHARD_VIDEOS and 2 * frames < SHARD_FRAMES:
            small.append(path)

    def shards_of(paths: Sequence[Path]) -> int:
        return len(pack([(p.record.video, p.record.frames) for p in _parts(store, paths)]))

    saved = len(small) + shards_of(bad) - shards_of(sorted([*bad, *small]))
    return sorted([*bad, *small]) if saved > 0 else bad


def _parts(
    store: StoreIndex, paths: Sequence[Path], gone: frozenset[str] = frozenset()
) -> list[Part]:
    """Return the videos in some shards that count and are not to go."""
    return [
        Part(record, path)
        for path in paths
        for video, record in store.records_of(path.name).items()
        if video not in gone and store.stored[video] == record
    ]


def _replace(
    store: StoreIndex,
    index: dict[str, Any],
    listed: Collection[str],
    old: Sequence[Path],
    gone: frozenset[str],
    on_progress: Report,
) -> int:
    """Move what counts in some shards to new ones, and remove each shard that nothing refers to then."""
    sums = {store.folder / shard["file"]: shard["sha256"] for shard in index["shards"]}
    parts = {part.record.video: part for part in _parts(store, old, gone)}
    mover = Mover(store, parts.values(), sums, on_progress)
    for group in [(), *pack([(video, part.record.frames) for video, part in parts.items()])]:
        if group:
            mover.write(next_number(store.folder), [parts[video] for video in group])
            store.read_shards()
        spent = [path for path in old if path.exists() and not _parts(store, [path], gone)]
        names = {path.name for path in spent}
        store.write(listed, {}, index["run"], locked=True, without=names)
        for path in spent:
            path.unlink()
            sync_folder(store.folder)
    return len(parts)
