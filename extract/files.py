"""Files and folders: all-or-nothing writes, locks, hashes, and the images of a folder."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no two processes are kept apart there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
))
# fmt: on


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the name, else it goes.

    A reader, or a crash, never sees half a file under the final name.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def lock(descriptor: int, *, wait: bool) -> bool:
    """Whether nobody else holds the lock on this open file or folder; a killed process lets go of it.

    Where a system has no locks the answer is yes, and the log says so.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        log.info("This file system has no locks (%s): start one process per folder.", error)
    return True


@contextmanager
def folder_lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a folder itself, so that nothing is left behind; yields what `lock` says."""
    if os.name == "nt":  # a folder cannot be opened there
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield lock(descriptor, wait=wait)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def size_and_sha256_of(source: Path) -> tuple[int, str]:
    """Bytes and hex sha256 of a video file, or of a folder's images in order, by name and sha256."""
    if not source.is_dir():
        return source.stat().st_size, sha256_of(source)
    images = images_in(source)
    lines = "".join(f"{image.name} {sha256_of(image)}\n" for image in images)
    return sum(image.stat().st_size for image in images), hashlib.sha256(lines.encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def images_in(folder: Path) -> list[Path]:
    """The images of a folder in natural order: `frame9.jpg` before `frame10.jpg`."""
    names = [name for name in os.listdir(folder) if _is(name, IMAGE_SUFFIXES)]

    def natural(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", name)
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return [folder / name for name in sorted(names, key=lambda name: (natural(name), name))]


def _is(name: str, suffixes: frozenset[str]) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power failure."""
    if os.name == "nt":  # Windows has no descriptor for a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
