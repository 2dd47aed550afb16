"""One process per run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from extract.errors import RunError

try:
    import fcntl
except ImportError:  # Windows: no two processes are kept apart there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the folder, and keep other processes out of it until `with` is left.

    The folder itself is locked, so nothing is left behind, and a killed process lets go. Where a file
    system has no locks, nothing is locked.

    Raises:
        RunError: another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"Another process is training in {folder}. Let it finish, or stop it and go on with "
                "--resume, or give another --run."
            ) from None
        except OSError as error:
            log.info("This file system has no locks (%s): start one process per folder.", error)
        yield
    finally:
        os.close(descriptor)
