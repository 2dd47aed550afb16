"""Video file, or folder of images -> prepared RGB frames; which decoder reads a file is chosen here.

It runs in processes of its own (`extract/worker.py`), one file at a time and one frame at a time, so
memory stays flat however long the video is. Frames are resized and cropped here, by PIL: exactly the
pixels of the plain PIL + torchvision pipeline, and every frame has the same size from here on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from extract.by_decord import DecordReader, Inexact
from extract.by_pyav import PyavReader, is_mirrored
from extract.images import ImageFolder
from extract.sources import images_in, size_and_sha256_of
from extract.survey import Survey, survey
from store.errors import DecodeError, counted

DECODER = "decord where exact, else pyav"
"""The policy, as a store's config names it; what read a video stands in its record."""


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """Which frames are kept and what is done to their pixels. Sizes in pixels, resize >= crop."""

    resize: int
    crop: int
    interpolation: str = "bilinear"
    squash: bool = False
    """Give both sides the length `resize`, whatever the frame's shape, instead of the shorter one."""
    stride: int = 1
    frames_per_video: int = 0
    """Keep this many, evenly spaced; 0: all."""
    keep_damaged: bool = False
    """Give the whole frames of a damaged file instead of refusing it."""

    def kept_of(self, frames: int | None, videos: int) -> int | None:
        """About how many of all frames of some videos are kept; None where their number is not known."""
        if frames is None:
            return None
        if self.frames_per_video:
            return min(frames, self.frames_per_video * videos)
        return frames // self.stride


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What is known of a video file once it is open."""

    decoder: str
    """decord, pyav or images."""
    fps: float
    width: int
    height: int
    container_frames: int
    """What the container claims, 0 where it claims nothing."""
    expected_frames: int
    """How many whole frames will come."""
    kept_frames: int
    """How many of those will be kept."""
    damage: str = ""
    """What is missing or broken, in words; empty where the file is whole."""
    missing_frames: int = 0


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """The file, or the folder's images together, from which frames were decoded."""

    bytes: int
    mtime_ns: int
    sha256: str


class Video:
    """An open video: `facts` first, then `frames`, which must be taken to the end, then `source`.

    Args:
        decoder: "pyav" where decord was tried in vain, else "auto".
        tick: called for every packet, frame and block of bytes read: a sign of life.
        log: see `DecordReader`.

    Raises:
        DecodeError: not a file that can be decoded whole; the message does not repeat the path.
    """

    def __init__(
        self,
        path: Path,
        options: FrameOptions,
        *,
        decoder: str = "auto",
        tick: Callable[[], None] = lambda: None,
        log: int | None = None,
    ) -> None:
        self.path, self.options, self._tick = path, options, tick
        self._before = _stamps(path)
        self._reader = reader = _reader_of(path, decoder, tick, log)
        if reader.damage and not options.keep_damaged:
            raise DecodeError(
                f"{reader.damage}. Get a whole copy, or store its {counted(reader.count, 'whole frame')}: "
                "--keep-damaged"
            )
        self.decoded_frames = 0
        self.kept = kept_frames(reader.count, options)
        self.facts = VideoFacts(
            decoder=reader.decoder,
            fps=reader.fps,
            width=reader.width,
            height=reader.height,
            container_frames=reader.container_frames,
            expected_frames=reader.count,
            kept_frames=len(self.kept),
            damage=reader.damage,
            missing_frames=reader.missing_frames,
        )

    def frames(self) -> Iterator[np.ndarray]:
        """Yield (crop, crop, 3) uint8, the kept frames in order.

        Raises:
            DecodeError: decoding stopped before the last frame.
            Inexact: decord made frames up; those that came must be forgotten.
        """
        wanted = set(self.kept)
        for image in self._reader.images():
            if self.decoded_frames in wanted:
                yield prepare(image, self.options)
            self.decoded_frames += 1
        if self.decoded_frames < self.facts.expected_frames:
            raise DecodeError(
                "decoding stopped after "
                f"{counted(self.decoded_frames, 'frame', of=self.facts.expected_frames)}"
            )

    def source(self) -> SourceFacts:
        """Size, time and hash of what was decoded.

        Raises:
            DecodeError: the file is not the one that was opened any more.
        """
        size, digest = size_and_sha256_of(self.path, self._tick)
        if _stamps(self.path) != self._before:
            raise DecodeError(
                "the file changed while it was read; run again when nothing writes to it any more"
            )
        mtime_ns = max(stamp.st_mtime_ns for stamp in self._before.values())
        return SourceFacts(bytes=size, mtime_ns=mtime_ns, sha256=digest)


def kept_frames(count: int, options: FrameOptions) -> range | list[int]:
    """Which of `count` frames are kept: every `stride`-th, or N segment centres floor((i + 1/2) F / N).

    F=10, N=4:  .x.x..x.x. -> 1, 3, 6, 8;  F <= N: all
    """
    n = options.frames_per_video
    if n and n < count:
        return [(2 * i + 1) * count // (2 * n) for i in range(n)]
    return range(0, count, 1 if n else options.stride)


def prepare(image: Image.Image, options: FrameOptions) -> np.ndarray:
    """RGB image -> (crop, crop, 3) uint8: shorter side (or both, squashed) to `resize`, centre crop.

    The same sizes, offsets and pixels as torchvision's Resize and CenterCrop give for a PIL image.
    """
    short = min(image.size)
    width, height = (
        options.resize if options.squash else int(options.resize * side / short)
        for side in image.size
    )
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[options.interpolation.upper()])
    left, top = (round((side - options.crop) / 2) for side in image.size)
    return np.asarray(image)[top : top + options.crop, left : left + options.crop]


def check_file(path: Path) -> None:
    """Refuse what is not worth opening; both decoders say the same of all of these.

    Raises:
        DecodeError: no file, not a plain file, not readable, or empty.
    """
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise DecodeError("not a plain file")
        if facts.st_size == 0:
            raise DecodeError("the file is empty")
        with path.open("rb"):
            pass
    except OSError as error:
        raise DecodeError(error.strerror or str(error)) from error


def _reader_of(path: Path, decoder: str, tick: Callable[[], None], log: int | None) -> Any:
    if path.is_dir():
        return ImageFolder(path, tick)
    check_file(path)
    found = survey(path, tick)
    if decoder == "auto" and not found.why_not_decord and not _mirrored(path, found):
        try:
            return DecordReader(path, found, tick, log)
        except Inexact:
            tick()
    return PyavReader(path, found, tick)


def _mirrored(path: Path, found: Survey) -> bool:
    """Whether the file asks for what decord does not do: it turns pictures, but mirrors none."""
    return found.container in ("mov", "matroska") and is_mirrored(path)


@dataclass(frozen=True)
class _Stamp:
    """Two equal ones are of a file that nobody wrote to or put another in the place of."""

    device: int
    inode: int
    size: int
    st_mtime_ns: int
    ctime_ns: int


def _stamps(path: Path) -> dict[Path, _Stamp]:
    try:
        files = images_in(path) if path.is_dir() else [path]
        facts = {file: os.stat(file) for file in files}
    except OSError as error:
        raise DecodeError(error.strerror or str(error)) from error
    return {
        file: _Stamp(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        for file, s in facts.items()
    }
