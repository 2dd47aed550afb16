"""Files and folders: all-or-nothing writes, and which video files stand below a folder."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from extract.errors import ManifestError

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4",
    ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv",
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
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file all or nothing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_videos(root: Path) -> list[PurePosixPath]:
    """All video files below `root` by suffix, relative, sorted; hidden names are skipped.

    Links to folders are followed (data sets often stand behind one), each real folder once.

    Raises:
        ManifestError: `root` is not a folder.
    """
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder. Put the videos there or name their folder.")
    found: list[PurePosixPath] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
        found += [
            relative / name
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
        ]
    return sorted(found)


class VideoFolder:
    """Looks up video ids below one folder, whatever the layout the archive was unpacked in.

    An id is a file name without its suffix, or, where that is not unique, the end of the relative path
    without suffix (`walk/001`). Names are compared, never globbed and never joined to a path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for path in find_videos(root):
            self._by_stem[path.stem].append(path)

    def __len__(self) -> int:
        return sum(len(paths) for paths in self._by_stem.values())

    def candidates(self, video: str) -> list[Path]:
        """All files that the id may mean: none, one, or several (an ambiguity for the caller to report)."""
        wanted = PurePosixPath(video).parts
        matches = [
            path
            for path in self._by_stem.get(wanted[-1], ())
            if path.with_suffix("").parts[-len(wanted) :] == wanted
        ]
        exact = [path for path in matches if path.with_suffix("").parts == wanted]
        return [self.root / path for path in (exact if len(wanted) > 1 and exact else matches)]


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no descriptor for a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
