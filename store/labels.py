"""Labels of some videos of a domain without labels, for the accuracy alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from store.errors import ManifestError, counted, printable, shortened
from store.ids import nfc
from store.manifest import Video, has_no_labels
from store.video_lists import Row, elsewhere, match, nearest, read_video_list


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A domain's rows after labels were added."""

    videos: tuple[Video, ...]
    """All of them, in their order."""
    new: int
    """How many had no label before."""
    changed: int
    """How many had another one."""


def add_labels(
    videos: Sequence[Video],
    domain: str,
    path: Path,
    classes: Sequence[str],
    suffixes: Collection[str],
) -> Labelled:
    """Fill in the classes that a CSV with the columns `video` and `class` names.

    Args:
        videos: the rows of a domain without labels.
        classes: the benchmark's classes by label.
        suffixes: the endings of video files in lower case; one of them may follow an id.

    Raises:
        ManifestError: the domain has labels of its own, or the CSV names videos or classes that do not
            exist, or a video twice. Nothing is filled in then.
    """
    if not has_no_labels(videos):
        raise ManifestError(
            f"The videos of {domain} have their labels from its folders, and its training set would not be "
            "what it was. Labels are added only to a domain that was made with --unlabelled."
        )
    rows = read_video_list(path, "class")
    matched = match(rows, [video.id for video in videos], suffixes)
    labels = {nfc(name): label for label, name in enumerate(classes)}
    foreign = [row for row in rows if nfc(row.value) not in labels]
    problems = []
    if matched.unknown:
        what = f"names no video of {domain}"
        first, ids = matched.unknown[0].video, [video.id for video in videos]
        hint = nearest(first, ids) or elsewhere(first, ids, suffixes)
        problems.append(_problem(path, rows, matched.unknown, what, first, hint))
        problems.append(
            "A video is named by its id in the manifest, or by its path below the domain's folder."
        )
    if foreign:
        what, hint = "has a class that the benchmark has not", nearest(foreign[0].value, classes)
        problems.append(_problem(path, rows, foreign, what, foreign[0].value, hint))
        problems.append(f"The classes are {', '.join(map(printable, classes))}.")
    if problems:
        raise ManifestError(" ".join(problems))
    labelled = [_with_label(video, matched.rows.get(video.id), labels, classes) for video in videos]
    pairs = list(zip(videos, labelled))
    return Labelled(
        videos=tuple(labelled),
        new=sum(old.label is None and video.label is not None for old, video in pairs),
        changed=sum(old.label not in (None, video.label) for old, video in pairs),
    )


def _with_label(
    video: Video, row: Row | None, labels: dict[str, int], classes: Sequence[str]
) -> Video:
    if row is None:
        return video
    label = labels[nfc(row.value)]
    return dataclasses.replace(video, label=label, class_name=classes[label])


def _problem(
    path: Path, rows: Sequence[Row], bad: Sequence[Row], what: str, first: str, hint: str
) -> str:
    where = bad[0].where.rpartition(", ")[2]
    return (
        f"{counted(len(bad), 'row', what, of=len(rows), where=f'of {printable(path)}')} "
        f"(first: {shortened(first)} in {where}{hint})."
    )
