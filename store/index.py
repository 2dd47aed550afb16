"""The index of a store's finished shards, which is written again after each of them."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from store.errors import StoreError
from store.format import (
    INDEX,
    VIDEOS,
    read_index,
    read_records,
    read_table,
    shards_in,
    standing_failures,
    standing_index,
)
from store.locks import folder_lock, is_live, remove_leftovers, temporary
from store.records import VideoRecord
from store.shards import records_in
from store.tables import write_index
from store.write import explained

log = logging.getLogger(__name__)

_TRIES = 20
_OTHERS_SECONDS = 5.0
"""How long to wait for other processes that are writing the index at the same moment."""
_ABANDONED_NS = 60 * 10**9


class StoreIndex:
    """Keeps a store's index in step with its shards while one process or several are finishing them.

    A video may be in two shards if a rewrite was killed after it had finished the new shard and before it
    had removed the old one (`store/rewrite.py`). The shard with the higher number counts: it is the new one.

    Attributes:
        stored: the records of all videos in finished shards, by this process or others, as last read.
    """

    def __init__(self, folder: Path, dataset: str, config: Mapping[str, Any], width: int) -> None:
        self.folder, self.dataset, self.config, self.width = folder, dataset, config, width
        self._by_shard: dict[str, tuple[tuple[int, int, int], dict[str, VideoRecord]]] = {}
        """Shard -> (its inode, size and time of the last change) and its records."""
        self.stored: dict[str, VideoRecord] = {}
        standing_index(folder)  # one of another format is refused before hours of work
        self.read_shards()

    def read_shards(self) -> None:
        """Read the records of shards that are new since the last call, and forget shards that are gone.

        Raises:
            StoreError: a shard is unreadable or was made with another config.
        """
        before, self._by_shard = self._by_shard, {}
        for path in shards_in(self.folder):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            except OSError as error:  # a link to itself
                raise StoreError(f"{path} cannot be opened ({error.strerror}).") from error
            identity = (found.st_ino, found.st_size, found.st_mtime_ns)
            known = before.get(path.name)
            if known is None or known[0] != identity:
                known = (identity, records_in(path, self.config))
            self._by_shard[path.name] = known
        self.stored = {}
        for _, records in self._by_shard.values():
            self.stored |= records

    def records_of(self, shard: str) -> dict[str, VideoRecord]:
        """Return the records in one shard, as last read."""
        return self._by_shard[shard][1]

    def with_replaced(self) -> list[str]:
        """Return the names of shards with features that a shard of a higher number has too, as last read."""
        return [
            name
            for name, (_, records) in sorted(self._by_shard.items())
            if any(self.stored[video] != record for video, record in records.items())
        ]

    def write(
        self,
        listed: Collection[str],
        failures: Mapping[str, VideoRecord],
        run: Mapping[str, Any],
        *,
        locked: bool = False,
        without: Collection[str] = (),
    ) -> tuple[dict[str, Any], dict[str, VideoRecord]]:
        """Write the index of all finished shards; return it and the records of all listed videos.

        Where locks do nothing, another process may write at the same moment. So the result is read back,
        and if a finished shard or a failure is not in it, everything is written again.

        Args:
            listed: ids of all videos of the data set.
            failures: the records of videos that this process could not store. Other listed videos keep
                what the last index said of them, or are pending.
            run: who made the store, on what; see `write_index`.
            locked: whether the caller already holds the folder's lock.
            without: names of finished shards to leave out, because they are about to be removed.
        """
        for _ in range(_TRIES):
            with explained(self.folder):
                if locked:
                    written, stands = self._write_and_look(listed, failures, run, without)
                else:
                    with folder_lock(self.folder, wait=True):
                        written, stands = self._write_and_look(listed, failures, run, without)
            if stands:
                return written
            time.sleep(random.uniform(0.02, 0.3))
        log.warning(
            "Other processes kept writing the index of %s. Run extract again when they have ended: it "
            "completes the index.",
            self.folder,
        )
        return written

    def _write_and_look(
        self,
        listed: Collection[str],
        failures: Mapping[str, VideoRecord],
        run: Mapping[str, Any],
        without: Collection[str],
    ) -> tuple[tuple[dict[str, Any], dict[str, VideoRecord]], bool]:
        remove_leftovers(self.folder)
        with temporary(
            self.folder / INDEX
        ) as mark:  # others see it from before we read until after we have written
            mark.touch()
            since = mark.stat().st_mtime_ns
            self.read_shards()
            records = {
                v: VideoRecord(video=v, status="pending", error="not extracted yet") for v in listed
            }
            known = {v: r for v, r in standing_failures(self.folder).items() if v in records}
            records |= {**failures, **known}
            records |= {v: r for v, r in failures.items() if r.status != "pending"}
            kept = {
                name: found for name, (_, found) in self._by_shard.items() if name not in without
            }
            for found in kept.values():
                records |= found
            index = write_index(
                self.folder,
                dataset=self.dataset,
                config=self.config,
                width=self.width,
                records=records.values(),
                run=run,
                shards=kept.keys(),
            )
        self._wait_for_others(since)
        return (index, records), self._stands(index, failures, without)

    def _wait_for_others(self, since: int) -> None:
        """Wait for others that are writing the index now: they may have read the shards before we did."""
        others = {p for p in self.folder.glob(f".{INDEX}.*.partial") if is_live(p)}
        end = time.monotonic() + _OTHERS_SECONDS
        while others and time.monotonic() < end:
            time.sleep(0.01)
            others = {p for p in others if _newer(p, since - _ABANDONED_NS)}

    def _stands(
        self,
        index: Mapping[str, Any],
        failures: Mapping[str, VideoRecord],
        without: Collection[str],
    ) -> bool:
        """Return whether the tables on disk fit each other and have all finished shards and our failures."""
        try:
            found = read_index(self.folder)
            standing = {path.name for path in shards_in(self.folder)}.difference(without)
            if {shard["file"] for shard in found["shards"]} != standing:
                return False
            for name, digest in found["tables"].items():
                if hashlib.sha256(read_table(self.folder / name)).hexdigest() != digest:
                    return False
            if found == index:
                return True
            known = {
                row.video for row in read_records(self.folder / VIDEOS) if row.status != "pending"
            }
        except StoreError as error:
            log.debug("%s is being written by others (%s).", self.folder, error)
            return False
        return known >= {v for v, r in failures.items() if r.status != "pending"}


def _newer(path: Path, time_ns: int) -> bool:
    try:
        return path.stat().st_mtime_ns > time_ns
    except FileNotFoundError:
        return False
