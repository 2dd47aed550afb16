"""The list files of this field: one line a video, `DIR NFRAMES LABEL`, and their files of class names.

DIR usually is a path on somebody else's machine; the video's id is its last component, or its last
components where the features lie in folders of classes. Nothing else of DIR is ever used as a path.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from store.errors import ManifestError, printable, shortened
from store.ids import check_id, nfc
from store.label_files import SUFFIXES, labels_in
from store.manifest import SPLITS, Video
from store.plain_csv import text_of

_WORDS = {"train": "train", "training": "train"} | dict.fromkeys(
    ("val", "eval", "test", "validation", "testing"), "eval"
)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of a list file."""

    where: str
    """The file and the line, for messages."""
    names: tuple[str, ...]
    """The components of DIR, the last one last; of a file of arrays, the id alone."""
    frames: int
    """0 where it is not known."""
    label: int


@dataclass(frozen=True, kw_only=True)
class ListFile:
    """A list file and the split that its videos are in."""

    path: Path
    split: str

    @staticmethod
    def parse(text: str) -> ListFile:
        """Parse `FILE`, whose name says train or val, or `train=FILE` or `eval=FILE`.

        Raises:
            ManifestError: the split is not known.
        """
        given, equals, rest = text.partition("=")
        if equals and given in SPLITS:
            return ListFile(path=Path(rest), split=given)
        words = re.split(r"[^a-z]+", Path(text).name.lower())
        splits = {_WORDS[word] for word in words if word in _WORDS}
        if len(splits) != 1:
            raise ManifestError(
                f"The name of {printable(text)} does not say whether its videos are for training or for "
                f"evaluation. Say it: --list train={printable(text)} or --list eval={printable(text)}."
            )
        return ListFile(path=Path(text), split=splits.pop())


def read_list(path: Path, column: str | None = None) -> list[Listed]:
    """Read a list file, or the labels in a .npz file or a pickled frame (`labels_in`).

    Args:
        column: the array or column of the labels; None for the usual one.

    Raises:
        StoreError: as `labels_in`.
        ManifestError: it is absent or no text, or a line has another form, or its last component could
            lead to another folder (the message names the line).
    """
    if path.suffix in SUFFIXES:
        rows = [
            _labelled(video, label, f"{printable(path)}, video {number}")
            for number, (video, label) in enumerate(labels_in(path, column), 1)
        ]
    elif column is not None:
        raise ManifestError(
            f"{printable(path)} is a text of lines, which have one label each. --label is for "
            f"{' and '.join(SUFFIXES)} files: leave it out."
        )
    else:
        rows = _lines_of(path)
    if not rows:
        raise ManifestError(f"{printable(path)} lists no videos.")
    return rows


def _labelled(video: str, label: int, where: str) -> Listed:
    check_id(nfc(video), where)
    return Listed(where=where, names=(nfc(video),), frames=0, label=label)


def _lines_of(path: Path) -> list[Listed]:
    lines = _lines(path)
    return [_parse(line, f"{printable(path)}, line {number}") for number, line in lines]


def _lines(path: Path) -> list[tuple[int, str]]:
    if not path.exists():
        raise ManifestError(f"There is no file {printable(path)}. Check the path.")
    lines = text_of(path).splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _parse(line: str, where: str) -> Listed:
    parts = line.rsplit(maxsplit=2)
    if len(parts) < 3 or not all(re.fullmatch(r"\d{1,9}", p, re.ASCII) for p in parts[1:]):
        raise ManifestError(
            f"{where}: expected a folder, a number of frames and a label with spaces between them, got "
            f"{shortened(line)}."
        )
    names = nfc(parts[0]).replace("\\", "/").rstrip("/").split("/")
    check_id(names[-1], where)
    return Listed(where=where, names=tuple(names), frames=int(parts[1]), label=int(parts[2]))


