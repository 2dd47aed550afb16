"""Frames by PyAV: what decord cannot read, or not exactly.

How many frames come is only known after decoding, and the store must know before the first row. So the
file is decoded twice: once to count the frames and to find damage, once for the pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
from PIL import Image

from extract.demux import choose_stream, convert, open_container, packets_of, says_damage
from extract.survey import Survey
from store.errors import DecodeError, counted

_PICTURE_IS_BROKEN = re.compile(
    r"error while decoding|concealing|damaged|invalid nal|missing reference|could not find ref|"
    r"reference picture missing|frame num gap|unavailable|error at mb|ac-tex|illegal|truncat|"
    r"slice header|invalid data|bytestream|mb type|out of range",
    re.IGNORECASE,
)
"""How FFmpeg's decoders say that a picture is not what was encoded."""


class PyavReader:
    """The whole frames of a file: those that were decoded without an error, from true references.

    Attributes:
        damage: what is missing or broken, in words; empty where the file is whole.
        missing_frames: how many frames that are, as well as can be told.

    Raises:
        DecodeError: not one whole frame comes out.
    """

    decoder = "pyav"

    def __init__(self, path: Path, survey: Survey, tick: Callable[[], None]) -> None:
        self._path, self._survey, self._tick = path, survey, tick
        self._whole = bytearray()
        self._stopped = ""
        first_broken = None
        self.count = 0
        self.width, self.height = survey.width, survey.height
        for frame, whole in self._decode():
            if whole and not self.count:
                self.width, self.height = _turned_size(frame)
            if not whole and first_broken is None:
                first_broken = len(self._whole)
            self._whole.append(whole)
            self.count += whole
        self.fps, self.container_frames = survey.fps, survey.claimed_frames
        self.damage, self.missing_frames = self._judge(first_broken)
        if not self.count:
            raise DecodeError(
                f"no whole frame could be decoded of {counted(survey.packets, f'{survey.codec} packet')}"
                + (f" ({self.damage})" if self.damage else f". {convert(path)}")
            )

    def images(self) -> Iterator[Image.Image]:
        """Every whole frame in order, turned as the file says, each of its own size.

        Raises:
            DecodeError: the second decoding gave other frames than the first.
        """
        number = 0
        for number, (frame, whole) in enumerate(self._decode(), 1):
            if number > len(self._whole) or whole != self._whole[number - 1]:
                raise DecodeError(f"frame {number} was decoded differently a second time")
            if whole:
                yield _image_of(frame)
        if number != len(self._whole):
            raise DecodeError(
                f"{counted(number, 'frame')} came, {len(self._whole)} when they were counted"
            )

    def _decode(self) -> Iterator[tuple[Any, bool]]:
        """Every frame and whether it is whole. After an error none is, up to the next key frame."""
        with av.logging.Capture() as log, open_container(self._path, log) as container:
            video = choose_stream(container)
            video.codec_context.thread_count = 1
            broken, until = False, -np.inf
            try:
                for packet, damaged in self._read(container, video, log):
                    time, heard = _time_of(packet), len(log)
                    frames, failed = _decoded(packet)
                    said = (text for _, _, text in log[heard:])
                    if failed or damaged or any(map(_PICTURE_IS_BROKEN.search, said)):
                        broken, until = True, max(time, until)
                    for frame in frames:
                        shown = _time_of(frame)
                        if frame.is_corrupt:
                            broken, until = True, max(shown, until)
                        elif frame.key_frame and shown > until:
                            broken = False
                        yield frame, not broken
            except (av.FFmpegError, DecodeError) as error:
                self._stopped = f"reading stops after frame {len(self._whole)} ({error})"

    def _read(self, container: Any, video: Any, log: list[Any]) -> Iterator[tuple[Any, bool]]:
        """The stream's packets, and whether the demuxer met damage just before or just after each.

        A packet whose end was overwritten is noticed only when the next one cannot be found.
        """
        held = flush = None
        damage_before, damage, heard = False, False, len(log)
        for packet in packets_of(container):
            self._tick()
            damage |= packet.is_corrupt or any(map(says_damage, log[heard:]))
            heard = len(log)
            if packet.stream.index != video.index:  # a flushing packet has no index of its own
                continue
            if packet.size == 0:
                flush = packet
                continue
            damage |= self._is_gap(held, packet)
            if held is not None:
                yield held, damage_before or damage
            held, damage_before, damage = packet, damage, False
        if held is not None:
            damage |= self._survey.cut.startswith("cut off")  # wherever the cut went through it
            yield held, damage_before or damage or any(map(says_damage, log[heard:]))
        if flush is not None:
            yield flush, False

    def _is_gap(self, before: Any, after: Any) -> bool:
        """Whether packets between these two are lost, in a file that is known to be damaged."""
        known = self._survey.broken or self._survey.cut
        if not known or not self._survey.fps or before is None:
            return False
        if after.pos is not None and self._survey.follows.get(before.pos, after.pos) != after.pos:
            return True
        if before.dts is None or after.dts is None:
            return False
        step = float((after.dts - before.dts) * after.time_base)
        return step * self._survey.fps > 1.5

    def _judge(self, first_broken: int | None) -> tuple[str, int]:
        survey = self._survey
        broken = survey.broken or self._stopped
        if first_broken is None and not survey.cut and not broken:
            return "", 0
        expected = max(survey.expected_frames, len(self._whole))
        missing = max(1, expected - self.count)
        where = "" if first_broken is None else f", the first broken one is frame {first_broken}"
        reason = survey.cut or (f"damaged: {broken}" if broken else "damaged")
        text = f"{reason}; about {counted(missing, 'frame', 'is', of=expected)} missing or broken{where}"
        return text, missing


def is_mirrored(path: Path) -> bool:
    """Whether a file asks to show its first frame as in a mirror, as some telephones' front cameras do."""
    with av.logging.Capture() as log, open_container(path, log) as container:
        video = choose_stream(container)
        video.codec_context.thread_count = 1
        for packet in packets_of(container):
            for frame in _decoded(packet)[0] if packet.stream.index == video.index else ():
                a, b, c, d = _display_matrix(frame)
                return a * d < b * c
    return False


def _decoded(packet: Any) -> tuple[list[Any], bool]:
    try:
        return packet.decode(), False
    except av.FFmpegError:
        return [], True


def _time_of(thing: Any) -> float:
    """Presentation time in seconds; of things without one it is before everything else."""
    time = thing.pts if thing.pts is not None else thing.dts
    return float(time * thing.time_base) if time is not None and thing.time_base else -np.inf


def _image_of(frame: Any) -> Image.Image:
    pixels = frame.to_ndarray(format="rgb24")
    a, b, c, d = _display_matrix(frame)
    if _lies(frame):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _turned_size(frame: Any) -> tuple[int, int]:
    sides = (frame.width, frame.height)
    return sides[::-1] if _lies(frame) else sides


def _lies(frame: Any) -> bool:
    """Whether width and height are to be exchanged."""
    a, b, c, d = map(abs, _display_matrix(frame))
    return b + c > a + d


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """a, b, c, d: a pixel at (x, y) is to be shown at (a x + c y, b x + d y), but for scale and place."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = struct.unpack("=5i", bytes(matrix)[:20])
    return a, b, c, d
