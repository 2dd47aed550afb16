"""Checking the sha256 of shards once, and remembering the result until a file changes.

A memory map hands out whatever bytes are there, and HDF5 may crash on damaged metadata, so a shard is
hashed before it is mapped. The results are kept in `$XDG_CACHE_HOME/ma2l-td/sha256.json` (or in
`~/.cache`), each with the file's real path, size, time of the last change and inode. Without that file
every shard is hashed again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from store.errors import StoreError, counted
from store.files import write_text
from store.plain import hash_plain, read_plain
from store.records import REMAKE

log = logging.getLogger(__name__)

_SAY_BYTES = 1_000_000_000
_CACHE_BYTES = 64_000_000
_REMEMBERED = 20_000
"""The number of files that are remembered; the oldest ones are forgotten."""


def check(expected: Mapping[Path, str]) -> None:
    """Compare shards with the sha256 that the index gives for them.

    Args:
        expected: path -> hex digits.

    Raises:
        StoreError: a shard is absent, unreadable or damaged.
    """
    remembered = _remembered()
    unknown = {}
    for path, digest in expected.items():
        try:
            facts = _facts(path.stat())
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
        if remembered.get(str(path.resolve())) != {**facts, "sha256": digest}:
            unknown[path] = facts["size"]
    size = sum(unknown.values())
    if size > _SAY_BYTES:
        log.info(
            f"Checking the sha256 of {counted(len(unknown), 'shard')} ({size / 1e9:.1f} GB) in "
            f"{next(iter(unknown)).parent} before mapping them; the result is remembered."
        )
    for path in unknown:
        try:
            found, stat = hash_plain(path)
        except FileNotFoundError:
            raise StoreError(f"{path} has disappeared. {REMAKE.capitalize()}.") from None
        if found != expected[path]:
            raise StoreError(
                f"{path} is damaged: its sha256 is {found[:8]}..., the index says {expected[path][:8]}.... "
                f"Delete it and {REMAKE}."
            )
        real = str(path.resolve())
        remembered.pop(real, None)
        remembered[real] = {**_facts(stat), "sha256": found}
    if unknown:
        _remember(remembered)


def _facts(stat: os.stat_result) -> dict[str, Any]:
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def cache_folder() -> Path:
    """Return the folder of what can be made again. Nothing else reads XDG_CACHE_HOME."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "ma2l-td"


def _cache() -> Path:
    return cache_folder() / "sha256.json"


def _remembered() -> dict[str, Any]:
    try:
        found = json.loads(read_plain(_cache(), _CACHE_BYTES))
    except (OSError, StoreError, ValueError, RecursionError, RuntimeError) as error:
        log.debug("No checked shards are remembered (%s).", error)
        return {}
    return found if isinstance(found, dict) else {}


def _remember(found: dict[str, Any]) -> None:
    try:
        path = _cache()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(dict(list(found.items())[-_REMEMBERED:])))
    except (OSError, RuntimeError, ValueError) as error:
        log.info(
            "The checked shards cannot be remembered, so they are checked again next time (%s).",
            error,
        )
