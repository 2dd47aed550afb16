"""Keeping other pushes out of a store elsewhere, without locks: by a file that says who is pushing.

Everybody puts a claim of his own beside the store, then lists the folder. Who sees another claim takes
his own back and tries again a little later, so two never push at the same time, if a listing shows every
file that was written before it. S3, Google Cloud, the Hub and disks do; a disk that machines see through
NFS may show a file late.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.errors import StoreError
from store.locks import owner_is_gone, temporary
from store.remote_fsspec import FsspecRemote

CLAIM = "push"
_CLAIM = re.compile(r"\.push\.[0-9a-f]{8}\.\d{1,9}\.[0-9a-f]{8}\.partial")
_TRIES, _PAUSE_SECONDS = 5, 0.5


def is_claim(name: str) -> bool:
    """Return whether a file elsewhere is the claim of a push."""
    return _CLAIM.fullmatch(name) is not None


@contextmanager
def claimed(remote: FsspecRemote, *, take_over: bool) -> Iterator[None]:
    """Hold the claim of a store elsewhere; give it back at the end, also after an error.

    Args:
        take_over: remove the claims of others first.

    Raises:
        StoreError: somebody else is pushing there.
    """
    if take_over:
        for name in filter(is_claim, remote.names()):
            remote.remove(name)
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(random.uniform(0, _PAUSE_SECONDS * attempt))
        with temporary(Path(CLAIM)) as path:
            mine = path.name
            remote.write(mine, f"process {os.getpid()}\n".encode())
            try:
                others = [name for name in filter(is_claim, remote.names()) if name != mine]
                dead = [name for name in others if owner_is_gone(name)]
                for name in dead:
                    remote.remove(name)
                if len(dead) == len(others):
                    yield
                    return
            finally:
                remote.remove(mine)
    raise StoreError(
        f"Somebody else is pushing to {remote.url}: {others[0]} is there. Run the same command again when "
        "that push has ended. If it was killed on another machine, give --take-over."
    )
