"""What reads a folder elsewhere, and the patience with which it is read."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Protocol

from store.errors import UnreachableError
from store.remote_url import RemoteUrl

WORKERS = 8
"""How many ranges or files are transferred at the same time, where the backend allows it."""
_TRIES, _PAUSE_SECONDS = 6, 0.2


class Remote(Protocol):
    """What can be read: a folder by its URL, and its files by name."""

    url: RemoteUrl
    workers: int
    """How many ranges may be read at the same time."""

    def below(self, name: str) -> Remote:
        """Return the folder `name` in this one."""

    def folders(self) -> list[str]:
        """Return the names of the folders in this one, sorted."""

    def table(self, name: str, limit: int) -> bytes | None:
        """Return a small file's bytes, None if it is not there; refuse more than `limit` bytes."""

    def some(self, name: str, begin: int, end: int, size: int) -> bytes:
        """Return at least one byte and at most `end - begin` bytes of a file from `begin` on.

        Args:
            size: how large the file should be.

        Raises:
            UnreachableError: trying again may help.
            StoreError: the file is absent, of another size, or no plain file.
        """


class Progress:
    """Is told what is pulled or pushed; a command shows it, and by default nothing does."""

    def begin(self, what: str, total: int) -> None:
        """Take note that `total` bytes of a store are to be transferred."""

    def tick(self, count: int) -> None:
        """Take note that `count` bytes more are done."""


def patiently(read: Callable[[], bytes], patience: list[int]) -> bytes:
    """Call `read` until it succeeds; give up after some broken connections in a row.

    Args:
        patience: a list with the number of failures in a row, which is kept between calls.
    """
    while True:
        try:
            data = read()
        except UnreachableError:
            patience[0] += 1
            if patience[0] >= _TRIES:
                raise
            time.sleep(_PAUSE_SECONDS * 2 ** patience[0])
            continue
        patience[0] = 0
        return data


def read_range(remote: Remote, name: str, begin: int, end: int, size: int) -> bytes:
    """Return exactly the bytes `begin` to `end` of a file, going on where a connection broke."""
    parts, patience = [], [0]
    while begin < end:
        data = patiently(functools.partial(remote.some, name, begin, end, size), patience)
        parts.append(data)
        begin += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def open_remote(url: RemoteUrl) -> Remote:
    """Return what reads from a URL.

    Raises:
        StoreError: the protocol needs a package that is not installed.
    """
    if url.protocol in ("http", "https"):
        from store.remote_http import HttpRemote

        return HttpRemote(url)
    from store.remote_fsspec import FsspecRemote

    return FsspecRemote(url)
