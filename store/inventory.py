"""Finding the stores below a folder, and summarising how they were made and what state they are in."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store.errors import StoreError, counted, first_of
from store.format import INDEX, SUMS, VIDEOS, is_shard_name, is_store_name
from store.locks import writers
from store.plain import size_of
from store.read import FeatureStore

_LOOKS, _PAUSE_SECONDS = 4, 0.25


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a store's folder holds. With an absent or damaged index, `index` is empty and `state` says so."""

    folder: Path
    bytes: int
    """Bytes of all files in the folder."""
    state: str
    """`complete`, or what is missing or wrong."""
    index: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The store's name in a list: `<data set>/<folder>`."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def store_folders(root: Path) -> list[Path]:
    """Return `root` itself if it is a store's folder, else the stores in it or one folder further down.

    Raises:
        StoreError: `root` is not a folder.
    """
    if not root.is_dir():
        raise StoreError(f"There is no folder {root}. Run extract first, or name another folder.")
    root = root.absolute() if root.name in ("", "..") else root
    return list(_store_folders(root, depth=2))


def some_store_folders(root: Path) -> list[Path]:
    """Return what `store_folders` finds, which is at least one store.

    Raises:
        StoreError: there is none, or `root` is not a folder.
    """
    folders = store_folders(root)
    if not folders:
        raise StoreError(
            f"There is no feature store in {root}. Run extract, or name another folder."
        )
    return folders


def _store_folders(folder: Path, depth: int) -> Iterator[Path]:
    names = {path.name for path in folder.iterdir()}
    if (
        is_store_name(folder.name)
        or {INDEX, VIDEOS, SUMS} & names
        or any(map(is_shard_name, names))
    ):
        yield folder
    elif depth:
        for name in sorted(names):
            if (folder / name).is_dir():
                yield from _store_folders(folder / name, depth - 1)


def summarise(folder: Path) -> Summary:
    """Summarise one store's folder. Damage is reported in the summary and is no error."""
    for _ in range(_LOOKS):
        before = writers(folder)
        found = _look(folder)
        if not found.state.startswith("damaged") or not (before or writers(folder)):
            return found
        time.sleep(_PAUSE_SECONDS)
    return dataclasses.replace(found, state="an extraction is writing there")


def _look(folder: Path) -> Summary:
    paths = [path for path in folder.iterdir() if not path.is_symlink()]
    size = sum(size_of(path) or 0 for path in paths)
    if INDEX not in {path.name for path in paths}:
        finished = sum(is_shard_name(path.name) for path in paths)
        state = f"unfinished: no {INDEX} yet, {counted(finished, 'finished shard')}"
        return Summary(folder=folder, bytes=size, state=state)
    try:
        with FeatureStore(folder) as store:
            index = store.index
    except StoreError as error:
        return Summary(folder=folder, bytes=size, state=f"damaged: {error}")
    wrong = [s["file"] for s in index["shards"] if size_of(folder / s["file"]) != s["bytes"]]
    left = [f"{index['totals'][s]:,} {s}" for s in ("missing", "failed", "pending")]
    if wrong:
        state = f"damaged: {counted(len(wrong), 'shard', 'is')} absent or of another size {first_of(wrong)}"
    elif index["complete"]:
        state = "complete"
    else:
        state = "incomplete: " + ", ".join(text for text in left if not text.startswith("0 "))
    return Summary(folder=folder, bytes=size, state=state, index=index)
