"""The manifest of a domain: a CSV with the columns video, label, class, split, frames and perhaps group."""

from __future__ import annotations

import csv
import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from store.errors import ManifestError, counted, first_of, printable, shortened
from store.files import replacing
from store.ids import check_id, folders_of_others, nfc, unicode_twins
from store.plain_csv import read_table
from store.program import program

COLUMNS = ("video", "label", "class", "split", "frames")
GROUP = "group"
"""A last column, where videos were split by groups."""
SPLITS = ("train", "eval")
BOTH = "both"
"""The split of a target without labels: all its videos train, without labels, and all are predicted. A label
that becomes known is for the accuracy alone, so a label may be blank here and nowhere else."""
_MAX_DIGITS = 9  # Python refuses to read numbers with thousands of digits


@dataclass(frozen=True, kw_only=True)
class Video:
    """One row of a manifest."""

    id: str
    label: int | None
    """None if nobody has said it yet; only where the split is `BOTH`."""
    class_name: str | None
    """None where the label is."""
    split: str
    """`train`, `eval` or `both`."""
    frames: int | None
    """Published number of frames; None if nobody published one."""
    group: str | None = None
    """What stays in one split with this video, e.g. the film that it is cut from; None if nobody said."""

    def is_in(self, split: str) -> bool:
        """Whether it is one of the `train`, or of the `eval`, videos."""
        return self.split in (split, BOTH)


def has_no_labels(videos: Iterable[Video]) -> bool:
    """Whether a domain is one without labels, whose videos all train and are all predicted.

    It stays one when labels of some videos become known, because they are for the accuracy alone.
    """
    return any(video.split == BOTH for video in videos)


def read_manifest(path: Path) -> tuple[Video, ...]:
    """Read and check one domain's CSV.

    Raises:
        ManifestError: the file is absent, or a row breaks a rule (the message names the line).
    """
    if not path.exists():
        raise ManifestError(
            f"There is no manifest {printable(path)}. Run: {program()} manifest list"
        )
    rows = read_table(path, COLUMNS, optional=(GROUP,))
    videos = tuple(_parse(row, where) for where, row in rows)
    _check(videos, path)
    return videos


def classes_of(*manifests: Sequence[Video]) -> tuple[str, ...]:
    """Return the class names in the order of their labels. Videos without a label say nothing.

    Raises:
        ManifestError: two domains disagree about a label or a class, or the labels are not 0 to N - 1.
    """
    names: dict[int, str] = {}
    for video in (video for manifest in manifests for video in manifest):
        if video.label is None or video.class_name is None:
            continue
        if names.setdefault(video.label, video.class_name) != video.class_name:
            raise ManifestError(
                f"Label {video.label} is {names[video.label]!r} in one domain and "
                f"{video.class_name!r} in the other {first_of([video.id])}."
            )
    if sorted(names) != list(range(len(names))):
        from_one = sorted(names) == list(range(1, len(names) + 1))
        begin = "They count from 1: subtract 1 from every label." if from_one else "Number them so."
        raise ManifestError(
            f"The labels of {counted(len(names), 'class')} must be 0 to {len(names) - 1}, got "
            f"{', '.join(map(str, sorted(names)))}. {begin} Or choose among them with --classes."
        )
    labels: dict[str, int] = {}
    for label in sorted(names):
        other = labels.setdefault(nfc(names[label]), label)
        if other != label:
            raise ManifestError(
                f"The class {shortened(names[label])} has the label {other} in one domain and {label} in the "
                "other. Give it one label in both."
            )
    return tuple(names[label] for label in sorted(names))


