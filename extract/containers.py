"""How long a file should be by its own header, for the containers that say so."""

from __future__ import annotations

from pathlib import Path

_SEGMENT = bytes.fromhex("18538067")
_EBML = bytes.fromhex("1a45dfa3")
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def bytes_missing(path: Path) -> int:
    """Bytes by which a file is shorter than its header says: RIFF (AVI), EBML (MKV, WebM) or ASF (WMV).

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
    else:
        return 0
    return max(0, claimed - size)


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
