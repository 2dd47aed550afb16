"""Who is writing in a folder: locks, and temporary names that say whose they are.

A temporary file is called `.{name}.{machine}.{process}.{random}.partial`, so two processes never share
one, whether or not the file system has locks. Only what certainly belongs to nobody is removed: on
this machine, what no process holds and whose process is gone; of other machines, what nobody has
touched for a day.
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
except ImportError:  # Windows: no two processes are kept apart there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK = ".lock"
"""The file in a folder that stands for it: on NFS a lock on a file is seen by every machine, a lock on
a folder is not."""
STALE_SECONDS = 24 * 3600
_PARTIAL = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})\.(?P<process>\d{1,9})\.[0-9a-f]{8}\.partial")
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_mine: set[str] = set()
"""Names of the temporary files that this process is using."""


@functools.cache
def machine() -> str:
    """Eight hex digits that differ between machines, between boots, and between containers."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):  # the same number means another process in another namespace
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """Yield an unused name beside `path` that says whose it is; what stands there goes at the end."""
    name = f".{path.name}.{machine()}.{os.getpid()}.{secrets.token_hex(4)}.partial"
    _mine.add(name)
    try:
        yield path.with_name(name)
    finally:
        path.with_name(name).unlink(missing_ok=True)
        _mine.discard(name)


def is_live(partial: Path) -> bool:
    """Whether a file has a temporary name of this project, and its process may still be writing it."""
    return _PARTIAL.fullmatch(partial.name) is not None and not _is_dead(partial)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that are certainly gone."""
    for partial in folder.glob(".*.partial"):
        if _is_dead(partial):
            partial.unlink(missing_ok=True)


def writers(folder: Path) -> list[str]:
    """The names of files which show that a process is writing in a folder now."""
    found = [partial.name for partial in folder.glob(".*.partial") if is_live(partial)]
    return found + [LOCK] * is_held(folder / LOCK)


def _is_dead(partial: Path) -> bool:
    match = _PARTIAL.fullmatch(partial.name)
    if match is None or match["machine"] != machine():
        with suppress(FileNotFoundError):
            return time.time() - partial.lstat().st_mtime > STALE_SECONDS
        return False
    process = int(match["process"])
    used = partial.name in _mine if process == os.getpid() else _runs(process)
    return not used and not is_held(partial)


def _runs(process: int) -> bool:
    if os.name == "nt":  # there a signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # killed, and its parent has not asked for it yet
        return ") Z " not in Path(f"/proc/{process}/stat").read_text(errors="replace")
    return True


def is_held(path: Path) -> bool:
    """Whether another open file holds the lock on this one; where that cannot be asked, yes."""
    for flags in (_FLAGS, _FLAGS & ~os.O_RDWR):  # NFS locks only what may be written
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

    A killed process lets go. Where a file system has no locks the answer is True, and the log says so.
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
    log.info("This file system has no locks (%s): start one process per shard or run.", reason)


@contextmanager
def folder_lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock the file `LOCK` in a folder, which is removed at the end; yields what `lock` says."""
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
    """A descriptor of the file that stands at `path`, locked. Its last holder may just have removed it."""
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
