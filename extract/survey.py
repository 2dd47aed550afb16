"""What a video file holds, told from its packets: read by PyAV's demuxer, without decoding a frame.

The survey answers two questions before any pixel exists. Does decord read this file exactly, or must
PyAV (`why_not_decord`)? And is the file whole (`cut`, `broken`)? docs/decoding.md has the reasons.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.logging

from extract.containers import bytes_missing, stops_within
from extract.demux import choose_stream, open_container, packets_of, says_damage, says_end
from extract.packets import PacketRules
from store.errors import DecodeError, counted

_EXACT = {
    "avi": ("mpeg4", "h264", "msmpeg4v2", "msmpeg4v3", "mjpeg"),
    "mov": ("h264", "hevc", "mpeg4", "h263", "mjpeg"),
    "matroska": ("h264", "hevc", "mpeg4", "vp8", "vp9"),
    "flv": ("h264", "flv1"),
    "asf": ("wmv1", "wmv2", "msmpeg4v3"),
}
"""Containers and codecs in which decord gave PyAV's frames where nothing else spoke against it."""
_EXACT_PIXELS = ("yuv420p", "yuvj420p")
"""Of others decord's conversion to RGB differs (10 bits: by up to 168 of 255 at edges, measured)."""
_DURATION_IS_DECLARED = ("matroska", "flv", "asf", "mxf", "ivf")
_REGULAR = ("mpeg", "mpegts", "asf")
"""Containers in which a gap between packets is the only trace of some damage, and not a usual thing."""


@dataclass(kw_only=True)
class Survey:
    """Facts of one file. Times in seconds, counts in packets of the chosen stream; 0 where unknown."""

    container: str
    codec: str
    stream: int
    fps: float
    width: int
    height: int
    claimed_frames: int
    """What the container says."""
    claimed_seconds: float
    """Length that the header declares, where it does declare one."""
    packets: int = 0
    listed: int = 0
    """Packets in the index of a file that has one."""
    shown: int = 0
    """Packets that are not marked as to be discarded."""
    last_bytes: int = 0
    """Size of the last packet."""
    seconds: float = 0.0
    """End of the last packet."""
    end: float = 0.0
    """End of the last packet of any stream."""
    cut: str = ""
    """Why the file cannot be all that was recorded, in words."""
    broken: str = ""
    """What the demuxer found damaged, in words."""
    why_not_decord: str = ""
    follows: dict[int, int] = field(default_factory=dict)
    """Of a file whose index lists more than can be found: position of a packet -> that of the next."""

    @property
    def expected_frames(self) -> int:
        """How many frames a whole file would have, as well as can be told."""
        of_length = round(max(self.claimed_seconds, self.seconds) * self.fps)
        counted = self.claimed_frames if self.container in ("avi", "matroska", "flv", "asf") else 0
        hidden = self.packets - self.shown
        return max(self.shown, counted, of_length, self.listed - hidden)


def survey(path: Path, tick: Callable[[], None] = lambda: None) -> Survey:
    """Read all packets of a file.

    Args:
        tick: called for every packet, as a sign of life.

    Raises:
        DecodeError: not a video, or no video stream.
    """
    with av.logging.Capture() as log, open_container(path, log) as container:
        opened = len(log)
        video = choose_stream(container)
        found = _headline(container, video)
        # Numbers, not the entries: those are views into memory that reading packets moves.
        listed = [(entry.pos, entry.size) for entry in video.index_entries if entry.size]
        _read_packets(container, video, found, tick)
    # While it opens a file FFmpeg also tries decoders, and jumps into packets to find the last times.
    errors = [line[2].strip() for line in log[opened:] if says_damage(line)]
    found.broken = found.broken or (errors[0] if errors else "")
    found.cut = _cut(path, found, len(listed), max((at + size for at, size in listed), default=0))
    if not (found.cut or found.claimed_seconds) and any(map(says_end, log)):
        found.cut = "cut off: it ends within a packet"
    found.listed = len(listed)
    if found.packets < found.listed:
        header = 8 if found.container == "avi" else 0
        places = [at + header for at, _ in listed]
        found.follows = dict(itertools.pairwise(places))
    if not found.packets:
        raise DecodeError(f"its {found.codec} stream has no packets{_because(found)}")
    found.why_not_decord = _why_not_decord(path, found)
    return found


