"""Writing files all or nothing, and hashing them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from store.errors import Ma2lError
from store.locks import temporary


@contextmanager
def explained(path: Path, kind: type[Ma2lError], remedy: str) -> Iterator[None]:
    """Turn what a full, read-only or broken disk raises into an error that names the file.

    Args:
        kind: the error to raise instead.
        remedy: the sentence that says what to do next.
    """
    try:
        yield
    except OSError as error:
        text = next(iter(str(error).splitlines()), type(error).__name__)
        reason = os.strerror(error.errno) if error.errno else text
        raise kind(f"Cannot write {path}: {reason}. {remedy}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`. On success it is synced and renamed to `path`, else removed.

    So no reader ever sees half a file under the final name, even after a crash.
    """
    with temporary(path) as partial:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file all or nothing. Bytes of file names that are not UTF-8 stay as they are."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8", "surrogateescape"))


def sha256_of(path: Path, tick: Callable[[], None] = lambda: None) -> str:
    """Return the hex sha256 of a file. `tick` is called after every block of 1 MiB."""
    with path.open("rb") as file:
        return digest_of(file, tick)


def digest_of(file: BinaryIO, tick: Callable[[], None] = lambda: None) -> str:
    """Return the hex sha256 of the rest of an open file. `tick` is called after every block of 1 MiB."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
        tick()
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure."""
    if os.name == "nt":  # Windows has no descriptor for a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
