"""Rules for the ids of videos and for the names of benchmarks, domains and data sets."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from store.errors import ManifestError, printable, shortened

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, whatever suffix follows: no folder or file there can have one."""


def why_no_name(name: str) -> str:
    """Return why a name cannot be a folder below `features/` and an option without quotes, on any system.

    Returns:
        Sentences with the rule and what to do; empty if the name can be one.
    """
    if _PLAIN_NAME.fullmatch(name) is None:
        return (
            f"{shortened(name)} is no name. A name consists of letters, digits, '.', '_' and '-', "
            "and begins with a letter or a digit. Rename it."
        )
    if _DEVICE.fullmatch(name):
        return (
            f"{shortened(name)} is no name, because Windows keeps it for a device, and nothing made here "
            f"could be copied there. Choose another, e.g. my-{name}."
        )
    return ""


def is_plain_name(name: str) -> bool:
    """Return whether a name is safe as a folder below `features/` and as an option without quotes."""
    return not why_no_name(name)


def check_plain_name(name: str, where: str) -> None:
    """Refuse a benchmark's, a domain's or a data set's name that no folder can have or that leads elsewhere.

    Args:
        where: what has the name, for the message.

    Raises:
        ManifestError: the name is not allowed.
    """
    if reason := why_no_name(name):
        raise ManifestError(f"{where}: {reason}")


def nfc(text: str) -> str:
    """Return a text in the form in which ids are compared: an accented letter is one character.

    macOS stores file names in the other form (NFD: a letter and its accent), most other systems as typed.
    """
    return unicodedata.normalize("NFC", text)


def text_of(name: str) -> str:
    """Return the name of a file as an id spells it: in UTF-8, whatever the locale is, and in NFC.

    A byte that is not UTF-8 stays a lone surrogate (`surrogateescape`), which no id may hold.
    """
    return nfc(os.fsencode(name).decode("utf-8", "surrogateescape"))


def check_id(video: str, where: str) -> None:
    """Refuse an id that could lead elsewhere: it names an HDF5 dataset and the end of a relative path.

    Args:
        where: what has the id, for the message.

    Raises:
        ManifestError: the id is not allowed.
    """
    if any(unicodedata.category(c) == "Cs" for c in video):
        raise ManifestError(
            f"{where}: the name {printable(video)} is not UTF-8, and a manifest is. Rename the file, "
            "for example with: convmv -r -f latin1 -t utf8 --notest FOLDER"
        )
    unsafe = any(c == "\\" or unicodedata.category(c) == "Cc" for c in video)
    if unsafe or any(part in ("", ".", "..") for part in video.split("/")):
        raise ManifestError(
            f"{where}: {shortened(video)} is no video id. An id is a file name without its suffix, or "
            "class/name, without empty parts, '.', '..', backslashes and control characters."
        )


def near_ids(video: object, known: Collection[str]) -> str:
    """Return a sentence with up to three known ids that may be meant by an unknown one, else nothing.

    They have the same last part (`g01_c01` and `archery/g01_c01`), or are spelled nearly alike.
    """
    last = str(video).rsplit("/", 1)[-1]
    near = [one for one in known if one.rsplit("/", 1)[-1] == last]
    near = near or difflib.get_close_matches(str(video), known, n=3)
    return f" Is one of these meant: {', '.join(map(printable, near[:3]))}?" if near else ""


def folders_of_others(ids: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs (id, other id) in which the first is a folder of the other: no store can hold both."""
    known = set(ids)
    return sorted((parent, v) for v in known for parent in _parents(v) if parent in known)


def unicode_twins(ids: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of ids that differ only in Unicode normalisation: a file name could mean either."""
    spelled: dict[str, str] = {}
    twins = []
    for video in sorted(set(ids)):
        other = spelled.setdefault(nfc(video), video)
        if other != video:
            twins.append((other, video))
    return twins


class Clash(NamedTuple):
    """Two ids that no store can hold both, and how many such pairs there are."""

    one: str
    what: str
    """What `one` is to `other`: the rest of a sentence about them."""
    other: str
    pairs: int
    shown: Callable[[str], str]
    """Shows an id so that the two can be told apart."""


def clash_of(ids: Iterable[str]) -> Clash | None:
    """Return the first pair of ids that no store can hold both; None if there is none."""
    known = set(ids)
    for pairs, what, shown in (
        (folders_of_others(known), "is the folder of", printable),
        (unicode_twins(known), "differs only by Unicode normalisation from", ascii),
    ):
        if pairs:
            return Clash(pairs[0][0], what, pairs[0][1], len(pairs), shown)
    return None


def _parents(video: str) -> Iterator[str]:
    while "/" in video:
        video = video.rpartition("/")[0]
        yield video
