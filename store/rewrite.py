"""Removing videos from a store. Shards never change, so a shard that holds such videos is replaced.

The new shard is finished before the old one is removed, and its number is higher than that of any other
shard, so it counts while both are there (`StoreIndex`). A kill at any point loses nothing; run it again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from store import checksums
from store.errors import StoreError, first_of
from store.files import sync_folder
from store.format import VIDEOS, read_index, read_records, shard_numbers, shards_in
from store.index import StoreIndex
from store.locks import folder_lock, is_live, remove_leftovers
from store.records import VideoRecord
from store.shards import open_shard, plain_dataset, readable
from store.write import ShardWriter, explained

FIRST_NUMBER = 50_000
"""The lowest number of a rewritten shard. An extraction, which counts up from 0 (`plan.shard_number`),
does not get there: Kinetics has 183 shards. So the two never choose one number at the same time."""
_LAST_NUMBER = 99_999
_ROWS = 4096


def drop_videos(
    folder: Path,
    videos: Collection[str],
    *,
    pending: bool = False,
    on_shard: Callable[[int], None] = lambda done: None,
) -> int:
    """Remove the features of some videos from a store; return how many of them it had.

    Args:
        videos: their ids. If a video is not stored, only its row is removed.
        on_shard: told how many shards have been looked at and, if need be, written again.
        pending: keep them listed as not extracted yet, instead of removing their rows.

    Raises:
        StoreError: another process is filling shards there, the store is damaged, or the disk is full.
            Shards that were not rewritten by then are unchanged.
    """
    gone = frozenset(videos)
    with explained(folder), folder_lock(folder, wait=True):
        remove_leftovers(folder)
        filling = sorted(p.name for p in folder.glob(".shard-*.partial") if is_live(p))
        if filling:
            raise StoreError(
                f"An extraction is filling {len(filling)} shards in {folder} {first_of(filling)}. Let it "
                "finish, or stop it, and run this again; if it is dead on another machine, delete them."
            )
        index = read_index(folder)
        store = StoreIndex(folder, index["dataset"], index["config"], index["width"])
        listed = {row.video for row in read_records(folder / VIDEOS)} | store.stored.keys()
        dropped: set[str] = set()
        paths = shards_in(folder)
        for number, path in enumerate(paths):
            on_shard(number)
            inside = store.records_of(path.name)
            if not gone & inside.keys():
                continue
            rest = {v: r for v, r in inside.items() if v not in gone and store.stored[v] == r}
            if rest:
                _copy(path, rest, index)
            path.unlink()
            sync_folder(folder)
            dropped |= gone & inside.keys()
        on_shard(len(paths))
        store.write(listed if pending else listed - gone, {}, index["run"], locked=True)
    return len(dropped)


def _copy(path: Path, records: Mapping[str, VideoRecord], index: Mapping[str, Any]) -> None:
    """Write a new shard with some videos of an old one, byte for byte."""
    known = {shard["file"]: shard["sha256"] for shard in index["shards"]}
    if path.name in known:
        checksums.check({path: known[path.name]})
    number = max(FIRST_NUMBER, 1 + max(shard_numbers(path.parent)))
    if number > _LAST_NUMBER:
        raise StoreError(
            f"{path.parent} was rewritten so often that no shard number is left. Delete the folder "
            "and run extract again."
        )
    with (
        ShardWriter(path.parent, number, index["config"]) as writer,
        open_shard(path) as file,
        readable(path),
    ):
        for video, record in records.items():
            dataset = plain_dataset(file, video, path)
            writer.begin(video, *dataset.shape)
            for begin in range(0, len(dataset), _ROWS):
                writer.append(video, dataset[begin : begin + _ROWS])
            if writer.complete(record).crc32 != record.crc32:
                raise StoreError(
                    f"{path}: the features of {video} were damaged after they were written. "
                    "Delete that shard and run extract again."
                )
