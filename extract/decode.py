"""Video file, or folder of images -> prepared RGB frames. The only file that knows decord.

It runs in processes of its own (`extract/pool.py`), one file at a time and one frame at a time, so
memory stays flat however long the video is. Frames are resized and cropped here, by PIL: exactly the
pixels of the plain PIL + torchvision pipeline, and every frame has the same size from here on.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from extract.errors import DecodeError
from extract.files import images_in


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """Which frames are kept and what is done to their pixels. Sizes in pixels, resize >= crop."""

    resize: int
    crop: int
    interpolation: str = "bilinear"
    stride: int = 1
    frames_per_video: int = 0
    """Keep this many, evenly spaced; 0: all."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What is known of a video file once it is open."""

    fps: float
    width: int
    height: int
    container_frames: int
    """What the container claims, 0 where it claims nothing."""
    expected_frames: int
    """What the decoder found in it."""
    kept_frames: int
    """How many of those will be kept."""


class Video:
    """An open video: `facts` first, then `frames`, which must be taken to the end.

    Raises:
        DecodeError: not a file that can be decoded; the message does not repeat the path.
    """

    def __init__(self, path: Path, options: FrameOptions) -> None:
        self.path, self.options = path, options
        source = _Images(path) if path.is_dir() else _File(path)
        self._source = source
        self.decoded_frames = 0
        self.kept = kept_frames(source.count, options)
        self.facts = VideoFacts(
            fps=source.fps,
            width=source.width,
            height=source.height,
            container_frames=source.container_frames,
            expected_frames=source.count,
            kept_frames=len(self.kept),
        )

    def frames(self) -> Iterator[np.ndarray]:
        """Yield (crop, crop, 3) uint8, the kept frames in order.

        Raises:
            DecodeError: decoding stopped before the last frame.
        """
        wanted = set(self.kept)
        for image in self._source.images():
            if self.decoded_frames in wanted:
                yield prepare(image, self.options)
            self.decoded_frames += 1
        if self.decoded_frames < self.facts.expected_frames:
            raise DecodeError(
                f"decoding stopped after {self.decoded_frames} of {self.facts.expected_frames} frames"
            )


def kept_frames(count: int, options: FrameOptions) -> range | list[int]:
    """Which of `count` frames are kept: every `stride`-th, or N segment centres floor((i + 1/2) F / N).

    F=10, N=4:  .x.x..x.x. -> 1, 3, 6, 8;  F <= N: all
    """
    n = options.frames_per_video
    if n and n < count:
        return [(2 * i + 1) * count // (2 * n) for i in range(n)]
    return range(0, count, 1 if n else options.stride)


def prepare(image: Image.Image, options: FrameOptions) -> np.ndarray:
    """RGB image -> (crop, crop, 3) uint8: shorter side to `resize`, centre crop.

    The same sizes, offsets and pixels as torchvision's Resize and CenterCrop give for a PIL image.
    """
    short = min(image.size)
    if short != options.resize:
        width, height = (int(options.resize * side / short) for side in image.size)
        image = image.resize((width, height), Image.Resampling[options.interpolation.upper()])
    left, top = (round((side - options.crop) / 2) for side in image.size)
    return np.asarray(image)[top : top + options.crop, left : left + options.crop]


def check_file(path: Path) -> None:
    """Refuse a file not worth opening: "it did not raise" does not mean that a video is whole.

    Raises:
        DecodeError: no file, not a plain file, empty, or an AVI shorter than its header says.
    """
    try:
        facts = os.stat(path)
    except OSError as error:
        raise DecodeError(error.strerror or str(error)) from error
    if not stat.S_ISREG(facts.st_mode):
        raise DecodeError("not a plain file")
    if facts.st_size == 0:
        raise DecodeError("the file is empty")
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise DecodeError(error.strerror or str(error)) from error
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        # decord opens an AVI cut in half without a word; the header knows how long it should be.
        claimed = int.from_bytes(head[4:8], "little") + 8
        if claimed > facts.st_size:
            raise DecodeError(
                f"cut off: the AVI header says {claimed} bytes, the file has {facts.st_size}"
            )


class _File:
    """A video file, by decord; the container's own claim by PyAV."""

    def __init__(self, path: Path) -> None:
        import decord

        check_file(path)
        decord.logging.set_level(decord.logging.QUIET)
        try:
            self._reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
            self.count = len(self._reader)
            fps = float(self._reader.get_avg_fps())
        except Exception as error:
            raise DecodeError(f"not a video that can be read: {_why(path)}") from error
        if self.count == 0:
            raise DecodeError("no frames")
        self.fps = fps if math.isfinite(fps) else 0.0
        self.container_frames = _claimed_frames(path)
        self._first: Any = self._next()
        if self._first is None:
            raise DecodeError(f"no frame could be decoded of {self.count}")
        self.height, self.width = self._first.shape[:2]

    def images(self) -> Iterator[Image.Image]:
        # One after the other: decord's own seeking is slower, and less exact on some AVIs.
        frame, self._first = self._first, None
        while frame is not None:
            yield Image.fromarray(frame)
            frame = self._next()

    def _next(self) -> np.ndarray | None:
        try:
            return self._reader.next().asnumpy()
        except StopIteration:
            return None
        except Exception as error:
            raise DecodeError(f"decoding failed ({_reason(error)})") from error


class _Images:
    """A folder of images, in natural order."""

    fps = 0.0

    def __init__(self, folder: Path) -> None:
        self._paths = images_in(folder)
        if not self._paths:
            raise DecodeError("the folder has no images")
        self.count = self.container_frames = len(self._paths)
        self.width, self.height = self._open(self._paths[0]).size

    def images(self) -> Iterator[Image.Image]:
        yield from map(self._open, self._paths)

    @staticmethod
    def _open(path: Path) -> Image.Image:
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except Exception as error:
            raise DecodeError(f"{path.name} is no readable image ({_reason(error)})") from error


def _claimed_frames(path: Path) -> int:
    import av

    try:
        with av.open(str(path)) as container:
            return max(0, container.streams.video[0].frames)
    except (av.FFmpegError, IndexError):
        return 0  # what decord can open decides; this is only a second opinion


def _why(path: Path) -> str:
    """Why decord could not open a file, in words that say more than its own."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return "it has no video stream"
            codec = container.streams.video[0].codec_context.name
            return f"decord finds nothing to decode in its {codec} stream"
    except (av.FFmpegError, IndexError) as error:
        return getattr(error, "strerror", None) or type(error).__name__


def _reason(error: Exception) -> str:
    text = re.sub(r"\[[\d:]+\] \S+:\d+: ", "", str(error))  # decord's time and source lines
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
