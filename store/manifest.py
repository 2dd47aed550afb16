"""The manifest of a domain: a CSV with the columns video, label, class, split and frames."""

from __future__ import annotations

import csv
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from store.errors import ManifestError, first_of, printable, shortened
from store.files import replacing
from store.ids import check_id, folders_of_others, unicode_twins
from store.plain_csv import read_table
from store.program import program

COLUMNS = ("video", "label", "class", "split", "frames")
SPLITS = ("train", "eval")
_MAX_DIGITS = 9  # Python refuses to read numbers with thousands of digits


@dataclass(frozen=True, kw_only=True)
class Video:
    """One row of a manifest."""

    id: str
    label: int
    class_name: str
    split: str
    frames: int | None
    """Published number of frames; None if nobody published one."""


def read_manifest(path: Path) -> tuple[Video, ...]:
    """Read and check one domain's CSV.

    Raises:
        ManifestError: the file is absent, or a row breaks a rule (the message names the line).
    """
    if not path.exists():
        raise ManifestError(
            f"There is no manifest {printable(path)}. Run: {program()} manifest list"
        )
    videos = tuple(_parse(row, where) for where, row in read_table(path, COLUMNS))
    _check(videos, path)
    return videos


def classes_of(*manifests: Sequence[Video]) -> tuple[str, ...]:
    """Return the class names in the order of their labels.

    Raises:
        ManifestError: two domains disagree about a label, or the labels are not 0 to N - 1.
    """
    names: dict[int, str] = {}
    for video in (video for manifest in manifests for video in manifest):
        if names.setdefault(video.label, video.class_name) != video.class_name:
            raise ManifestError(
                f"Label {video.label} is {names[video.label]!r} in one domain and "
                f"{video.class_name!r} in the other {first_of([video.id])}."
            )
    if sorted(names) != list(range(len(names))):
        raise ManifestError(f"Labels must be 0 to {len(names) - 1}, got {sorted(names)}.")
    return tuple(names[label] for label in sorted(names))


def write_manifest(path: Path, videos: Iterable[Video]) -> None:
    """Check and write one domain's CSV, all or nothing.

    Raises:
        ManifestError: the rows break a rule.
    """
    write_manifests({path: tuple(videos)})


def write_manifests(tables: Mapping[Path, Sequence[Video]]) -> None:
    """Check and write several domains' CSVs; none takes its final name before all are written.

    Raises:
        ManifestError: the rows break a rule; nothing is written then.
    """
    for path, videos in tables.items():
        _check(videos, path)
    with ExitStack() as stack:
        for path, videos in tables.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(replacing(path))
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                for v in videos:
                    frames = "" if v.frames is None else v.frames
                    writer.writerow([v.id, v.label, v.class_name, v.split, frames])


def _parse(row: Mapping[str, str], where: str) -> Video:
    check_id(row["video"], where)
    if row["split"] not in SPLITS:
        raise ManifestError(f"{where}: split must be train or eval, got {shortened(row['split'])}.")
    if not row["class"] or any(unicodedata.category(c) == "Cc" for c in row["class"]):
        raise ManifestError(
            f"{where}: class must be a name without control characters, got {shortened(row['class'])}."
        )
    return Video(
        id=row["video"],
        label=_number(row["label"], "label", where),
        class_name=row["class"],
        split=row["split"],
        frames=_number(row["frames"], "frames", where) if row["frames"] else None,
    )


def _number(text: str, column: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ManifestError(f"{where}: {column} must be a number, got {shortened(text)}.")
    if len(text) > _MAX_DIGITS:
        raise ManifestError(
            f"{where}: {column} must have at most {_MAX_DIGITS} digits, got {shortened(text)}."
        )
    return int(text)


def _check(videos: Sequence[Video], path: Path) -> None:
    shown = printable(path)
    if not videos:
        raise ManifestError(f"{shown} lists no videos.")
    counts = Counter(video.id for video in videos)
    twice = [video for video, count in counts.items() if count > 1]
    if twice:
        raise ManifestError(f"{shown}: {len(twice)} ids stand there twice {first_of(twice)}.")
    inside = folders_of_others(counts)
    if inside:
        raise ManifestError(
            f"{shown}: {len(inside)} ids are also the folder of another id "
            f"{first_of([f'{one} of {other}' for one, other in inside])}. Rename those videos."
        )
    twins = unicode_twins(counts)
    if twins:
        raise ManifestError(
            f"{shown}: {len(twins)} ids differ from another only by Unicode normalisation "
            f"(first: {twins[0][1]!a}, {twins[0][0]!a}). Rename those videos."
        )
    pairs = {(video.label, video.class_name) for video in videos}
    if not len(pairs) == len({label for label, _ in pairs}) == len({name for _, name in pairs}):
        raise ManifestError(f"{shown}: labels and classes do not correspond one to one.")
