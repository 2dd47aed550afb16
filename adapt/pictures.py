"""Figures of matplotlib as files and as parts of an HTML page. matplotlib is loaded by whoever draws.

In a page, what is drawn in `INK` has the colour of the text around it, so that a picture can be read on a
light and on a dark page; the other colours are readable on both. In a file everything stands on white.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import ConfigError, printable
from store.files import explained, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1d2026"
"""The colour of axes and text, which no data may have."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours, which the colour-blind can tell apart, without black and yellow, which do not
stand out from a dark or a white page."""
_DPI = 150
_SMALLEST = 0.75
"""How far a picture shrinks on a narrow page, so that its letters can be read; then it is scrolled."""
_SVG = "{http://www.w3.org/2000/svg}"
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and the browser has its letters
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "legend.labelcolor"), INK),
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
        name: of its files, and the beginning of the ids in its SVG.
        title: what it shows, also for those who cannot see it.
    """

    name: str
    title: str
    figure: Figure


@contextmanager
def drawing() -> Iterator[None]:
    """Draw and save in this project's style; the program's other figures keep theirs.

    Names may have letters that matplotlib's font lacks. In an SVG the browser draws them; in a PNG they
    are boxes, which is no reason to warn.
    """
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def inline_svg(picture: Picture) -> str:
    """Return an SVG element for an HTML page, which loads nothing and takes its ink from the page."""
    root = ET.fromstring(_svg(picture, transparent=True))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.tag == f"{_SVG}style":
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for name, value in list(element.attrib.items()):
            del element.attrib[name]
            element.set(name.rpartition("}")[2], _in_page(value, name, picture.name))
    width = float(root.get("width", "0pt").removesuffix("pt"))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    pixels = width * 4 / 3
    root.set("style", f"width:{pixels:.0f}px;min-width:{_SMALLEST * pixels:.0f}px;max-width:100%")
    root.set("role", "img")
    root.set("aria-label", picture.title)
    return ET.tostring(root, encoding="unicode")


def write_files(pictures: list[Picture], folder: Path) -> None:
    """Write every picture as <name>.png and <name>.svg, dark on white.

    Raises:
        ConfigError: the disk refuses.
    """
    for picture in pictures:
        png = io.BytesIO()
        with drawing():
            picture.figure.savefig(
                png, format="png", dpi=_DPI, facecolor="white", bbox_inches="tight"
            )
        for suffix, data in ((".png", png.getvalue()), (".svg", _svg(picture, transparent=False))):
            path = folder / f"{picture.name}{suffix}"
            remedy = "Make room, or name another folder."
            with explained(path, ConfigError, remedy), replacing(path) as partial:
                partial.write_bytes(data)


def short(name: str, length: int = 24) -> str:
    """A name for a picture: control characters as escapes, and the middle left out where it is long."""
    text = printable(name)
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def _svg(picture: Picture, *, transparent: bool) -> bytes:
    import matplotlib

    data = io.BytesIO()
    salt = {"svg.hashsalt": picture.name}  # equal figures give equal files
    with drawing(), matplotlib.rc_context(salt):  # type: ignore[arg-type]
        picture.figure.savefig(
            data,
            format="svg",
            facecolor="none" if transparent else "white",
            bbox_inches="tight",
            metadata={"Date": None},
        )
    return data.getvalue()


def _in_page(value: str, name: str, prefix: str) -> str:
    """An attribute's value with the page's ink, and with ids that no other picture of the page has."""
    if name == "id":
        return f"{prefix}-{value}"
    if name.endswith("href"):
        return value.replace("#", f"#{prefix}-", 1)
    value = re.sub(r"url\(#", f"url(#{prefix}-", value)
    return value.replace(INK, "currentColor")
