"""A video file as FFmpeg's demuxer sees it: opened safely, its stream, its packets, its complaints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.logging

from store.errors import DecodeError

# fmt: off
CONTAINERS = (
    "3g2,3gp,aa,amv,apng,asf,av1,avi,bink,dirac,dnxhd,dv,dvdvideo,evc,ffv1,flv,gif,gxf,h261,h263,h264,hevc,"
    "ivf,kux,live_flv,lxf,m4a,m4v,matroska,mj2,mjpeg,mjpeg_2000,mov,mp4,mpeg,mpegts,mpegvideo,mtv,mxf,nsv,"
    "nut,nuv,obu,ogg,rm,roq,smk,svq3,swf,vc1,vc1test,vivo,vvc,webm,wtv,yuv4mpegpipe"
)
# fmt: on
"""FFmpeg's names of what is opened at all. Playlists (HLS, concat, DASH) are not among them: they make
a demuxer open other files and addresses."""
_BROKEN = re.compile(
    r"read error|ebml number|invalid as first byte|exceeds containing|truncating packet|track number|"
    r"packet mismatch|bad header|asf skip|invalid packet_length|resync|packet corrupt|partial file|"
    r"size mismatch|continuity check|crc|corrupt",
    re.IGNORECASE,
)
"""How FFmpeg's demuxers say that bytes are not what they should be."""
_MOST_RETRIES = 10_000


def open_container(path: Path, log: list[Any]) -> Any:
    """The file opened by PyAV, as a plain file of a known format.

    Args:
        log: the list of an `av.logging.Capture` that is running. FFmpeg reads up to 5 MB while it opens a
            file, and says only then that a small one ends too early.

    Raises:
        DecodeError: FFmpeg finds no video format in it.
    """
    av.logging.set_level(av.logging.WARNING)  # for `Capture`; nothing is printed
    av.logging.set_skip_repeated(False)
    try:
        # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
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
        if any("Format not on whitelist" in text for text in said):
            reason = (
                "what it holds is no format of video, whatever its name says (perhaps an image)"
            )
        elif said:
            reason += f"; {said[0].rstrip('.!')}"
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
        kinds = ", ".join(sorted({s.type for s in container.streams}))
        raise DecodeError(
            f"it has no video stream, only {kinds}"
            if kinds
            else "it has no stream: nothing is in it"
        )
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


def says_end(line: tuple[int, str, str]) -> bool:
    """Whether a line of FFmpeg's log says that the file ends where a packet does not."""
    return "ended prematurely" in line[2]


def convert(path: Path) -> str:
    """What a person can do about a file that is not supported."""
    name = path.name if not path.name.startswith("-") else f"./{path.name}"  # no option of ffmpeg
    quoted = "'" + name.replace("'", "'\\''") + "'"
    made = quoted[: -len(path.suffix) - 1] + ".converted.mp4'"
    return f"Convert it, for example with: ffmpeg -i {quoted} -c:v libx264 -crf 12 {made}"
