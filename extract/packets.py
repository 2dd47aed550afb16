"""Does a packet of a video stream give exactly one picture, and none of another size?

Only headers are read, the first bytes of a packet or of its units, as the codecs' specifications lay
them out. "Not sure" counts as no: PyAV decodes such a file then, which costs time but no truth.
"""

from __future__ import annotations

from collections.abc import Iterator

_START = b"\0\0\1"
_VOP, _VOL = 0xB6, range(0x20, 0x30)
_NO_PICTURE_BYTES = 16
"""A shorter MPEG-4 packet is a placeholder: "nothing has changed", or a picture that came earlier."""


class PacketRules:
    """Looks at the packets of one stream, in order.

    Args:
        codec: FFmpeg's canonical name.
        extradata: the codec's header from the container.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self._look = {
            "h264": self._h264,
            "hevc": self._hevc,
            "mpeg4": self._mpeg4,
            "vp8": self._vp8,
            "vp9": self._vp9,
        }.get(codec, self._nothing)
        self._prefix = _prefix_bytes(codec, extradata)
        self._headers: dict[int, bytes] = {}
        self._sizes: set[bytes] = set()
        self._first = True

    def why_not_one_frame(self, data: bytes) -> str:
        """Why this packet may not give one frame of the stream's size; empty if it does."""
        reason = self._look(data)
        self._first = False
        return reason

    def _nothing(self, data: bytes) -> str:
        return ""

    def _h264(self, data: bytes) -> str:
        begun = 0
        for unit in self._units(data):
            kind = unit[0] & 0x1F
            if kind in (1, 2, 5):
                if self._first and kind != 5:
                    return "it does not begin with a key frame"
                begun += len(unit) > 1 and unit[1] >= 0x80  # first_mb_in_slice is 0
            elif kind == 7 and self._changed(kind, unit):
                return "the stream's header changes"
        return self._one(begun)

    def _hevc(self, data: bytes) -> str:
        begun = 0
        for unit in self._units(data):
            kind = unit[0] >> 1 & 0x3F
            if kind < 32:
                if self._first and kind not in (19, 20):
                    return "it does not begin with a key frame that stands alone"
                begun += len(unit) > 2 and unit[2] >= 0x80  # first_slice_segment_in_pic_flag
            elif kind == 33 and self._changed(kind, unit):
                return "the stream's header changes"
        return self._one(begun)

    def _mpeg4(self, data: bytes) -> str:
        if len(data) < _NO_PICTURE_BYTES:
            return "a packet holds no picture"
        pictures = 0
        at = data.find(_START)
        while 0 <= at < len(data) - 3:
            kind = data[at + 3]
            if kind == _VOP:
                pictures += 1
            elif kind in _VOL and self._changed(0, data[at : data.find(_START, at + 3)]):
                return "the stream's header changes"
            at = data.find(_START, at + 3)
        return self._one(pictures)

    def _vp8(self, data: bytes) -> str:
        if len(data) < 3 or not data[0] & 0x10:
            return "a packet holds a picture that is not shown"
        if not data[0] & 1:
            return self._same_size(data[6:10])
        return ""

    def _vp9(self, data: bytes) -> str:
        bits = _Bits(data)
        if bits.take(2) != 2:
            return "a packet is no VP9 picture"
        profile = bits.take(1) + 2 * bits.take(1)
        if profile:
            return f"VP9 profile {profile}"
        if bits.take(1):  # show_existing_frame
            return ""
        not_a_key_frame, shown = bits.take(1), bits.take(1)
        if data[-1] & 0xE0 == 0xC0:  # a superframe: hidden pictures and one that is shown
            return ""
        if not shown:
            return "a packet holds a picture that is not shown"
        if not_a_key_frame:
            return ""
        bits.take(1 + 24)  # error_resilient_mode, sync code
        if bits.take(3) != 7:  # not RGB
            bits.take(1)
        return self._same_size(bits.take(32).to_bytes(4, "big"))

    def _one(self, pictures: int) -> str:
        if pictures == 1:
            return ""
        return f"a packet holds {pictures or 'no'} pictures, or is damaged"

    def _changed(self, kind: int, header: bytes) -> bool:
        return self._headers.setdefault(kind, header) != header

    def _same_size(self, size: bytes) -> str:
        self._sizes.add(size)
        return "the frame size changes" if len(self._sizes) > 1 else ""

    def _units(self, data: bytes) -> Iterator[bytes]:
        """The NAL units of a packet, none empty; nothing at all where lengths do not add up."""
        if not self._prefix:
            yield from (unit for unit in data.split(_START)[1:] if unit)
            return
        units, at = [], 0
        while at + self._prefix < len(data):
            length = int.from_bytes(data[at : at + self._prefix], "big")
            at += self._prefix
            if not 0 < length <= len(data) - at:
                return
            units.append(data[at : at + length])
            at += length
        if at == len(data):
            yield from units


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data[:16].ljust(16, b"\0"), "big"), 128

    def take(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)


def _prefix_bytes(codec: str, extradata: bytes) -> int:
    """Bytes of the length in front of every NAL unit (avcC, hvcC), 0 for start codes."""
    at = {"h264": 4, "hevc": 21}.get(codec)
    if at is None or len(extradata) <= at or extradata[0] != 1:
        return 0
    return (extradata[at] & 3) + 1
