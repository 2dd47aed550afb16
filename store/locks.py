"""Locks, and temporary files whose names say which process is writing them.

A temporary file is called `.{name}.{machine}.{process}.{random}.partial`, so two processes never share
one, whether or not the file system has locks. A temporary file is removed only if it certainly belongs
to nobody: one of this machine if its process is gone and no process holds its lock, one of another
machine if nobody has touched it for a day.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows processes are not kept apart
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK = ".lock"
"""The file that is locked in place of its folder: on NFS every machine sees a lock on a file, but not
one on a folder."""
STALE_SECONDS = 24 * 3600
_PARTIAL = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})\.(?P<process>\d{1,9})\.[0-9a-f]{8}\.partial")
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_mine: set[str] = set()
"""The names of the temporary files that this process is using now."""


@functools.cache
def machine() -> str:
    """Return eight hex digits that differ between machines, between boots and between containers."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):  # in another namespace the same number is another process
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield an unused path beside `path` whose name says whose it is; remove what is there at the end."""
    name = f".{path.name}.{machine()}.{os.getpid()}.{secrets.token_hex(4)}.partial"
    _mine.add(name)
    try:
        yield path.with_name(name)
    finally:
        path.with_name(name).unlink(missing_ok=True)
        _mine.discard(name)


def is_live(partial: Path) -> bool:
    """Return whether a file has a temporary name of this project and may still be being written."""
    return _PARTIAL.fullmatch(partial.name) is not None and not _is_dead(partial)


def owner_is_gone(name: str) -> bool:
    """Return whether a temporary name was given by a process of this machine that does not use it now."""
    match = _PARTIAL.fullmatch(name)
    if match is None or match["machine"] != machine():
        return False
    process = int(match["process"])
    return name not in _mine if process == os.getpid() else not _runs(process)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that are certainly gone."""
    for partial in folder.glob(".*.partial"):
        if _is_dead(partial):
            partial.unlink(missing_ok=True)


def writers(folder: Path) -> list[str]:
    """Return the names of the files that show that a process is writing in a folder now."""
    found = [partial.name for partial in folder.glob(".*.partial") if is_live(partial)]
    return found + [LOCK] * is_held(folder / LOCK)


def _is_dead(partial: Path) -> bool:
    match = _PARTIAL.fullmatch(partial.name)
    if match is None or match["machine"] != machine():
        with suppress(FileNotFoundError):
            return time.time() - partial.lstat().st_mtime > STALE_SECONDS
        return False
    return owner_is_gone(partial.name) and not is_held(partial)


def _runs(process: int) -> bool:
    if os.name == "nt":  # on Windows, signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # a zombie: it has ended, and its parent has not asked for it yet
        return ") Z " not in Path(f"/proc/{process}/stat").read_text(errors="replace")
    return True


def is_held(path: Path) -> bool:
    """Return whether another open file holds the lock on this one; True if that cannot be found out."""
    for flags in (_FLAGS, _FLAGS & ~os.O_RDWR):  # on NFS a lock needs a writable descriptor
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return False
        except OSError:
            continue
        try:
            return not lock(descriptor, wait=False)
        finally:
            os.close(descriptor)
    return True


def lock(descriptor: int, *, wait: bool) -> bool:
    """Acquire an exclusive lock on an open file; return False if another process holds it.

    The lock of a killed process is released. If the file system has no locks, log that and return True.

    Args:
        wait: whether to wait until the lock is free.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        _say_no_locks(str(error))
    return True


@functools.cache
def _say_no_locks(reason: str) -> None:
    log.info(
        "This file system has no locks (%s). Do not let two processes work on one shard or one run.",
        reason,
    )


@contextmanager
def folder_lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock the file `LOCK` in a folder and yield whether that succeeded; remove the file at the end."""
    if os.name == "nt":
        yield True
        return
    path = folder / LOCK
    descriptor = _open_locked(path, wait)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        if _is_at(path, descriptor):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_locked(path: Path, wait: bool) -> int | None:
    """Open and lock the file at `path`, again if its last holder has just removed it; None if it is held."""
    while True:
        descriptor = os.open(path, _FLAGS | os.O_CREAT, 0o666)
        if not lock(descriptor, wait=wait):
            os.close(descriptor)
            return None
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
