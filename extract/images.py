"""The frames of a video that is a folder of images."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from extract.sources import images_in, natural_places
from store.errors import DecodeError

_OF_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_SIXTEEN_AS_I = ("PNG", "PPM")
"""Formats of which PIL reads 16 bits as mode I, from 0 to 65,535."""


class ImageFolder:
    """The frames of one video as images, in natural order.

    Raises:
        DecodeError: no image, images of several series (RGB beside optical flow), two of one number, or
            one that is unreadable or has no range that could be shown.
    """

    decoder = "images"
    fps = 0.0
    damage = ""
    missing_frames = 0

    def __init__(self, folder: Path, tick: Callable[[], None]) -> None:
        self._paths, self._tick = images_in(folder), tick
        if not self._paths:
            raise DecodeError("the folder has no images")
        series = _series(path.name for path in self._paths)
        if len(series) > 1:
            listed = ", ".join(f"{pattern} ({count})" for pattern, count in series.items())
            raise DecodeError(
                f"the folder holds {len(series)} series of images, not one video: {listed}. "
                "Put each into a folder of its own"
            )
        places = natural_places([path.name for path in self._paths])
        for one, other in itertools.pairwise(self._paths):  # which are sorted by their places
            if places[one.name] == places[other.name]:
                raise DecodeError(
                    f"{one.name} and {other.name} have one number, so that a frame is there twice. Remove "
                    "or rename one of them"
                )
        self.count = self.container_frames = len(self._paths)
        self.width, self.height = read_image(self._paths[0]).size

    def images(self) -> Iterator[Image.Image]:
        """Every image, RGB, as a viewer shows it."""
        for path in self._paths:
            yield read_image(path)
            self._tick()


def read_image(path: Path) -> Image.Image:
    """One image as RGB, turned as its EXIF orientation says; 16-bit grey values are scaled to 8 bits.

    Raises:
        DecodeError: unreadable, several pages, or a mode without a known range (32-bit, float).
    """
    try:
        with Image.open(path) as file:
            image: Image.Image = file
            pages = getattr(image, "n_frames", 1)
            if pages > 1:
                raise DecodeError(
                    f"{path.name} has {pages} pages. A frame is one image: split it, or pass an "
                    "animation as a video file"
                )
            if image.mode in _OF_SIXTEEN_BITS or (
                image.mode == "I" and file.format in _SIXTEEN_AS_I
            ):
                grey = np.asarray(image).astype(np.uint32)
                image = Image.fromarray((grey >> 8).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise DecodeError(
                    f"{path.name} has mode {image.mode}, whose range is not known. "
                    "Convert it to 8 or 16 bits"
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except DecodeError:
        raise
    except Exception as error:  # PIL's readers raise anything on a damaged file
        raise DecodeError(
            f"{path.name} is no readable image ({type(error).__name__}: {error})"
        ) from error


def _series(names: Iterable[str]) -> dict[str, int]:
    """Names with `#` for every number -> how many images have them; one entry if all are one series.

    Two kinds of name are two series only where they share a number: `img_#` and `flow_x_#` of the same
    frames are, `intro_1` and `main_2` are not.
    """
    by_pattern: dict[str, set[tuple[int, ...]]] = {}
    for name in names:
        numbers = tuple(map(int, re.findall(r"\d+", os.path.splitext(name)[0])))
        stem, suffix = os.path.splitext(name)
        by_pattern.setdefault(re.sub(r"\d+", "#", stem) + suffix, set()).add(numbers)
    distinct = set().union(*by_pattern.values())
    if len(distinct) == sum(map(len, by_pattern.values())):
        return {"#": len(distinct)}
    return {pattern: len(numbers) for pattern, numbers in sorted(by_pattern.items())}
