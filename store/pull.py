"""`store pull`: a store from elsewhere, or the shards of it that a benchmark needs.

What lies in the folder afterwards is a store like any other: its tables list the shards that are here,
and videos whose shards were not pulled are pending, with the reason in failures.csv. So training,
`store verify` and `extract` treat it as any store that is not complete yet. The tables are written last,
the index after the CSVs, and a shard has its name only once its sha256 was found right.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import ConfigError, StoreError, counted, first_of
from store.files import explained, replacing
from store.format import INDEX, shards_in, standing_failures, standing_index
from store.locks import folder_lock, is_live
from store.moving import refuse_filling
from store.plain import hash_plain, size_of
from store.read import FeatureStore
from store.records import VideoRecord
from store.remote import Progress
from store.remote_stores import Found
from store.remote_tables import Tables, check_same_config
from store.remote_url import RemoteUrl, is_url
from store.transfer import check_room, download

log = logging.getLogger(__name__)
_NOT_PULLED = "its shard was not pulled from "
"""What failures.csv says of a video that stayed where its store was pulled from, before that URL."""


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull did."""

    folder: Path
    shards: int
    """How many shards were downloaded."""
    bytes: int
    """How many bytes these have."""
    here: int
    """How many of the store's shards are here now."""
    listed: int
    """How many shards the store has there."""


def pull(
    found: Found,
    features: Path,
    *,
    videos: Collection[str] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Bring a store, or the shards that hold some videos, into a folder of features.

    Args:
        videos: ids of the videos that are needed; None for all shards.
        replace: remove shards that are here and not there.

    Raises:
        UnreachableError: the server does not answer. What came is kept, and the next pull goes on.
        StoreError: what is there is not what its index says, what is here would be lost, or the disk
            is full.
    """
    folder = features / found.place
    remedy = "Make room or choose another folder, then run the same command again."
    with explained(folder, StoreError, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            return _pull(found, folder, videos, replace, progress or Progress())


def _pull(
    found: Found,
    folder: Path,
    videos: Collection[str] | None,
    replace: bool,
    progress: Progress,
) -> Pulled:
    theirs = found.tables
    here, gone, damaged = _here(folder, theirs)
    if gone and not replace:
        raise StoreError(
            f"{folder} has {counted(len(gone), 'shard')} that {found.remote.url} does not have, "
            "or has with other "
            f"contents {first_of(gone)}. Nothing was changed. Pull into another folder, or give --replace "
            "to take what is there in place of them."
        )
    wanted = set(theirs.shards)
    if videos is not None:
        wanted = {row.shard for row in theirs.rows if row.stored and row.video in videos} | damaged
    missing = [entry for name, entry in theirs.shards.items() if name in wanted - here]
    check_room(folder, missing)
    progress.begin(str(found.place), sum(entry["bytes"] for entry in missing))
    download(found.remote, folder, missing, progress.tick)
    kept = {} if replace else _kept(folder, theirs)
    _write(folder, theirs, here | wanted, kept, str(found.remote.url))
    for name in set(gone) - here - wanted:
        (folder / name).unlink(missing_ok=True)
    for partial in folder.glob(".shard-*.h5.*.partial"):  # of other states of the store
        if not is_live(partial):
            partial.unlink(missing_ok=True)
    FeatureStore(folder).close()  # reads what was written
    return Pulled(
        folder=folder,
        shards=len(missing),
        bytes=sum(entry["bytes"] for entry in missing),
        here=len(here | wanted),
        listed=len(theirs.shards),
    )


def left_behind(row: VideoRecord | None) -> str:
    """Return the URL of the store that a video was not pulled from; empty if it is absent for another reason.

    Args:
        row: what the tables of the store here say of the video, None if they do not name it.
    """
    if row is None or row.status != "pending" or not row.error.startswith(_NOT_PULLED):
        return ""
    url = row.error.removeprefix(_NOT_PULLED)
    try:  # the row may be a stranger's
        return str(RemoteUrl.of(url)) if is_url(url) and url.isprintable() else ""
    except ConfigError:
        return ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other pull or index is written in a folder, and keep others out."""
    with folder_lock(folder, wait=False) as free:
        if free:
            yield
            return
    log.info("Another command is writing in %s. Waiting for it to end.", folder)
    with folder_lock(folder, wait=True):
        yield


def _here(folder: Path, theirs: Tables) -> tuple[set[str], list[str], set[str]]:
    """Return which of their shards are here, which shards here are none of theirs, and which are damaged."""
    refuse_filling(folder, "Let it end, or pull into another folder.")
    index = standing_index(folder)
    if index is not None:
        check_same_config(Tables(index=index, rows=()), theirs, folder)
    listed = {entry["file"]: entry["sha256"] for entry in index["shards"]} if index else {}
    here, gone, damaged = set(), [], set()
    for path in shards_in(folder):
        entry, known = theirs.shards.get(path.name), listed.get(path.name)
        if entry is not None and _is_same(path, entry, known):
            here.add(path.name)
        elif entry is None or known != entry["sha256"]:
            gone.append(path.name)
        else:
            damaged.add(path.name)
    return here, gone, damaged


def _is_same(path: Path, entry: Mapping[str, Any], known: str | None) -> bool:
    """Whether a shard here is that of the index there.

    One that is older than our index, which lists it, is not hashed again.
    """
    if path.is_symlink() or size_of(path) != entry["bytes"]:
        return False
    if known is None or path.stat().st_mtime_ns > (path.parent / INDEX).stat().st_mtime_ns:
        known = hash_plain(path)[0]
    return bool(known == entry["sha256"])


def _kept(folder: Path, theirs: Tables) -> dict[str, VideoRecord]:
    """Return what failed here, and of which nothing else is known there, by video."""
    there = {row.video: row for row in theirs.rows}
    return {
        video: row
        for video, row in standing_failures(folder).items()
        if row.status in ("missing", "failed")
        and (video not in there or there[video].status == "pending")
    }


def _write(
    folder: Path,
    theirs: Tables,
    here: Collection[str],
    kept: Mapping[str, VideoRecord],
    url: str,
) -> None:
    """Write the tables of the shards that are here, with the rows that are kept in place of theirs."""
    tables = theirs
    if kept or len(here) < len(theirs.shards):
        error = f"{_NOT_PULLED}{url}"
        rows = {
            row.video: row
            if not row.stored or row.shard in here
            else VideoRecord(video=row.video, status="pending", error=error)
            for row in theirs.rows
        }
        rows |= kept
        entries = [entry for name, entry in sorted(theirs.shards.items()) if name in here]
        index = {**theirs.index, "shards": entries}
        tables = Tables(index=index, rows=[rows[video] for video in sorted(rows)])
    for name, data in tables.written().items():
        path = folder / name
        if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
            continue
        with replacing(path) as partial:
            partial.write_bytes(data)
