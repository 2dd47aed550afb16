"""Which stores lie below a folder, how they were made, and what state they are in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extract.errors import StoreError, first_of
from extract.store import INDEX, SUMS, VIDEOS, FeatureStore, is_shard_name

_STORE_NAME = re.compile(r".+-[0-9a-f]{8}")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One store folder. Without an index, or with a damaged one, `index` is empty and `state` says so."""

    folder: Path
    bytes: int
    """Of all files in it."""
    state: str
    """complete, or what is missing or wrong."""
    index: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`<data set>/<folder>`."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def store_folders(root: Path) -> list[Path]:
    """`root` itself if it is a store's folder, else those in it or one folder further down.

    Raises:
        StoreError: `root` is not a folder.
    """
    if not root.is_dir():
        raise StoreError(f"There is no folder {root}. Run extract first, or name another folder.")
    root = root.absolute() if root.name in ("", "..") else root
    return list(_store_folders(root, depth=2))


def _store_folders(folder: Path, depth: int) -> Iterator[Path]:
    names = {path.name for path in folder.iterdir()}
    if (
        _STORE_NAME.fullmatch(folder.name)
        or {INDEX, VIDEOS, SUMS} & names
        or any(map(is_shard_name, names))
    ):
        yield folder
    elif depth:
        for name in sorted(names):
            if (folder / name).is_dir():
                yield from _store_folders(folder / name, depth - 1)


def summarise(folder: Path) -> Summary:
    """The summary of one store folder; damage is part of it, not an error."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    shards = {path.name: path.stat().st_size for path in files if is_shard_name(path.name)}
    if INDEX not in {path.name for path in files}:
        state = f"unfinished: no {INDEX} yet, {len(shards)} finished shards"
        return Summary(folder=folder, bytes=size, state=state)
    try:
        with FeatureStore(folder) as store:
            index = store.index
    except StoreError as error:
        return Summary(folder=folder, bytes=size, state=f"damaged: {error}")
    wrong = [s["file"] for s in index["shards"] if shards.get(s["file"]) != s["bytes"]]
    left = [f"{index['totals'][s]:,} {s}" for s in ("missing", "failed", "pending")]
    if wrong:
        state = f"damaged: {len(wrong)} shards are absent or cut {first_of(wrong)}"
    elif index["complete"]:
        state = "complete"
    else:
        state = "incomplete: " + ", ".join(text for text in left if not text.startswith("0 "))
    return Summary(folder=folder, bytes=size, state=state, index=index)
