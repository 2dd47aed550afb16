"""The middle frames of some videos as small JPEG pictures, by the decoders of `extract`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from extract.decode import FrameOptions
from extract.events import Broken, Frames
from extract.pool import DecoderPool
from extract.videos import VideoFolder

SIDE = 112
"""Of the pictures, in pixels: the centre of the frame."""


def middle_frames(
    videos: Sequence[str], folders: Sequence[Path], kind: str
) -> tuple[Mapping[str, bytes], Mapping[str, str]]:
    """The middle frame of each video as JPEG; of the others, why there is none.

    Args:
        videos: ids.
        kind: `videos`, or `frames` for folders of images.

    Raises:
        ManifestError: a folder cannot be read.
        DecodeError: no decoder starts.
    """
    found = VideoFolder(folders, kind, videos)
    work, reasons = [], {}
    for video in videos:
        candidates = found.candidates(video)
        if len(candidates) == 1:
            root, path = candidates[0]
            work.append((video, root / path))
        else:
            reasons[video] = found.why_missing(video)
    frames: dict[str, bytes] = {}
    options = FrameOptions(resize=SIDE, crop=SIDE, frames_per_video=1, keep_damaged=True)
    if work:
        with DecoderPool(work, options, workers=1) as pool:
            for event in pool:
                if isinstance(event, Frames):
                    frames[event.attempt.video] = _jpeg(event.images[0])
                elif isinstance(event, Broken) and not event.again:
                    frames.pop(event.attempt.video, None)
                    reasons[event.attempt.video] = event.reason
    return frames, reasons


def _jpeg(image: object) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=75)  # type: ignore[arg-type]
    return data.getvalue()
