"""Files and folders: all-or-nothing writes, and which video files stand below a folder."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from extract.errors import ManifestError
from extract.images import IMAGE_SUFFIXES, images_in
from extract.locks import temporary

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
    with temporary(path) as partial:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a small UTF-8 file all or nothing; of file names that are not UTF-8, the bytes as they are."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8", "surrogateescape"))


def size_and_sha256_of(source: Path, tick: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Bytes and hex sha256 of a video file, or of a folder's images in order, by name and sha256.

    Args:
        tick: called for every block that was read.
    """
    if not source.is_dir():
        return source.stat().st_size, sha256_of(source, tick)
    images = images_in(source)
    lines = "".join(f"{image.name} {sha256_of(image, tick)}\n" for image in images)
    return sum(image.stat().st_size for image in images), hashlib.sha256(lines.encode()).hexdigest()


def sha256_of(path: Path, tick: Callable[[], None] = lambda: None) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return digest_of(file, tick)


def digest_of(file: BinaryIO, tick: Callable[[], None] = lambda: None) -> str:
    """Hex sha256 of what is left to read of an open file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
        tick()
    return digest.hexdigest()


def find_videos(root: Path, kind: str = "videos") -> list[PurePosixPath]:
    """All videos below `root`, relative, sorted; hidden names are skipped.

    Links to folders are followed (data sets often stand behind one), each real folder once.

    Args:
        kind: `videos`: files by suffix; `frames`: folders that hold images.

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
        if kind == "videos":
            found += [relative / name for name in names if _is(name, VIDEO_SUFFIXES)]
        elif any(_is(name, IMAGE_SUFFIXES) for name in names):
            found.append(relative)
    return sorted(found)


class VideoFolder:
    """Looks up video ids below some folders, whatever the layout the archives were unpacked in.

    An id is a file name without its suffix (a folder's name, for `frames`), or, where that is not
    unique, the end of the relative path (`walk/001`). Names are compared, never globbed and never
    joined to a path.
    """

    def __init__(self, roots: Sequence[Path], kind: str = "videos") -> None:
        self.roots = roots
        self._by_name: dict[str, list[tuple[tuple[str, ...], Path, PurePosixPath]]] = defaultdict(
            list
        )
        for root in roots:
            for path in find_videos(root, kind):
                parts = name_of(path, kind).parts
                if parts:  # the root itself may hold images, but has no name here
                    self._by_name[parts[-1]].append((parts, root, path))

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    def __str__(self) -> str:
        return ", ".join(map(str, self.roots))

    def candidates(self, video: str) -> list[tuple[Path, PurePosixPath]]:
        """All that the id may mean, as (root, path below it): none, one, or several (ambiguous)."""
        wanted = PurePosixPath(video).parts
        matches = [m for m in self._by_name.get(wanted[-1], ()) if m[0][-len(wanted) :] == wanted]
        exact = [m for m in matches if m[0] == wanted]
        chosen = exact if len(wanted) > 1 and exact else matches
        # Folders that overlap show one file twice.
        return list({(root / path).resolve(): (root, path) for _, root, path in chosen}.values())


def name_of(path: PurePosixPath, kind: str = "videos") -> PurePosixPath:
    """A video's path without the suffix of a file."""
    return path.with_suffix("") if kind == "videos" else path


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
