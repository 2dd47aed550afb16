"""What a video file holds, told from its packets: read by PyAV's demuxer, without decoding a frame.

The survey answers two questions before any pixel exists. Does decord read this file exactly, or must
PyAV (`why_not_decord`)? And is the file whole (`cut`, `broken`)? docs/decoding.md has the reasons.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.logging

from extract.containers import bytes_missing
from extract.errors import DecodeError
from extract.packets import PacketRules

# fmt: off
CONTAINERS = (
    "3g2,3gp,aa,amv,apng,asf,av1,avi,bink,dirac,dnxhd,dv,dvdvideo,evc,ffv1,flv,gif,gxf,h261,h263,h264,hevc,"
    "ivf,kux,live_flv,lxf,m4a,m4v,matroska,mj2,mjpeg,mjpeg_2000,mov,mp4,mpeg,mpegts,mpegvideo,mtv,mxf,nsv,"
    "nut,nuv,obu,ogg,rm,roq,smk,svq3,swf,vc1,vc1test,vivo,vvc,webm,wtv,yuv4mpegpipe"
)
# fmt: on
"""FFmpeg's names of what is opened at all. Playlists (HLS, concat, DASH) are not among them: they make
a demuxer open other files and addresses."""
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
_DURATION_IS_DECLARED = ("matroska", "flv", "asf")
_REGULAR = ("mpeg", "mpegts", "asf")
"""Containers in which a gap between packets is the only trace of some damage, and not a usual thing."""
_BROKEN = re.compile(
    r"read error|ebml number|invalid as first byte|exceeds containing|truncating packet|track number|"
    r"packet mismatch|bad header|asf skip|invalid packet_length|resync|packet corrupt|partial file|"
    r"size mismatch|continuity|crc|corrupt",
    re.IGNORECASE,
)
"""How FFmpeg's demuxers say that bytes are not what they should be."""
_MOST_RETRIES = 10_000


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
    with av.logging.Capture() as log, open_container(path) as container:
        video = choose_stream(container)
        found = _headline(container, video)
        # Numbers, not the entries: those are views into memory that reading packets moves.
        listed = [(entry.pos, entry.size) for entry in video.index_entries if entry.size]
        _read_packets(container, video, found, tick)
    errors = [line[2].strip() for line in log if says_damage(line)]
    found.broken = found.broken or (errors[0] if errors else "")
    found.cut = _cut(path, found, len(listed), max((at + size for at, size in listed), default=0))
    found.listed = len(listed)
    if found.packets < found.listed:
        header = 8 if found.container == "avi" else 0
        places = [at + header for at, _ in listed]
        found.follows = dict(itertools.pairwise(places))
    if not found.packets:
        raise DecodeError(f"its {found.codec} stream has no packets{_because(found)}")
    found.why_not_decord = _why_not_decord(path, found)
    return found


def open_container(path: Path) -> Any:
    """The file opened by PyAV, as a plain file of a known format.

    Raises:
        DecodeError: FFmpeg finds no video format in it.
    """
    av.logging.set_level(av.logging.WARNING)  # for `Capture`; nothing is printed
    av.logging.set_skip_repeated(False)
    log: list[Any] = []
    try:
        # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
        with av.logging.Capture() as log:
            return av.open(
                str(path.absolute()),
                metadata_errors="ignore",
                options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
            )
    except (av.FFmpegError, ValueError) as error:
        said = [text.strip() for _, _, text in log]
        if any("moov atom not found" in text for text in said) and _is_mp4(path):
            raise DecodeError(
                "cut off: its index (moov), which was to follow the frames, is not there. Get a whole copy"
            ) from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = "; ".join([reason, *said[:1]])
        raise DecodeError(f"not a video that can be read: {reason}. {convert(path)}") from error


def _is_mp4(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8)[4:] in (b"ftyp", b"mdat", b"moov", b"free", b"wide", b"skip")


def choose_stream(container: Any) -> Any:
    """The default video stream, else the first; cover pictures are none.

    Raises:
        DecodeError: there is no video stream.
    """
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        kinds = sorted({s.type for s in container.streams}) or ["nothing"]
        raise DecodeError(f"it has no video stream, only {', '.join(kinds)}")
    default = [s for s in streams if s.disposition & s.disposition.default]
    return (default or streams)[0]


def packets_of(container: Any) -> Iterator[Any]:
    """All packets of all streams, in order. FFmpeg asks for another try where it has to skip bytes."""
    for _ in range(_MOST_RETRIES):
        try:
            yield from container.demux()
            return
        except BlockingIOError:
            continue
    raise DecodeError("reading makes no progress: the file has no packets that can be found")


def says_damage(line: tuple[int, str, str]) -> bool:
    """Whether a line of FFmpeg's log (level, name, text) is about bytes that are not as they should be."""
    return _BROKEN.search(line[2]) is not None


def convert(path: Path) -> str:
    """What a person can do about a file that is not supported."""
    name = path.name
    quoted = "'" + name.replace("'", "'\\''") + "'"
    made = "'" + path.stem.replace("'", "'\\''") + ".converted.mp4'"
    return f"Convert it, for example with: ffmpeg -i {quoted} -c:v libx264 -crf 12 {made}"


def _headline(container: Any, video: Any) -> Survey:
    context = video.codec_context
    if context is None:
        raise DecodeError("its video codec is not known here")
    rate = video.average_rate or video.guessed_rate
    name = container.format.name.split(",")[0]
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
    if listed_end > size:
        return f"cut off: only {found.packets} of the {listed} frames in its index lie in the file"
    if found.packets < listed:
        return f"{found.packets} of the {listed} frames in its index can be found"
    no_index = listed < found.packets
    if found.container == "avi" and no_index and found.packets + 2 < found.claimed_frames:
        return f"cut off: its header says {found.claimed_frames} frames, {found.packets} came"
    frame = 1 / found.fps if found.fps else 0.04
    if found.claimed_seconds - found.end > max(0.25, 2.5 * frame):
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