def _headline(container: Any, video: Any) -> Survey:
    context = video.codec_context
    if context is None:
        raise DecodeError("its video codec is not known here")
    name = container.format.name.split(",")[0]
    rate = video.average_rate or video.guessed_rate
    if name == "dv":  # its average is FFmpeg's unit of time, 60,000 a second
        rate = video.guessed_rate
    declared = container.duration if name in _DURATION_IS_DECLARED else None
    return Survey(
        container=name,
        codec=context.codec.canonical_name,
        stream=video.index,
        fps=float(rate) if rate else 0.0,
        width=context.width,
        height=context.height,
        claimed_frames=max(0, video.frames),
        claimed_seconds=declared / av.time_base if declared and declared > 0 else 0.0,
        why_not_decord=_why_not_these_streams(container, video, name),
    )


def _why_not_these_streams(container: Any, video: Any, name: str) -> str:
    codec = video.codec_context.codec.canonical_name
    if codec not in _EXACT.get(name, ()):
        return f"decord is not known to be exact on {codec} in {name}"
    if video.codec_context.pix_fmt not in _EXACT_PIXELS:
        return f"decord converts {video.codec_context.pix_fmt} otherwise"
    if len(container.streams.video) > 1:
        return "it has several video streams"
    return ""


def _read_packets(container: Any, video: Any, found: Survey, tick: Callable[[], None]) -> None:
    times: list[float] = []
    rules = PacketRules(found.codec, bytes(video.codec_context.extradata or b""))
    try:
        for packet in packets_of(container):
            tick()
            if packet.size == 0:
                continue
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                until = float((time + (packet.duration or 0)) * packet.time_base)
                found.end = max(found.end, until)
            if packet.stream_index != video.index:
                continue
            found.packets += 1
            found.last_bytes = packet.size
            if packet.dts is not None:
                times.append(float(packet.dts * packet.time_base))
            if time is not None:
                found.seconds = max(found.seconds, until)
            if packet.is_corrupt:
                found.broken = found.broken or f"packet {found.packets} is incomplete"
            if packet.is_discard:
                found.why_not_decord = found.why_not_decord or "an edit list hides some frames"
            else:
                found.shown += 1
            if not found.why_not_decord:
                found.why_not_decord = rules.why_not_one_frame(bytes(packet))
    except (av.FFmpegError, DecodeError) as error:
        found.broken = f"reading stops after packet {found.packets} ({error})"
    if found.container in _REGULAR and (gap := _gap(times)):
        found.broken = found.broken or gap


def _gap(times: list[float]) -> str:
    """Where packets are missing from a stream that is otherwise regular, in words."""
    steps = [after - before for before, after in itertools.pairwise(times)]
    if not steps:
        return ""
    usual = sorted(steps)[len(steps) // 2]
    regular = sum(abs(step - usual) < 0.1 * usual for step in steps)
    widest = max(range(len(steps)), key=steps.__getitem__)
    if regular < 0.9 * len(steps) or steps[widest] < 2.5 * usual:
        return ""
    return f"{steps[widest]:.2f} s are missing after packet {widest + 1}"


def _cut(path: Path, found: Survey, listed: int, listed_end: int) -> str:
    """Why the file is shorter than what was recorded, or nothing."""
    size = path.stat().st_size
    if missing := bytes_missing(path):
        # Some writers declare too much: what counts is whether frames are missing.
        all_there = found.container == "avi" and found.packets >= found.claimed_frames > 0
        if not all_there:
            return f"cut off: by its header the file would be {missing:,} bytes longer"
    if what := stops_within(path, found.container, found.last_bytes or size):
        return f"cut off: it ends within {what}"
    if listed_end > size:
        return (
            "cut off: only "
            f"{counted(found.packets, 'frame', 'lies', of=listed, where='of its index')} in the file"
        )
    if found.packets < listed:
        return f"{counted(found.packets, 'frame', of=listed)} of its index can be found"
    no_index = listed < found.packets
    if found.container == "avi" and no_index and found.packets + 2 < found.claimed_frames:
        return f"cut off: its header says {counted(found.claimed_frames, 'frame')}, {found.packets} came"
    frame = 1 / found.fps if found.fps else 0.04
    # IVF's one number is of frames or of seconds: both must be lacking.
    all_there = found.container == "ivf" and found.packets >= found.claimed_frames
    if found.claimed_seconds - found.end > max(0.25, 2.5 * frame) and not all_there:
        return (
            f"cut off: its header says {found.claimed_seconds:.2f} s, "
            f"the last packet ends at {found.end:.2f} s"
        )
    return ""


def _why_not_decord(path: Path, found: Survey) -> str:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return "decord takes no path that is not UTF-8"
    if found.cut or found.broken:
        return "the file is damaged"
    return found.why_not_decord


def _because(found: Survey) -> str:
    return f" ({found.cut or found.broken})" if found.cut or found.broken else ""