def chosen_classes(videos: Sequence[Video], names: Sequence[str], domain: str) -> tuple[str, ...]:
    """Return those of a domain's classes that are named, in the order of their labels.

    Raises:
        ManifestError: fewer than two are named, or one that the domain lacks.
    """
    if len(names) < 2:
        raise ManifestError(f"--classes must name two classes or more, got {', '.join(names)}.")
    labels = {video.class_name: video.label for video in videos if video.class_name is not None}
    wanted = {nfc(name) for name in names}
    lacking = sorted(wanted - {nfc(name) for name in labels})
    if lacking:
        raise ManifestError(
            f"{counted(len(lacking), 'class', 'is', of=len(names), where='of --classes')} not in "
            f"{domain} (first: "
            f"{shortened(lacking[0])}). It has {printable(', '.join(sorted(labels)))}."
        )
    return tuple(sorted((c for c in labels if nfc(c) in wanted), key=lambda c: labels[c] or 0))


def with_classes(videos: Iterable[Video], classes: Sequence[str]) -> tuple[Video, ...]:
    """Return the videos of some classes alone, whose labels are 0, 1, ... in the order of `classes`.

    A domain without labels keeps all its videos, because leaving one out would be reading its label. One
    that is known to be of another class is not evaluated.
    """
    labels = {nfc(name): label for label, name in enumerate(classes)}
    kept = []
    for video in videos:
        label = None if video.class_name is None else labels.get(nfc(video.class_name))
        if label is not None:
            kept.append(dataclasses.replace(video, label=label, class_name=classes[label]))
        elif video.split == BOTH:
            kept.append(dataclasses.replace(video, label=None, class_name=None))
    return tuple(kept)


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
                grouped = any(v.group is not None for v in videos)
                writer.writerow([*COLUMNS, *([GROUP] if grouped else [])])
                for v in videos:  # None is written as nothing
                    cells = [v.id, v.label, v.class_name, v.split, v.frames]
                    writer.writerow([*cells, *([v.group] if grouped else [])])


def _parse(row: Mapping[str, str], where: str) -> Video:
    check_id(row["video"], where)
    split, group = row["split"], row.get(GROUP) or None
    if split not in (*SPLITS, BOTH):
        raise ManifestError(
            f"{where}: split must be train or eval, or both in a domain without labels, got "
            f"{shortened(split)}."
        )
    unknown = not row["label"] and not row["class"]
    if unknown and split != BOTH:
        raise ManifestError(
            f"{where}: label and class are blank, which only videos of split both may have. Fill them in."
        )
    for column, may_be_blank in (("class", unknown), (GROUP, True)):
        name = row.get(column, "")
        if not (name or may_be_blank) or any(unicodedata.category(c) == "Cc" for c in name):
            raise ManifestError(
                f"{where}: {column} must be a name without control characters, got {shortened(name)}."
            )
    return Video(
        id=row["video"],
        label=None if unknown else _number(row["label"], "label", where),
        class_name=row["class"] or None,
        split=split,
        frames=_number(row["frames"], "frames", where) if row["frames"] else None,
        group=group,
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
        raise ManifestError(
            f"{shown}: {counted(len(twice), 'id', 'stands')} there twice {first_of(twice)}."
        )
    inside = folders_of_others(counts)
    if inside:
        raise ManifestError(
            f"{shown}: {counted(len(inside), 'id', 'is')} also the folder of another id "
            f"{first_of([f'{one} of {other}' for one, other in inside])}. Rename those videos."
        )
    twins = unicode_twins(counts)
    if twins:
        raise ManifestError(
            f"{shown}: {counted(len(twins), 'id', 'differs')} from another only by Unicode normalisation "
            f"(first: {twins[0][1]!a}, {twins[0][0]!a}). Rename those videos."
        )
    splits = {video.split for video in videos}
    if BOTH in splits and len(splits) > 1:
        other = next(video.id for video in videos if video.split != BOTH)
        raise ManifestError(
            f"{shown}: the split is both for some videos and not for all {first_of([other])}. In a domain "
            "without labels it is both for all."
        )
    pairs = {(video.label, video.class_name) for video in videos if video.label is not None}
    if not len(pairs) == len({label for label, _ in pairs}) == len({name for _, name in pairs}):
        raise ManifestError(f"{shown}: labels and classes do not correspond one to one.")
