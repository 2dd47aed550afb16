"""`store push`: a store to somewhere else, merged with what is there.

Shards go first, each checked after it arrived; then the CSVs, then the index, which is read again. Until
the index is there, readers see the store as it was. A push holds a claim (`store/claim.py`), so two of
them come one after the other, and the second finds what the first has added.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store import checksums
from store.arrival import check_arrival, has_arrived
from store.card import CARD_BYTES, card_of, is_ours, licence_of
from store.claim import claimed
from store.errors import ConfigError, FormatError, StoreError, UnreachableError
from store.format import CARD, LARGEST, is_shard_name, renamed
from store.plain import size_of
from store.remote import Progress, open_remote
from store.remote_fsspec import FsspecRemote
from store.remote_tables import Tables, check_same_config, merged, tables_at, tables_here
from store.remote_url import RemoteUrl

log = logging.getLogger(__name__)
_UPLOADS = 4
"""How many shards are uploaded at the same time, where the backend allows it."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did."""

    url: RemoteUrl
    shards: int
    """How many shards were uploaded."""
    bytes: int
    """How many bytes these have."""
    listed: int
    """How many shards the store has there now."""
    changed: bool
    """Whether its tables were written."""


def writable(url: RemoteUrl) -> FsspecRemote:
    """Return a folder elsewhere for writing.

    Raises:
        ConfigError: it is on a web server, which only reads.
    """
    remote = open_remote(url)
    if not isinstance(remote, FsspecRemote):
        raise ConfigError(
            f"{url} can only be read. Push to a folder that the server offers, or to another URL."
        )
    return remote


