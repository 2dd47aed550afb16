"""The files of a video: one video file, or the images of a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path, PurePosixPath

from store.files import sha256_of

# fmt: off
IMAGE_SUFFIXES = frozenset((
    ".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
))
# fmt: on


def size_and_sha256_of(source: Path, tick: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Return the size in bytes and the hex sha256 of a video file or of a folder's images.

    The sha256 of a folder is that of the lines `<name> <sha256>` of its images, in their order.

    Args:
        tick: called after every block that was read.
    """
    if not source.is_dir():
        return source.stat().st_size, sha256_of(source, tick)
    images = images_in(source)
    lines = "".join(f"{image.name} {sha256_of(image, tick)}\n" for image in images)
    return sum(image.stat().st_size for image in images), hashlib.sha256(lines.encode()).hexdigest()


def images_in(folder: Path) -> list[Path]:
    """Return a folder's images in natural order: `frame9.jpg` before `frame10.jpg`, `0.15` before `0.2`."""
    places = natural_places([name for name in os.listdir(folder) if _is_image(name)])
    return [folder / name for name in sorted(places, key=lambda name: (places[name], name))]


def natural_places(names: Sequence[str]) -> dict[str, list[tuple[Decimal, str]]]:
    """Return where each image comes by the numbers in its name; `img_3` and `img_03` have one place."""
    # "1.10" is a time where every name has one number, and two numbers where that is not so.
    times = all(re.fullmatch(r"\D*\d+(\.\d+)?\D*", os.path.splitext(name)[0]) for name in names)
    number = re.compile(r"(\d+(?:\.\d+)?)" if times else r"(\d+)")

    def place(name: str) -> list[tuple[Decimal, str]]:
        parts = number.split(os.path.splitext(name)[0])
        return [(Decimal(p), "") if i % 2 else (Decimal(-1), p) for i, p in enumerate(parts)]

    return {name: place(name) for name in names}


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def source_text(path: PurePosixPath) -> str:
    """Return a relative path as a store records it, in UTF-8: other bytes are written as `\\xff`."""
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if _is_byte(c) else c for c in path.as_posix())


def source_path(text: str) -> PurePosixPath:
    """Return the path that `source_text` recorded."""
    return PurePosixPath(
        re.sub(r"\\x([89a-f][0-9a-f])", lambda m: chr(0xDC00 + int(m[1], 16)), text)
    )


def _is_byte(character: str) -> bool:
    """Return whether Python put this character in the place of a byte that is not UTF-8."""
    return "\udc80" <= character <= "\udcff"
