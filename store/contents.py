"""The files in a store's folder, hashed and parsed, and what is wrong with them."""

from __future__ import annotations

import enum
import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from store.errors import StoreError
from store.format import CARD, FAILURES, INDEX, SUMS, VIDEOS, is_shard_name, parse_index, read_table
from store.locks import LOCK, is_held, is_live, writers
from store.plain import hash_plain, size_of
from store.records import REBUILD, REMAKE, VideoRecord, parse_records

TABLES = (INDEX, VIDEOS, FAILURES)
_LEFTOVER = re.compile(r"\..+\.partial|\.lock|\.nfs[0-9a-f]+")
"""Temporary files, the lock, and what NFS calls a file that was removed while it was open."""
_SUM_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_LINE_LETTERS = 120
_TRIES, _PAUSE_SECONDS = 50, 0.05

T = TypeVar("T")


class Kind(enum.Enum):
    """A kind of problem: a label, and advice on what to do."""

    ABSENT = ("absent file", f"{REMAKE.capitalize()}: tables are rebuilt, lost shards made anew.")
    UNREADABLE = ("unreadable file", "Check its permissions and the disk.")
    LINK = ("not a plain file", "Put the file itself in its place.")
    LEFTOVER = ("leftover of a killed run", "Delete it, unless an extraction is running there now.")
    FOREIGN = ("foreign file", "Move it out of the store.")
    SUMS = ("damaged SHA256SUMS", f"Delete it and {REMAKE}.")
    TABLE = ("damaged table", REBUILD)
    SHARD = ("damaged shard", f"Delete it and {REMAKE}.")
    REPLACED = ("older features beside newer ones", "Run store repack: it removes the older ones.")
    CONTRADICTION = ("contradiction", f"Delete index.json and {REMAKE}.")
    WRITING = ("extraction in progress", "Verify again when it has ended.")
    SOURCE = ("source that is not the extracted one", "Restore it, or extract the video again.")

    def __init__(self, label: str, advice: str) -> None:
        self.label = label
        self.advice = advice


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: its kind, the file or video that it concerns, and what was found."""

    kind: Kind
    where: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: {self.found}"


class Contents:
    """The files in a store's folder, hashed and parsed. What cannot be read is None, and a problem.

    The tables are read first and together, so that they belong to one state of the store. Shards never
    change.

    Args:
        known: digests of shards that were hashed before, by name, size, time and inode. New ones are
            added to it.
        on_bytes: told how many bytes of shards or videos have been read since it was last told.
    """

    def __init__(
        self,
        folder: Path,
        known: dict[tuple[Any, ...], str] | None = None,
        on_bytes: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.folder, self.on_bytes = folder, on_bytes
        self.problems: list[Problem] = []
        self.digests: dict[str, str] = {}
        """sha256 of every file whose name belongs in a store."""
        self.sizes: dict[str, int] = {}
        """Sizes of those files in bytes."""
        self._known = {} if known is None else known
        self._tables = _tables_of_one_state(folder)
        for name, data in self._tables.items():
            if isinstance(data, bytes):
                self.digests[name] = hashlib.sha256(data).hexdigest()
                self.sizes[name] = len(data)
        for path in sorted(folder.iterdir()):
            self._look_at(path)
        for name in (*TABLES, SUMS):
            if name not in self.digests and not os.path.lexists(folder / name):
                self._add(Kind.ABSENT, name, "it is not there")
        self.index: dict[str, Any] | None = self._parse(INDEX, parse_index)
        self.rows = self._parse(VIDEOS, parse_records)
        self.failures = self._parse(FAILURES, parse_records)
        self.sums: dict[str, str] = self._parse(SUMS, self._read_sums) or {}
        self.shards = {shard["file"]: shard for shard in (self.index or {}).get("shards", ())}
        self.by_shard: dict[str, dict[str, VideoRecord]] = defaultdict(dict)
        self.by_video: dict[str, VideoRecord] = {}
        for row in self.rows or ():
            if row.stored:
                self.by_shard[row.shard][row.video] = self.by_video[row.video] = row

    def recorded(self, name: str) -> dict[str, str]:
        """Return the recorded sha256 of a file: the table that records it -> hex digits."""
        tables = (self.index or {}).get("tables", {})
        in_index = self.shards.get(name, {}).get("sha256", tables.get(name))
        places = {SUMS: self.sums.get(name), INDEX: in_index}
        return {where: digest for where, digest in places.items() if digest is not None}

    def _look_at(self, path: Path) -> None:
        name = path.name
        if _LEFTOVER.fullmatch(name):
            live = is_held(path) if name == LOCK else is_live(path)
            if not live and os.path.lexists(path):
                self._add(Kind.LEFTOVER, name, f"{size_of(path) or 0:,} bytes")
        elif name == CARD and path.is_file() and not path.is_symlink():
            pass
        elif name not in (*TABLES, SUMS) and not is_shard_name(name):
            self._add(Kind.FOREIGN, name, "it is no file of a store")
        elif path.is_symlink() or not path.is_file():
            if os.path.lexists(path):
                self._add(Kind.LINK, name, "it is a link" if path.is_symlink() else "it is no file")
                self.digests.pop(name, None)
        elif is_shard_name(name):
            self._hash(path)
        elif isinstance(self._tables[name], StoreError):
            self._add(Kind.UNREADABLE, name, str(self._tables[name]))

    def _hash(self, path: Path) -> None:
        try:
            found = path.stat()
            identity = (path.name, found.st_size, found.st_mtime_ns, found.st_ino)
            if identity not in self._known:
                self._known[identity] = hash_plain(path)[0]
            self.digests[path.name] = self._known[identity]
            self.sizes[path.name] = found.st_size
            self.on_bytes(found.st_size)
        except (OSError, StoreError) as error:
            self._add(Kind.UNREADABLE, path.name, str(error))

    def _parse(self, name: str, read: Callable[[bytes, Path], T]) -> T | None:
        data = self._tables[name]
        if name not in self.digests or not isinstance(data, bytes):
            return None
        try:
            return read(data, self.folder / name)
        except StoreError as error:
            self._add(Kind.TABLE, name, str(error))
            return None

    def _read_sums(self, data: bytes, path: Path) -> dict[str, str]:
        *lines, last = data.decode("utf-8", errors="replace").split("\n")
        matches = [_SUM_LINE.fullmatch(line) for line in lines]
        bad = [line for line, match in zip(lines, matches) if not match] + [last] * bool(last)
        sums = {match[2]: match[1] for match in matches if match}
        if bad or len(sums) < len(matches):
            line = (bad or lines)[0][:_LINE_LETTERS]
            self._add(Kind.SUMS, SUMS, f"a line is malformed or stands there twice: {line!r}")
        return sums

    def _add(self, kind: Kind, where: str, found: str) -> None:
        self.problems.append(Problem(kind=kind, where=where, found=found))


def _tables_of_one_state(folder: Path) -> dict[str, bytes | StoreError]:
    """Return the bytes of each table, or why it cannot be read.

    While a writer is replacing the tables, they are read again until they belong to one state.
    """
    before: dict[str, bytes | StoreError] = {}
    for _ in range(_TRIES):
        found: dict[str, bytes | StoreError] = {}
        for name in (INDEX, VIDEOS, FAILURES, SUMS):
            try:
                found[name] = read_table(folder / name)
            except StoreError as error:
                found[name] = error
        settled = {n: d for n, d in found.items() if isinstance(d, bytes)} == before
        if _fit(found) or (settled and not writers(folder)):
            break
        before = {name: data for name, data in found.items() if isinstance(data, bytes)}
        time.sleep(_PAUSE_SECONDS)
    return found


def _fit(tables: Mapping[str, bytes | StoreError]) -> bool:
    """Return whether SHA256SUMS, which is written last, has the sha256 of all these tables."""
    sums = tables[SUMS]
    return isinstance(sums, bytes) and all(
        isinstance(data, bytes) and hashlib.sha256(data).hexdigest().encode() in sums
        for name, data in tables.items()
        if name != SUMS
    )
