"""Finding videos: what lies below a folder, and which file an id means."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.sources import IMAGE_SUFFIXES
from extract.walk import Walk
from store.errors import ManifestError, first_of, printable
from store.ids import nfc, text_of

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".264", ".265", ".266", ".3g2", ".3gp", ".amv", ".asf", ".av1", ".avi", ".divx", ".dv", ".f4v", ".flv",
    ".gif", ".h263", ".h264", ".h265", ".h266", ".hevc", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v",
    ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mkv", ".mod", ".mov", ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg",
    ".mpv", ".mts", ".mxf", ".nsv", ".nut", ".obu", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod",
    ".ts", ".vob", ".vvc", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
))
_USUAL_SUFFIXES = frozenset((
    ".7z", ".aac", ".ass", ".bz2", ".cfg", ".csv", ".flac", ".gz", ".h5", ".html", ".ini", ".json", ".log",
    ".m4a", ".mat", ".md", ".mp3", ".npy", ".npz", ".pdf", ".pkl", ".py", ".rar", ".sh", ".srt", ".tar",
    ".tgz", ".tsv", ".txt", ".vtt", ".wav", ".xml", ".xz", ".yaml", ".yml", ".zip",
))
"""Files that often lie beside videos and are none; nothing is said about them."""
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What lies below a folder; all paths are relative to it."""

    root: Path
    videos: Mapping[PurePosixPath, str]
    """Every video, sorted -> where it really lies, behind all links."""
    linked: frozenset[PurePosixPath]
    """The videos that are themselves links to a file."""
    left_out: Mapping[str, Sequence[PurePosixPath]]
    """Suffix that is not read -> files with it, which may be videos."""
    skipped_links: Mapping[PurePosixPath, str]
    """Links to folders that had been read already -> where those folders really lie."""


def survey(root: Path, kind: str = "videos") -> Survey:
    """Look for videos below a folder, by suffix, without opening any. `Walk` says what it does with links.

    Args:
        kind: `videos`: files by suffix; `frames`: folders that hold images.

    Raises:
        ManifestError: `root` is not a folder, a folder cannot be read, or two links lead to one folder.
    """
    if not root.is_dir():
        raise ManifestError(
            f"{printable(root)} is not a folder. Put the videos there or name their folder."
        )
    read = VIDEO_SUFFIXES if kind == "videos" else IMAGE_SUFFIXES
    unspoken = _USUAL_SUFFIXES | (IMAGE_SUFFIXES if kind == "videos" else frozenset())
    videos: dict[PurePosixPath, str] = {}
    linked = []
    left_out: dict[str, list[PurePosixPath]] = defaultdict(list)
    walk = Walk(root)
    for folder in walk:
        for name, is_link in folder.files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix not in read:
                if suffix not in unspoken:
                    left_out[suffix].append(folder.path / name)
            elif kind == "frames":
                videos[folder.path] = folder.real
            else:
                real = os.path.join(folder.real, name)
                videos[folder.path / name] = os.path.realpath(real) if is_link else real
                if is_link:
                    linked.append(folder.path / name)
    by_count = sorted(left_out, key=lambda suffix: (-len(left_out[suffix]), suffix))
    return Survey(
        root=root,
        videos=dict(sorted(videos.items())),
        linked=frozenset(linked),
        left_out={suffix: sorted(left_out[suffix]) for suffix in by_count},
        skipped_links=walk.skipped_links,
    )


def find_videos(root: Path, kind: str = "videos") -> list[PurePosixPath]:
    """Return all videos below `root`, relative and sorted; see `survey`.

    Raises:
        ManifestError: as `survey`.
    """
    return list(survey(root, kind).videos)


def name_of(path: PurePosixPath, kind: str = "videos") -> PurePosixPath:
    """Return the id that a video's path gives: without the suffix of a file, in UTF-8 and NFC."""
    bare = path.with_suffix("") if kind == "videos" else path
    return PurePosixPath(*map(text_of, bare.parts))


