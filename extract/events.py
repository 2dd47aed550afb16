"""What a pool of decoders tells the run: tries at videos, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extract.decode import SourceFacts, VideoFacts
from store.records import VideoRecord


@dataclass(eq=False)
class Attempt:
    """One try at one video."""

    video: str
    path: Path
    number: int = 1
    decoder: str = "auto"
    """See `Video`."""
    facts: VideoFacts | None = None
    decoded_frames: int = 0
    source: SourceFacts | None = None

    def record(self, path: str) -> VideoRecord:
        """The record of a video that was decoded to its end; `path` is what it notes as the source."""
        facts, source = self.facts, self.source
        assert facts is not None and source is not None
        return VideoRecord(
            video=self.video,
            decoded_frames=self.decoded_frames,
            container_frames=facts.container_frames,
            fps=facts.fps,
            width=facts.width,
            height=facts.height,
            seconds=round(self.decoded_frames / facts.fps, 3) if facts.fps > 0 else 0.0,
            source=path,
            source_bytes=source.bytes,
            source_mtime_ns=source.mtime_ns,
            source_sha256=source.sha256,
            decoder=facts.decoder,
            missing_frames=facts.missing_frames,
            status="damaged" if facts.damage else "ok",
            error=facts.damage,
        )


@dataclass(frozen=True)
class Opened:
    """The video is open; `attempt.facts` is set."""

    attempt: Attempt


@dataclass(frozen=True)
class Frames:
    """Frames (F, crop, crop, 3) uint8, in order. The array is only valid until the next event."""

    attempt: Attempt
    images: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """All frames were given; the attempt's counts and source are set."""

    attempt: Attempt


@dataclass(frozen=True)
class Broken:
    """The attempt gave up. What it gave so far must be forgotten; `again`: it will be tried once more."""

    attempt: Attempt
    reason: str
    again: bool


@dataclass(frozen=True)
class Restarted:
    """decord made frames up. What the attempt gave must be forgotten; PyAV reads the video anew."""

    attempt: Attempt


Event = Opened | Frames | Decoded | Broken | Restarted