def push(
    folder: Path,
    root: FsspecRemote,
    *,
    replace: bool = False,
    take_over: bool = False,
    licence: str | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Upload what a store elsewhere lacks of this one.

    Args:
        root: the folder of features there; the store goes to `<data set>/<folder>` in it.
        replace: make the store there what this one is, instead of adding to it; one that is damaged, or
            half replaced by a push that was killed, is mended so.
        take_over: ignore that another push holds the store there.
        licence: for the card, an identifier of the Hub; None keeps that of a card that is there.

    Raises:
        UnreachableError: the server does not answer. What arrived is found by the next push.
        StoreError: this store is damaged, that one has other features under the same names, somebody
            else is pushing there, or a file did not arrive as it was sent.
    """
    ours = tables_here(folder)
    wrong = renamed(folder.name, ours.index)
    if wrong:
        raise StoreError(f"{folder}: {wrong}. Give the folder its name back.")
    remote = root.below(ours.index["dataset"]).below(folder.name)
    _joined(ours, _tables_there(remote, replace)[0], replace, remote)  # refused before a claim
    with claimed(remote, take_over=take_over):
        remote.remove_partials()
        before, damage = _tables_there(remote, replace)
        if damage:
            log.warning("What is there is replaced, and cannot be read: %s", damage)
        after = _joined(ours, before, replace, remote)
        missing = _missing(ours, before, remote)
        _check_sizes(folder, missing)
        if progress:
            progress.begin(
                f"{ours.index['dataset']}/{folder.name}", sum(e["bytes"] for e in missing)
            )
        _upload(folder, remote, missing, progress or Progress())
        changed = _write_tables(after, remote)
        _check_tables(after, remote)
        _write_card(after, remote, licence)
        if replace:
            _remove_unlisted(after, remote)
    return Pushed(
        url=remote.url,
        shards=len(missing),
        bytes=sum(entry["bytes"] for entry in missing),
        listed=len(after.shards),
        changed=changed,
    )


def _tables_there(remote: FsspecRemote, replace: bool) -> tuple[Tables | None, str]:
    """Read what is there, and what is wrong with it; None if there is no store, or one to be replaced."""
    try:
        return tables_at(remote, interrupted=True), ""
    except (UnreachableError, FormatError):
        raise
    except StoreError as error:
        if not replace:
            raise
        return None, str(error)


def _joined(ours: Tables, theirs: Tables | None, replace: bool, remote: FsspecRemote) -> Tables:
    if theirs is None:
        return ours
    if replace:
        check_same_config(ours, theirs, remote.url)
        return ours
    return merged(ours, theirs, remote.url)


def _missing(ours: Tables, theirs: Tables | None, remote: FsspecRemote) -> list[Mapping[str, Any]]:
    """Return the entries of our shards that are not listed there, or not of the right size."""
    known = theirs.shards if theirs else {}
    return [
        entry
        for name, entry in ours.shards.items()
        if known.get(name, {}).get("sha256") != entry["sha256"]
        or (remote.info(name) or {}).get("size") != entry["bytes"]
    ]


def _check_sizes(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Make sure at once that all shards are here as large as the index says."""
    for entry in entries:
        if size_of(folder / entry["file"]) != entry["bytes"]:
            raise StoreError(
                f"{folder / entry['file']} is absent or of another size than the index says. Run store "
                "verify, mend the store, and push again."
            )


def _upload(
    folder: Path,
    remote: FsspecRemote,
    entries: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> None:
    from fsspec.callbacks import Callback

    class Ticking(Callback):
        """Passes the bytes of one upload on."""

        def relative_update(self, inc: int = 1) -> None:
            progress.tick(inc)

    def one(entry: Mapping[str, Any], checked: Future[None]) -> None:
        name, path = entry["file"], folder / entry["file"]
        checked.result()  # no damaged shard leaves this machine
        if has_arrived(remote, name, path, entry["sha256"]):  # by a push that was stopped
            progress.tick(entry["bytes"])
            return
        remote.upload(path, name, Ticking())
        check_arrival(remote, name, path, entry["sha256"])

    # One thread, because it remembers what it hashed. It runs ahead of the uploads.
    checker = ThreadPoolExecutor(1, thread_name_prefix="sha256")
    executor = ThreadPoolExecutor(min(_UPLOADS, remote.workers), thread_name_prefix="upload")
    try:
        wanted = [{folder / entry["file"]: entry["sha256"]} for entry in entries]
        checks = [checker.submit(checksums.check, one_file) for one_file in wanted]
        for job in [executor.submit(one, *pair) for pair in zip(entries, checks)]:
            job.result()
    finally:
        checker.shutdown(wait=False, cancel_futures=True)
        executor.shutdown(wait=True, cancel_futures=True)


def _write_tables(tables: Tables, remote: FsspecRemote) -> bool:
    """Write those tables that are not there yet, the index after the CSVs; return whether any was."""
    changed = False
    for name, data in tables.written().items():
        if remote.table(name, LARGEST[name]) != data:
            remote.write(name, data)
            changed = True
    return changed


def _check_tables(tables: Tables, remote: FsspecRemote) -> None:
    """Read the index again and make sure that it is what was written.

    Raises:
        StoreError: it is not, or a shard is not there.
    """
    found = tables_at(remote)
    if found is None or found.shards != tables.shards or list(found.rows) != list(tables.rows):
        raise StoreError(
            f"{remote.url} does not have the index that was written. Somebody may have written there in "
            "another way; run the same command again."
        )


def _write_card(tables: Tables, remote: FsspecRemote, licence: str | None) -> None:
    """Write README.md, unless somebody wrote one of his own."""
    standing = remote.table(CARD, CARD_BYTES)
    if standing is not None and not is_ours(standing):
        return
    licence = licence or licence_of(standing or b"")
    text = card_of(tables, remote.url, licence, time.strftime("%Y-%m-%d", time.gmtime()))
    if standing != text.encode():
        remote.write(CARD, text.encode())


def _remove_unlisted(tables: Tables, remote: FsspecRemote) -> None:
    """Remove the shards that the index does not list any more."""
    for name in remote.names():
        if is_shard_name(name) and name not in tables.shards:
            remote.remove(name)


def check_licence(licence: str) -> None:
    """Refuse a licence that is no identifier.

    Raises:
        ConfigError: it has other characters than letters, digits, '.', '-' and '+'.
    """
    if not licence or not all(c.isascii() and (c.isalnum() or c in ".-+") for c in licence):
        raise ConfigError(
            f"--licence {licence[:40]!r} is no identifier. Give one as the Hub lists them, for example "
            "cc-by-4.0, mit, other or unknown."
        )
