"""One video's features in the files of somebody else, and how such files are found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from store.errors import StoreError, printable
from store.ids import nfc, text_of


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the files of one video hold."""

    features_TD: np.ndarray
    """(T, D); T may be 0."""
    bytes: int
    """Bytes of the files."""
    missing: int = 0
    """How many frames are known to be missing or unreadable."""
    why: str = ""
    """What is wrong, if frames are missing."""
    fps: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video in the folder."""

    video: str
    """Its path below the folder without suffix, or its name in a file of several videos."""
    path: str
    """Where it lies below the folder, for records and messages."""
    read: Callable[[], Found]
    place: Path | None = None
    """The file, or the folder of the frames' files, whose time changes with it; None: not known."""

    @property
    def mtime_ns(self) -> int:
        """When it was last changed, in nanoseconds since 1970; 0 where that is not known."""
        try:
            return self.place.stat().st_mtime_ns if self.place is not None else 0
        except OSError:
            return 0


def timed(source: Source) -> tuple[int, Found]:
    """Read a source; return its time before that, and what it holds."""
    return source.mtime_ns, source.read()


@dataclass(frozen=True, kw_only=True)
class ExchangeStep:
    """Where an import or an export stands."""

    videos_done: int
    videos: int
    frames_done: int
    seconds: float


def as_listed(
    sources: Mapping[str, list[Source]], listed: Iterable[str]
) -> dict[str, list[Source]]:
    """Return sources by the ids of a list, which a manifest may spell in another Unicode form than NFC."""
    spelled = {nfc(video): video for video in listed}
    return {spelled.get(video, video): found for video, found in sources.items()}


def paths_in(root: Path, suffix: str) -> Iterator[Path]:
    """Yield the files of one suffix in a folder, at any depth; of a file, that file itself."""
    if root.is_file():
        if root.name.endswith(suffix):
            yield root
        return
    for folder, _, names in folders_in(root):
        for name in names:
            if name.endswith(suffix):
                yield folder / name


def folders_in(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield every folder with the names of folders and of files in it, sorted and without hidden ones.

    Links to folders are followed, unless they lead to a folder above them.

    Raises:
        StoreError: a folder is not there or cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise StoreError(f"{printable(error.filename)} cannot be listed ({error.strerror}).")

    # Of each folder, the real paths of itself and of those that it was reached through.
    above: dict[str, tuple[str, ...]] = {}
    for folder, inner, names in os.walk(root, onerror=refuse, followlinks=True):
        real, way = os.path.realpath(folder), above.get(os.path.dirname(folder), ())
        if real in way:  # a link to a folder above would never end
            inner.clear()
            continue
        above[folder] = (*way, real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield Path(folder), inner, sorted(n for n in names if not n.startswith("."))


def below(root: Path, path: Path) -> str:
    """Return a path as an id spells it, below `root`."""
    if path == root:
        return text_of(path.name)
    return text_of(str(path.relative_to(root)).replace(os.sep, "/"))
