"""Which videos an import is to find, and the manifest that its list files make."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from store.datasets import (
    benchmarks,
    dataset_videos,
    fed_by,
    manifest_path,
    manifests_of,
)
from store.errors import ManifestError, counted, first_of, printable
from store.ids import check_id, clash_of
from store.list_files import Listed, ListFile, manifest_rows, read_list
from store.manifest import Video, classes_of, read_manifest, write_manifest
from store.own_benchmarks import refuse_name_clash

log = logging.getLogger(__name__)


def id_of(row: Listed, known: Collection[str]) -> str:
    """Return what a line's video is called: the shortest end of its path that is known, or its last part."""
    for count in range(1, len(row.names) + 1):
        parts = row.names[-count:]
        if any(part in ("", ".", "..") for part in parts):
            break
        if "/".join(parts) in known:
            return "/".join(parts)
    return row.names[-1]


def videos_of_lists(
    lists: Sequence[ListFile],
    classes: Mapping[int, str] | None,
    known: Collection[str],
    column: str | None = None,
) -> tuple[Video, ...]:
    """Return the manifest of list files.

    Args:
        known: the videos that are there.
        column: see `read_list`.

    Raises:
        ManifestError: a list cannot be read, or they name a video twice.
    """
    rows = {file: read_list(file.path, column) for file in lists}
    return manifest_rows(rows, classes, lambda row: id_of(row, known))


def write_own_manifest(
    videos: Sequence[Video], benchmark: str, dataset: str, root: Path
) -> tuple[Path, bool]:
    """Write the manifest of a data set's domain beside those of the benchmark's other domains.

    Returns:
        Its path, and whether it is new; an equal one that stands there is kept.

    Raises:
        ManifestError: another one stands there, or it contradicts another domain or benchmark.
    """
    domain = fed_by(dataset, root)
    path = root / benchmark / f"{domain}.csv"
    known = benchmarks(root)
    tables = {
        other: read_manifest(manifest_path(benchmark, other, root))
        for other in known.get(benchmark, ())
    }
    videos = without_gaps(videos, *tables.values())
    refuse_name_clash(benchmark, {domain: videos}, root)
    if path.exists():
        if read_manifest(path) == tuple(videos):
            return path, False
        raise ManifestError(
            f"{printable(path)} exists and lists other videos, labels or frames than these lists. Remove "
            "it, or give another --benchmark."
        )
    classes_of(videos, *tables.values())
    if any(domain in domains for domains in known.values()):
        counts = dataset_videos(dataset, root)
        unlike = [v.id for v in videos if v.frames and counts.get(v.id) not in (None, v.frames)]
        if unlike:
            raise ManifestError(
                f"{counted(len(unlike), 'video', 'has', of=len(videos))} another number of frames "
                "in a benchmark "
                f"that is there {first_of(unlike)}. Import under another --dataset, e.g. my-{dataset}."
            )
    write_manifest(path, videos)
    return path, True


def without_gaps(videos: Sequence[Video], *others: Sequence[Video]) -> tuple[Video, ...]:
    """Return the rows with labels that count from 0 on, where a list has labels of a larger set of classes.

    The names stay: where nobody named the classes they are the numbers of the lists, and so a class has one
    label in all domains. Labels of other domains are kept, and what is new gets the smallest free ones, in
    the order of the lists' labels. Names that contradict another domain are left for `classes_of` to refuse.

    Args:
        videos: rows of lists.
        others: rows of the same benchmark's domains that are there.
    """
    names = {v.label: v.class_name for v in videos if v.label is not None}
    there = {v.class_name: v.label for rows in others for v in rows if v.label is not None}
    taken = {label: name for name, label in there.items()}
    numbers = [str(name).isdecimal() for name in [*names.values(), *there]]
    unlike = any(taken.get(label, name) != name for label, name in names.items())
    if not all(numbers) and (any(numbers) or unlike):
        return tuple(videos)
    free = (label for label in itertools.count() if label not in taken)
    labels = dict(there)
    for label in sorted(names):
        if names[label] not in labels:
            labels[names[label]] = next(free)
    changed = [label for label in sorted(names) if labels[names[label]] != label]
    if changed:
        log.info(
            f"{counted(len(changed), 'class', 'has', of=len(names))} another label here than in "
            "the lists, because "
            f"labels count from 0 without gaps (first: {names[changed[0]]} has "
            f"{labels[names[changed[0]]]}). Their names stay."
        )
    return tuple(
        v if v.label is None else dataclasses.replace(v, label=labels[v.class_name]) for v in videos
    )


def listed_elsewhere(
    dataset: str, benchmark: str | None, found: Collection[str], root: Path
) -> dict[str, int | None]:
    """Return the videos to import where no list is given: id -> published frames or None.

    These are a benchmark's, or those of all benchmarks that have the data set, or else all that are there.

    Raises:
        ManifestError: the benchmark has no such domain, or a name cannot be an id.
    """
    if benchmark is not None:
        rows = manifests_of(dataset, benchmark, root, remedy=" Or give its lists: --list FILE.")
        return {video.id: video.frames for video in rows[benchmark]}
    domain = fed_by(dataset, root)
    if any(domain in domains for domains in benchmarks(root).values()):
        return dataset_videos(dataset, root)
    for video in found:
        check_id(video, f"The features to import as {dataset}")
    if clash := clash_of(found):
        raise ManifestError(
            f"{counted(clash.pairs, 'video')} cannot be told apart: {clash.shown(clash.one)} {clash.what} "
            f"{clash.shown(clash.other)}. Rename one of them."
        )
    return dict.fromkeys(sorted(found))


def more_than_listed(
    listed: Mapping[str, int | None], counts: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """Return the videos with more features than listed frames: id -> (listed, there)."""
    return {
        video: (frames, counts[video])
        for video, frames in listed.items()
        if frames is not None and counts.get(video, 0) > frames
    }
