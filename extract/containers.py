"""How long a file should be by its own headers, for the containers that say so."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_SEGMENT = bytes.fromhex("18538067")
_EBML = bytes.fromhex("1a45dfa3")
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BOXES = (
    *(b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"emsg", b"prft", b"uuid"),
    *(b"free", b"skip", b"wide", b"meta", b"mfra"),
)
"""What an MP4 consists of; anything else behind these was appended by another program."""
_END_OF_JPEG = b"\xff\xd9"
_SYNC = 0x47
_TRANSPORT_PACKETS = ((188, 0), (192, 4), (204, 0))
"""Bytes of a packet, and how many of them stand before its sync byte: MPEG-TS, M2TS, MPEG-TS with a code."""


def bytes_missing(path: Path) -> int:
    """Bytes by which a file is shorter than its headers say: AVI, MKV, WebM, WMV, or an MP4 of fragments.

    0 where it is whole, where the header leaves the size open (live recordings), or for others.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        claimed = int.from_bytes(head[4:8], "little") + 8
    elif head[:4] == _EBML:
        claimed = _end_of_segment(head)
    elif head[:16] == _ASF_HEADER and (at := head.find(_ASF_FILE_PROPERTIES)) >= 0:
        claimed = int.from_bytes(head[at + 40 : at + 48], "little")
    elif head[4:8] in _BOXES:
        with path.open("rb") as file:
            claimed = _end_of_fragments(file, size)
    else:
        return 0
    return max(0, claimed - size)


def stops_within(path: Path, container: str, picture_bytes: int) -> str:
    """What a file ends within, of the containers that have pictures or packets one after another; else "".

    Decoders fill the rest of such a picture with what was there before, or leave it out, and raise nothing.

    Args:
        container: FFmpeg's name.
        picture_bytes: size of the last packet, where all have one size.
    """
    ends: dict[str, tuple[str, Callable[[mmap.mmap], bool]]] = {
        "gif": ("a picture", _gif_ends),
        "mjpeg": (
            "a picture",
            lambda data: data[-4096:].rstrip(b"\0\r\n").endswith(_END_OF_JPEG),
        ),
        "dv": ("a picture", lambda data: len(data) % picture_bytes == 0),
        "yuv4mpegpipe": ("a picture", lambda data: _y4m_ends(data, picture_bytes)),
        "mpegts": ("a packet of the transport stream", _transport_ends),
        "ogg": ("a page", _ogg_ends),
    }
    if container not in ends:
        return ""
    what, is_whole = ends[container]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return "" if is_whole(data) else what


def _end_of_fragments(file: BinaryIO, size: int) -> int:
    """Where the last fragment of an MP4 ends, which may be behind the file's end; 0 without fragments.

    In a file without fragments the index says more (`extract.survey`).
    """
    at, end = 0, 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # a size of 64 bits follows
            length = int.from_bytes(head[8:16], "big")
        if kind not in _BOXES or length < 8:  # 0: up to the end of the file
            break
        at += length
        if kind == b"moof" or (end and kind == b"mdat"):
            end = at
    return end


def _y4m_ends(data: mmap.mmap, picture_bytes: int) -> bool:
    header = data.find(b"\n") + 1
    return (len(data) - header) % (len(b"FRAME\n") + picture_bytes) == 0


def _transport_ends(data: mmap.mmap) -> bool:
    """Whether a transport stream ends with a whole packet, or where its last packets begin is not known.

    They begin with 0x47 each; in M2TS four bytes of time stand before it.
    """
    known = False
    for length, ahead in _TRANSPORT_PACKETS:
        tail = data[max(0, len(data) - 16 * length) :]
        for first in range(min(length, len(tail) - 8 * length)):
            begins = range(first, len(tail), length)
            if all(tail[at] == _SYNC for at in begins):
                known = True
                if begins[-1] - ahead + length <= len(tail):
                    return True
    return not known


def _ogg_ends(data: mmap.mmap) -> bool:
    """Whether the last page of an Ogg file is whole: its header has the sizes of its parts."""
    at = data.rfind(b"OggS")
    parts = data[at + 26] if at + 26 < len(data) else 0
    sizes = data[at + 27 : at + 27 + parts]
    return at + 26 < len(data) and at + 27 + parts + sum(sizes) <= len(data)


def _gif_ends(data: mmap.mmap) -> bool:
    """Whether the last block of a GIF is whole. The end mark itself may be lacking."""
    at, size = 13 + _colours(data, 10), len(data)
    while at < size and data[at] in (0x21, 0x2C):
        if data[at] == 0x21:  # an extension: its label follows
            at += 2
        else:  # a picture: place and size, colours, a byte of its code
            at += 11 + (_colours(data, at + 9) if at + 9 < size else 0)
        length = 1
        while length:
            if at >= size:
                return False
            length = data[at]
            at += 1 + length
    return at <= size


def _colours(data: mmap.mmap, at: int) -> int:
    """Bytes of the table of colours that the flags at `at` announce."""
    return 3 << (data[at] & 7) + 1 if len(data) > at and data[at] & 0x80 else 0


def _end_of_segment(head: bytes) -> int:
    """Where the first segment ends; 0 if its size is unknown."""
    header, at = _ebml_number(head, 4)
    at = at + header if header is not None else head.find(_SEGMENT)
    if head[at : at + 4] != _SEGMENT:
        return 0
    length, start = _ebml_number(head, at + 4)
    return 0 if length is None else start + length


def _ebml_number(data: bytes, at: int) -> tuple[int | None, int]:
    """A variable-length EBML size at `at` and where it ends; None for "unknown" (all bits set)."""
    if at >= len(data) or data[at] == 0:
        return None, at + 1
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length
