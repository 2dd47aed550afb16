"""Opening the files of a store, which must be plain files in its folder.

Every file of a store is opened here, because stores come from other people: a name may belong to a pipe
that never answers, to a device that never ends, or to a link to somebody else's file.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from store.errors import StoreError
from store.files import digest_of

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_REPLACED_TRIES = 3


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: it is no plain file, a link to another folder, or unreadable.
    """
    if path.is_symlink() and os.path.dirname(os.path.realpath(path)) != os.path.realpath(
        path.parent
    ):
        raise StoreError(f"{path} is a link to another folder; files of a store are plain files.")
    for left in reversed(range(_REPLACED_TRIES)):
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            break
        except FileNotFoundError:
            raise
        except OSError as error:
            # On NFS a file that another machine has just replaced is stale for a moment.
            if error.errno != errno.ESTALE or not left:
                raise StoreError(f"{path} cannot be opened ({error.strerror}).") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise StoreError(f"{path} is {kind}; files of a store are plain files. Remove it.")
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, limit: int) -> bytes:
    """Return all bytes of a plain file.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: as `open_plain`, or the file has more than `limit` bytes.
    """
    with open_plain(path) as file:
        try:
            data = file.read(limit + 1)
        except (OSError, MemoryError) as error:
            raise StoreError(f"{path} cannot be read ({error or 'not enough memory'}).") from error
    if len(data) > limit:
        raise StoreError(f"{path} is larger than {limit / 1e6:,.0f} MB and is refused.")
    return data


def hash_plain(path: Path) -> tuple[str, os.stat_result]:
    """Return the hex sha256 of a plain file, and its status from before it was read.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: as `open_plain`.
    """
    with open_plain(path) as file:
        found = os.fstat(file.fileno())
        try:
            return digest_of(file), found
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror or error}).") from error


def size_of(path: Path) -> int | None:
    """Return the size of a plain file in bytes; None if there is no plain file."""
    with suppress(OSError):
        found = path.stat()
        return found.st_size if stat.S_ISREG(found.st_mode) else None
    return None
