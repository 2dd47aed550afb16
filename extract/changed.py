"""Which stored videos have another file now than the one they were extracted from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from extract.sources import images_in, size_and_sha256_of
from extract.videos import VideoFolder
from store.records import VideoRecord


def changed_sources(found: VideoFolder, records: Iterable[VideoRecord]) -> list[str]:
    """Ids whose file has another size, or another time of change and then another sha256.

    Videos that are not there now, or could be several files, are not among them.
    """
    changed = []
    for record in records:
        candidates = found.candidates(record.video)
        if len(candidates) == 1 and record.source_sha256:
            root, path = candidates[0]
            if _is_another(root / path, record):
                changed.append(record.video)
    return sorted(changed)


def _is_another(path: Path, record: VideoRecord) -> bool:
    try:
        files = images_in(path) if path.is_dir() else [path]
        facts = [file.stat() for file in files]
        if sum(fact.st_size for fact in facts) != record.source_bytes:
            return True
        if max(fact.st_mtime_ns for fact in facts) == record.source_mtime_ns:
            return False
        return size_and_sha256_of(path)[1] != record.source_sha256
    except OSError:
        return False  # it cannot be read now: nothing is known of its contents