def left_out_note(left_out: Mapping[str, Sequence[PurePosixPath]]) -> str:
    """Say which files are left out for their suffix, with numbers and the first; empty if none are."""
    if not left_out:
        return ""
    count = sum(map(len, left_out.values()))
    suffixes = ", ".join(f"{printable(s) or 'none'} ({len(p):,})" for s, p in left_out.items())
    return (
        f"{_count(count, 'file is', 'files are')} left out for the suffix: {suffixes} "
        f"{first_of(next(iter(left_out.values())))}"
    )


_Index = dict[str, list[tuple[tuple[str, ...], Path, PurePosixPath]]]
"""Last part of a name -> of every video whose name ends so: the whole name, the root, the path below it."""


class VideoFolder:
    """Looks up the ids of videos below some folders, whatever the layout of the folders is.

    An id is a file name without its suffix (a folder's name, for `frames`), or the end of the relative
    path (`walk/001`). Names are compared (both in NFC), never globbed and never joined to a path.

    Args:
        listed: all ids that are looked for. A file whose whole relative path is one of them is meant by
            no other: `old/001` is not also `001`.

    Raises:
        ManifestError: as `survey`.
    """

    def __init__(
        self, roots: Sequence[Path], kind: str = "videos", listed: Iterable[str] = ()
    ) -> None:
        self.roots = roots
        self._listed = {PurePosixPath(nfc(video)).parts for video in listed}
        self.surveys = [survey(root, kind) for root in roots]
        self._by_name: _Index = defaultdict(list)
        self._unread: _Index = defaultdict(list)
        for found in self.surveys:
            for path in found.videos:
                self._add(self._by_name, found.root, path, name_of(path, kind))
            for path in (path for paths in found.left_out.values() for path in paths):
                self._add(self._unread, found.root, path, name_of(path))

    @staticmethod
    def _add(index: _Index, root: Path, path: PurePosixPath, name: PurePosixPath) -> None:
        if name.parts:  # the root itself may hold images, but has no name here
            index[name.name].append((name.parts, root, path))

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    def __str__(self) -> str:
        return ", ".join(map(printable, self.roots))

    @property
    def left_out(self) -> dict[str, list[PurePosixPath]]:
        """Suffix -> files below all folders that may be videos, but have a suffix that is not read."""
        union: dict[str, list[PurePosixPath]] = defaultdict(list)
        for found in self.surveys:
            for suffix, paths in found.left_out.items():
                union[suffix] += paths
        return dict(union)

    def candidates(self, video: str) -> list[tuple[Path, PurePosixPath]]:
        """Return all that the id may mean, as (root, path below it). Several mean that it is unclear."""
        wanted = PurePosixPath(nfc(video)).parts
        matches = [
            m
            for m in self._by_name.get(wanted[-1], ())
            if m[0] == wanted or (m[0][-len(wanted) :] == wanted and m[0] not in self._listed)
        ]
        exact = [m for m in matches if m[0] == wanted]
        chosen = exact if len(wanted) > 1 and exact else matches
        # Folders that overlap show one file twice.
        return list({(root / path).resolve(): (root, path) for _, root, path in chosen}.values())

    def why_missing(self, video: str) -> str:
        """Say why `candidates` is not exactly one file, in a sentence without the id, for failures.csv."""
        candidates = [printable(path) for _, path in self.candidates(video)]
        if candidates:
            more = ", ..." if len(candidates) > 3 else ""
            names = ", ".join(candidates[:3]) + more
            return f"{_count(len(candidates), 'file', 'files')} could be meant: {names}"
        wanted = PurePosixPath(nfc(video)).parts
        for parts, _, path in self._unread.get(wanted[-1], ()):
            if parts[-len(wanted) :] == wanted:
                return (
                    f"there is only {printable(path)}, and files with this suffix are not read; convert it, "
                    f"for example with: ffmpeg -i IN OUT.mp4"
                )
        for found in self.surveys:
            for link, real in found.skipped_links.items():
                parts = tuple(map(text_of, link.parts))
                if wanted[: len(parts)] == parts:
                    return (
                        f"{printable(link)} is a link to {printable(real)}, whose videos have the names "
                        "that they have there"
                    )
        return "no video of that name"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
