"""Frames by decord: the only file that knows it.

Where a packet gives no frame, decord hands out a copy of the last one without a word, and what its FFmpeg
says of damaged pictures goes to descriptor 2. Both are turned into `Inexact` here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from extract.survey import Survey
from store.errors import DecodeError, counted

_NO_COPY = 1e-9
"""Share of made-up frames that is tolerated: below one frame of any video, but not decord's "off"."""
_CODEC_SPEAKS = re.compile(
    r"^\[(h264|hevc|mpeg4|msmpeg4v?\d?|mjpeg|h263|flv1?|vp8|vp9|wmv\d) @|frame properties",
    re.MULTILINE,
)
"""What a decoder says is always of a picture; a demuxer's remarks are judged by the survey."""
_MOST_LOG_BYTES = 1 << 20


class Inexact(DecodeError):
    """decord does not give the true frames of this file; another decoder must read it from its start."""


class DecordReader:
    """The frames of a file whose survey has nothing against decord.

    Args:
        log: a file to which this process's descriptor 2 leads, so that it can be read; None: not heard.

    Raises:
        Inexact: decord cannot open it, or finds another number of frames or another frame size.
    """

    decoder = "decord"
    damage = ""
    missing_frames = 0

    def __init__(
        self, path: Path, survey: Survey, tick: Callable[[], None], log: int | None
    ) -> None:
        import decord

        decord.logging.set_level(decord.logging.WARNING)
        self._tick, self._log = tick, log
        if log is not None:
            os.ftruncate(log, 0)
            os.lseek(log, 0, os.SEEK_SET)
        try:
            self._reader = decord.VideoReader(
                str(path.absolute()), ctx=decord.cpu(0), num_threads=1, fault_tol=_NO_COPY
            )
            self.count = len(self._reader)
        except Exception as error:
            raise Inexact(f"decord cannot open it ({type(error).__name__})") from error
        if self.count != survey.shown:
            raise Inexact(
                f"decord finds {counted(self.count, 'frame')} in {counted(survey.shown, 'packet')}"
            )
        self._first: Any = self._next()
        self.height, self.width, *_ = self._first.shape
        if {self.height, self.width} != {survey.height, survey.width} or self._first.ndim != 3:
            raise Inexact("decord gives another frame size")
        if self._first.shape[2] != 3:
            raise Inexact("decord pads the rows of a picture of this width")
        self.fps, self.container_frames = survey.fps, survey.claimed_frames

    def images(self) -> Iterator[Image.Image]:
        """Every frame in order: decord's own seeking is slower, and less exact on some AVIs.

        Raises:
            Inexact: a frame is made up, or its decoder complained.
        """
        frame, self._first = self._first, None
        for left in reversed(range(self.count)):
            yield Image.fromarray(frame)
            self._tick()
            if left:
                frame = self._next()
        if complaint := self._complaint():
            raise Inexact(f"decord's decoder says: {complaint}")

    def _next(self) -> Any:
        try:
            return self._reader.next().asnumpy()
        except Exception as error:  # StopIteration too: fewer frames than it announced
            raise Inexact(f"decord fails ({type(error).__name__})") from error

    def _complaint(self) -> str:
        """The first line that its decoder wrote, or nothing."""
        if self._log is None:
            return ""
        text = os.pread(self._log, _MOST_LOG_BYTES, 0).decode("utf-8", errors="replace")
        match = _CODEC_SPEAKS.search(text)
        return text[match.start() :].splitlines()[0][:200] if match else ""
