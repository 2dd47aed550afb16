"""Which classes a user's own benchmark has, and their labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from store.errors import ManifestError, counted, first_of, printable, shortened
from store.ids import nfc
from store.manifest import Video


def common_classes(
    names: Mapping[str, set[str]],
    kept: Mapping[str, Sequence[Video]],
    chosen: Sequence[str] | None = None,
) -> list[str]:
    """Return the class names that all domains with labels have, sorted.

    Args:
        names: domain -> the classes that it has.
        kept: the rows of those domains that are not read again; they must keep their classes.
        chosen: the classes to keep; None for all.

    Raises:
        ManifestError: fewer than two, names that could be confused, or a chosen class that a domain lacks.
    """
    if chosen is not None:
        _refuse_unknown([nfc(name) for name in chosen], names)
        names = {domain: classes & set(map(nfc, chosen)) for domain, classes in names.items()}
    _refuse_near_misses(names)
    common = set.intersection(*names.values())
    for domain, rows in kept.items():
        gone = sorted({str(video.class_name) for video in rows} - common)
        if gone:
            raise ManifestError(
                f"{counted(len(gone), 'class', 'is', where=f'of {domain}')} in its manifest, but "
                "not in all folders that were read "
                f"{first_of(gone)}. Name the folder of {domain} too, so that all domains change together."
            )
    if len(common) < 2:
        listing = "; ".join(f"{d}: {', '.join(sorted(c)) or 'none'}" for d, c in names.items())
        what = f"only {min(common)} in common" if common else "no class in common"
        raise ManifestError(
            f"The domains have {what}, and telling classes apart takes two or more. A class is a folder of "
            f"videos; found {printable(listing)}."
        )
    return sorted(common)


def _refuse_unknown(chosen: Sequence[str], names: Mapping[str, set[str]]) -> None:
    for domain, classes in names.items():
        unknown = [name for name in chosen if name not in classes]
        if unknown:
            near = [c for c in sorted(classes) if _loosely(c) == _loosely(unknown[0])]
            hint = f"; is {shortened(near[0])} meant?" if near else ""
            raise ManifestError(
                f"{counted(len(unknown), 'class', 'is', of=len(chosen), where='of --classes')} "
                f"not in {domain} (first: "
                f"{shortened(unknown[0])}{hint}). It has {printable(', '.join(sorted(classes)))}."
            )


def _refuse_near_misses(names: Mapping[str, set[str]]) -> None:
    spelled: dict[str, tuple[str, str]] = {}
    for domain, classes in names.items():
        for name in sorted(classes):
            other_domain, other = spelled.setdefault(_loosely(name), (domain, name))
            if other != name:
                raise ManifestError(
                    f"The classes {other!r} of {other_domain} and {name!r} of {domain} differ only in case, "
                    "spaces, hyphens or the like. Rename one of the folders: if they are one class, to "
                    "the same name; if not, to another."
                )


def _loosely(name: str) -> str:
    """Return a class name without case, spaces, hyphens and underscores; `1-10` keeps its hyphen."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)", "", plain)


def class_labels(classes: Sequence[str], recorded: Mapping[str, Sequence[Video]]) -> dict[str, int]:
    """Return class -> label, as recorded if the classes are still the same."""
    known = {
        video.class_name: video.label
        for rows in recorded.values()
        for video in rows
        if video.class_name is not None and video.label is not None
    }
    if set(known) == set(classes):
        return known
    return {name: label for label, name in enumerate(classes)}
