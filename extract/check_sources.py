"""Checks of a store against the videos it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from extract.sources import size_and_sha256_of, source_path
from store.check import Check
from store.contents import Contents, Kind, Problem
from store.errors import StoreError, counted, shortened
from store.format import VIDEOS, read_index, read_records
from store.records import VideoRecord


def nothing_to_compare(folder: Path) -> str:
    """Return why no source video of a store can be checked, as a sentence; empty if one can.

    The `source` of an imported video is a file of features, whose video nobody recorded. Tables that cannot
    be read are left to the other checks.
    """
    try:
        origin = read_index(folder)["config"].get("origin")
        stored = [row for row in read_records(folder / VIDEOS) if row.stored]
    except StoreError:
        return ""
    if not stored or any(row.source_sha256 for row in stored):
        return ""
    imported = f" (they were imported, from {shortened(str(origin))})" if origin else ""
    return (
        "Source videos were not checked: the store does not record which files its "
        f"{counted(len(stored), 'video')} "
        f"were made from{imported}."
    )


def sources_in(roots: Sequence[Path]) -> Check:
    """A check of the source videos, `source` below one of `roots`, by size and sha256."""

    def sources(contents: Contents) -> Iterator[Problem]:
        for row in contents.rows or ():
            found = _source_problem(row, roots) if row.stored else ""
            contents.on_bytes(row.source_bytes)
            if found:
                yield Problem(kind=Kind.SOURCE, where=row.video, found=found)

    return sources


def _source_problem(row: VideoRecord, roots: Sequence[Path]) -> str:
    relative = source_path(row.source)
    if not row.source or not row.source_sha256:
        return "the store does not say which file it was made from"
    if relative.is_absolute() or ".." in relative.parts:
        return f"{row.source} is not below the folder of videos; it was not opened"
    paths = [path for root in roots if (path := root / relative).is_file() or path.is_dir()]
    if not paths:
        return f"there is no {row.source}"
    found = [size_and_sha256_of(path) for path in paths]
    if (row.source_bytes, row.source_sha256) in found:
        return ""
    size, digest = found[0]
    return (
        f"{paths[0]} has {size:,} bytes and sha256 {digest[:8]}..., "
        f"it was extracted with {row.source_bytes:,} and {row.source_sha256[:8]}..."
    )
