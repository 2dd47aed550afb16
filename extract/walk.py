"""Visiting every file below a folder once, whatever links and loops there are."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from store.errors import ManifestError, printable

_SIDE_FOLDERS = frozenset(
    name.casefold()
    for name in (
        *(
            "@eaDir",
            "@Recycle",
            "#recycle",
            "#snapshot",
            "$RECYCLE.BIN",
            "System Volume Information",
        ),
        *("__MACOSX", ".thumbnails", "lost+found"),
    )
)
"""Folders in which network drives and systems keep thumbnails and deleted files."""


@dataclass(frozen=True)
class Folder:
    """A folder that a walk has reached."""

    path: PurePosixPath
    """Its path below the walk's root, with the names of links as they are."""
    real: str
    """Where it really lies, behind all links."""
    files: list[tuple[str, bool]]
    """The names of its files, sorted, and whether each is a link."""


class Walk:
    """Iterate over the folders below `root`; hidden names, side folders and loops are skipped.

    Real folders come first, then links to folders elsewhere (data sets often stand behind one), so a
    link to a folder that was read already takes nothing out of it.

    Raises:
        ManifestError: a folder cannot be read, or two links lead into one folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.skipped_links: dict[PurePosixPath, str] = {}
        """After the walk: links to folders that had been read already -> where those really lie."""
        self._seen: set[str] = set()
        self._links: list[tuple[PurePosixPath, str, str]] = []
        """The links to folders met so far: path, the real folder that the link is in, where it leads."""

    def __iter__(self) -> Iterator[Folder]:
        real_root = os.path.realpath(self.root)
        tops = [(PurePosixPath("."), real_root)]
        while tops:
            for path, real in tops:
                yield from self._below(path, real)
            tops = self._links_to_follow(real_root)

    def _below(self, top: PurePosixPath, real_top: str) -> Iterator[Folder]:
        waiting = [(top, real_top)]
        while waiting:
            path, real = waiting.pop()
            if real in self._seen:
                continue
            self._seen.add(real)
            files = []
            for name, is_folder, is_link in _entries(self.root / path):
                inside = os.path.join(real, name)
                if not is_folder:
                    files.append((name, is_link))
                elif is_link:
                    self._links.append((path / name, real, os.path.realpath(inside)))
                else:
                    waiting.append((path / name, inside))
            yield Folder(path, real, files)

    def _links_to_follow(self, real_root: str) -> list[tuple[PurePosixPath, str]]:
        """Return the links met since the last call that lead to folders not yet read."""
        links, self._links = sorted(self._links), []
        follow = []
        for path, inside, real in links:
            if real in self._seen:
                self.skipped_links[path] = real
            elif not (_within(inside, real) or _within(real_root, real)):  # else a loop
                follow.append((path, real))
        by_place = sorted(follow, key=lambda link: link[1].split(os.sep))
        for (path, real), (other, other_real) in itertools.pairwise(by_place):
            if _within(other_real, real):
                raise ManifestError(
                    f"{printable(path)} and {printable(other)} below {printable(self.root)} are links into "
                    f"one folder ({printable(real)}), so its videos would have two names and two "
                    "classes. Remove one of the links."
                )
        return follow


def _entries(folder: Path) -> list[tuple[str, bool, bool]]:
    """Return per entry its name, whether it is (or leads to) a folder, and whether it is a link; sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry.name, _is_folder(entry), entry.is_symlink())
                for entry in entries
                if not entry.name.startswith(".") and entry.name.casefold() not in _SIDE_FOLDERS
            )
    except OSError as error:
        raise ManifestError(
            f"{printable(error.filename or folder)} cannot be read ({error.strerror}), and its videos would "
            "be missing without a word. Make it readable, or move it away."
        ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _within(path: str, folder: str) -> bool:
    return (path + os.sep).startswith(folder.rstrip(os.sep) + os.sep)