def read_class_names(path: Path) -> dict[int, str]:
    """Read a file with a number and a class name a line: number -> name. Numbers count from 0 or from 1.

    Raises:
        ManifestError: it is absent, or a line has another form or another number.
    """
    names: dict[int, str] = {}
    first = 0
    for number, line in _lines(path):
        digits, _, name = line.partition(" ")
        if not names and digits == "1":
            first = 1
        if digits != str(len(names) + first) or not name.strip():
            raise ManifestError(
                f"{printable(path)}, line {number}: expected '{len(names) + first} NAME', got "
                f"{shortened(line)}. A line has a label and its class."
            )
        names[len(names) + first] = name.strip()
    return names


def manifest_rows(
    lists: Mapping[ListFile, Sequence[Listed]],
    classes: Mapping[int, str] | None,
    id_of: Callable[[Listed], str],
) -> tuple[Video, ...]:
    """Make the manifest of list files.

    Args:
        classes: number -> name, as `read_class_names` gives them; None names each class by its number.
        id_of: what a line's video is called.

    Raises:
        ManifestError: a video stands there twice, a label has no name, or it is not clear which.
    """
    if classes and 0 not in classes:
        classes = _from_zero(classes, lists)
    seen: dict[str, Listed] = {}
    videos = []
    for file, rows in lists.items():
        for row in rows:
            video = id_of(row)
            other = seen.setdefault(video, row)
            if other is not row:
                raise ManifestError(
                    f"{row.where}: the video {shortened(video)} stands in {other.where} too. A video is "
                    "in one list, once. Remove one of the lines."
                )
            if classes is not None and row.label >= len(classes):
                raise ManifestError(
                    f"{row.where}: the label is {row.label}, and there are {len(classes)} names "
                    "of classes (0 to "
                    f"{len(classes) - 1})."
                )
            name = str(row.label) if classes is None else classes[row.label]
            videos.append(
                Video(
                    id=video,
                    label=row.label,
                    class_name=name,
                    split=file.split,
                    frames=row.frames or None,
                )
            )
    return tuple(videos)


def _from_zero(
    classes: Mapping[int, str], lists: Mapping[ListFile, Sequence[Listed]]
) -> dict[int, str]:
    """Return the names of a file that counts from 1 by labels that count from 0, as TA3N reads them.

    Raises:
        ManifestError: no list has the label 0, so the labels may be the numbers of the file.
    """
    rows = [row for inside in lists.values() for row in inside]
    if all(row.label for row in rows):
        raise ManifestError(
            f"The file of class names counts from 1 and no list has the label 0, so it is not clear whether "
            f"label 1 is {shortened(classes[1])} or the class after it. If it is, put the "
            "line '0 unused' first in that file; else number its lines from 0."
        )
    return {number - 1: name for number, name in classes.items()}


def list_lines(videos: Sequence[Video], frames: Mapping[str, int], prefix: str) -> str:
    """Return the text of a list file: a line for each video that `frames` has.

    Args:
        frames: id -> number of its features.
        prefix: stands before the id, with a slash between them.
    """
    return "".join(
        f"{prefix}/{video.id} {frames[video.id]} {video.label}\n"
        for video in videos
        if video.id in frames and video.label is not None
    )


def lists_of(
    videos: Mapping[str, Sequence[Video]], dataset: str, frames: Mapping[str, int], folder: str
) -> dict[str, str]:
    """Return the list files of benchmarks, as TA3N names them: name -> text.

    Args:
        videos: benchmark -> the rows of the data set's domain.
        frames: id -> number of features, of the videos that are exported.
        folder: where the videos lie below the folder of the lists.
    """
    texts = {}
    ends = dict(zip(SPLITS, ("train", "val")))
    for (benchmark, rows), split in itertools.product(videos.items(), SPLITS):
        chosen = [video for video in rows if video.split == split]
        text = list_lines(chosen, frames, folder)
        if text:
            texts[f"list_{dataset}_{ends[split]}_{benchmark}-feature.txt"] = text
        names = {v.label: v.class_name for v in rows if v.label is not None}
        if names:
            lines = [f"{label} {name}\n" for label, name in sorted(names.items())]
            texts[f"classInd_{benchmark}.txt"] = "".join(lines)
    return texts
