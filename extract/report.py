"""What a run tells: where it stands while it works, and what it leaves at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from store.records import VideoRecord


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the run stands. The last three say what the time went to, in seconds."""

    videos_done: int
    videos: int
    frames_done: int
    frames: int | None
    """Frames in all, None where nobody published the counts."""
    seconds: float
    decoders: float
    backbone: float
    store: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run leaves. `records` holds every listed video, as the index does."""

    folder: Path
    index: dict[str, Any]
    records: dict[str, VideoRecord]
    new_videos: int
    """Stored in this run."""
    new_failures: int
    new_frames: int
    seconds: float
    weights: str
    stopped: bool
    changed: Sequence[str] = ()
    """Stored videos that have another file now and were not to be extracted again."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Stored videos that could not be extracted again -> why; their features are still the old ones."""


def unlike_published(
    videos: Mapping[str, int | None], records: Sequence[VideoRecord]
) -> list[VideoRecord]:
    """Whole stored videos whose decoded frame count is not the published one."""
    return [
        record
        for record in records
        if record.status == "ok" and videos.get(record.video) not in (None, record.decoded_frames)
    ]


def now() -> str:
    """The time in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
