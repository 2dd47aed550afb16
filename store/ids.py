"""What may be the id of a video, and the name of a benchmark, a domain or a data set."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator

from store.errors import ManifestError, printable, shortened

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_plain_name(name: str) -> bool:
    """Whether a name can be a folder below `features/` and an option without quotes."""
    return _PLAIN_NAME.fullmatch(name) is not None


def check_plain_name(name: str, where: str) -> None:
    """Refuse a name of a benchmark, a domain or a data set that would lead to another folder.

    Raises:
        ManifestError: with `where` in front.
    """
    if not is_plain_name(name):
        raise ManifestError(
            f"{where}: {shortened(name)} is no name. A name is letters, digits, '.', '_' and '-', and begins "
            "with a letter or a digit. Rename it."
        )


def nfc(text: str) -> str:
    """Unicode in the form in which ids are compared: an accented letter is one character.

    macOS stores file names the other way (NFD, a letter and its accent), most other systems as typed.
    """
    return unicodedata.normalize("NFC", text)


def text_of(name: str) -> str:
    """The name of a file as an id spells it: UTF-8 whatever the locale is, and NFC.

    A byte that is not UTF-8 stays a lone surrogate (`surrogateescape`), which no id may hold.
    """
    return nfc(os.fsencode(name).decode("utf-8", "surrogateescape"))


def check_id(video: str, where: str) -> None:
    """An id names an HDF5 dataset and the end of a relative path; it must not lead anywhere else.

    Raises:
        ManifestError: it could; `where` stands in front.
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
            "class/name: no empty part, no '.' or '..', no backslash, no control character."
        )


def folders_of_others(ids: Iterable[str]) -> list[tuple[str, str]]:
    """Ids that are the folder of another id, each with that one: a store cannot hold both."""
    known = set(ids)
    return sorted((parent, v) for v in known for parent in _parents(v) if parent in known)


def unicode_twins(ids: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of ids that differ only by Unicode normalisation: one file name could mean either."""
    spelled: dict[str, str] = {}
    twins = []
    for video in sorted(set(ids)):
        other = spelled.setdefault(nfc(video), video)
        if other != video:
            twins.append((other, video))
    return twins


def _parents(video: str) -> Iterator[str]:
    while "/" in video:
        video = video.rpartition("/")[0]
        yield video
