"""Reading the folder of a domain: class folders, perhaps below folders named like splits, or any folders."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.videos import Survey, left_out_note, name_of, survey
from store.errors import ManifestError, counted, first_of, printable
from store.ids import check_id, text_of

_LEVELS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval"), "eval"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
"""Name of a folder above the classes -> what it holds."""


@dataclass(frozen=True, kw_only=True)
class DomainFolder:
    """The videos of one domain, as its folders arrange them."""

    videos: Mapping[str, Mapping[str, str | None]]
    """Class -> id -> the split that the folders name; None if they name none."""
    real_paths: frozenset[str]
    """Where the videos really lie, behind all links."""
    notes: Sequence[str]
    """Sentences about what was recognised and what was left out."""


@dataclass(frozen=True, kw_only=True)
class FlatFolder:
    """The videos of a domain without labels, whatever its folders are."""

    ids: Sequence[str]
    """Sorted."""
    real_paths: frozenset[str]
    """Where the videos really lie, behind all links."""
    notes: Sequence[str]
    """Sentences about what was left out."""


def read_flat(folder: Path, kind: str = "videos") -> FlatFolder:
    """Read all videos of a folder, however deep; an id is the path below it without the suffix.

    Args:
        kind: `videos` or `frames` (one folder of images per video).

    Raises:
        ManifestError: there is no video, or names that no id can have or that give one id twice.
    """
    found = survey(folder, kind)
    paths, notes = _without_doubles(found)
    if PurePosixPath(".") in paths:
        paths.remove(PurePosixPath("."))
        notes.append(
            "images beside the folders of images are left out, because a video is a folder of images"
        )
    if not paths:
        raise ManifestError(
            f"There is no video below {printable(folder)}{_hint(notes)}. Folders of images are read with "
            "--input frames."
        )
    _check_names(paths, folder, kind, None)
    return FlatFolder(
        ids=sorted(str(name_of(path, kind)) for path in paths),
        real_paths=frozenset(found.videos[path] for path in paths),
        notes=notes,
    )


def read_domain(folder: Path, kind: str = "videos") -> DomainFolder:
    """Read `<class>/.../<video>` or `<split>/<class>/.../<video>`; an id is that path without the suffix.

    Args:
        kind: `videos` or `frames` (one folder of images per video).

    Raises:
        ManifestError: no video in a class folder, or names that no id can have or that give one id twice.
    """
    found = survey(folder, kind)
    paths, notes = _without_doubles(found)
    levels = _split_levels(paths, folder)
    depth = 1 if levels else 0
    stray = [path for path in paths if len(path.parts) < depth + 2]
    if stray:
        notes.append(
            f"{counted(len(stray), 'video', 'is', where='beside the class folders, so of no class,')} "
            "left out "
            f"{first_of(stray)}"
        )
    paths = [path for path in paths if len(path.parts) >= depth + 2]
    if not paths:
        raise ManifestError(
            f"There is no video in a class folder below {printable(folder)}{_hint(notes)}. Videos lie in "
            "<folder>/<class>/; folders of images are read with --input frames."
        )
    if levels:
        paths, more = _by_level(paths, levels)
        notes += more
    _check_names(paths, folder, kind, depth)
    splits = set(levels.values()) if len(set(levels.values())) > 1 else set()
    videos: dict[str, dict[str, str | None]] = defaultdict(dict)
    for path in paths:
        given = levels.get(path.parts[0]) if splits else None
        split = "eval" if given == "val" else given
        videos[text_of(path.parts[depth])][str(name_of(path, kind))] = split
    return DomainFolder(
        videos=dict(videos),
        real_paths=frozenset(found.videos[path] for path in paths),
        notes=notes,
    )


def _without_doubles(found: Survey) -> tuple[list[PurePosixPath], list[str]]:
    """Return the videos without links to others of them, and notes about what was left out."""
    by_place: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path, real in found.videos.items():
        by_place[real].append(path)
    links = []
    for real, paths in by_place.items():
        if len(paths) < 2:
            continue
        if found.linked.issuperset(paths):
            raise ManifestError(
                f"{printable(paths[0])} and {printable(paths[1])} below {printable(found.root)} are links to "
                f"one video ({printable(real)}), so it is not clear which is its name and class. Remove all "
                "but one."
            )
        links += [path for path in paths if path in found.linked]
    notes = []
    if links:
        notes.append(
            f"{counted(len(links), 'video')} left out as a link to another video of the domain "
            f"{first_of(links)}"
        )
    if found.skipped_links:
        skipped = [f"{printable(link)} -> {real}" for link, real in found.skipped_links.items()]
        what = "link leads to a folder" if len(skipped) == 1 else "links lead to folders"
        notes.append(f"{len(skipped)} {what} read already, not followed {first_of(skipped)}")
    if found.left_out:
        notes.append(left_out_note(found.left_out))
    return [path for path in found.videos if path not in set(links)], notes


def _split_levels(paths: Sequence[PurePosixPath], folder: Path) -> dict[str, str]:
    """Return first folder -> `train`, `eval` or `val` if all first folders are named so, else nothing."""
    firsts = sorted({path.parts[0] for path in paths if len(path.parts) > 1})
    levels = {first: _LEVELS[first.lower()] for first in firsts if first.lower() in _LEVELS}
    if not firsts or len(levels) < len(firsts):
        return {}
    if all(len(path.parts) < 3 for path in paths):
        raise ManifestError(
            f"The folders of {printable(folder)} are named like splits ({', '.join(firsts)}), and there are "
            "no class folders in them. Put the videos in <split>/<class>/, or rename the folders if these "
            "are your classes."
        )
    return levels


def _by_level(
    paths: list[PurePosixPath], levels: Mapping[str, str]
) -> tuple[list[PurePosixPath], list[str]]:
    """Return the videos that are used, and notes about the folders that are taken for splits."""
    names = ", ".join(levels)
    kinds = set(levels.values())
    if len(kinds) == 1:
        note = f"{names} above the classes is taken for a split; the videos are split by their ids"
        return paths, [note]
    spare = [p for p in paths if levels[p.parts[0]] == "val"] if "eval" in kinds else []
    notes = [f"{names} above the classes are taken for splits"]
    if spare:
        notes.append(
            f"{counted(len(spare), 'video', 'is', where='for validation')} left out {first_of(spare)}"
        )
    left_out = set(spare)
    return [path for path in paths if path not in left_out], notes


def _check_names(
    paths: Sequence[PurePosixPath], folder: Path, kind: str, depth: int | None
) -> None:
    """Refuse names that no id or class can have; `depth` is that of the class folders, None without any."""
    foreign = [path for path in paths if not _is_utf8(path)]
    if foreign:
        raise ManifestError(
            f"{counted(len(foreign), 'video name', 'is', where=f'below {printable(folder)}')} "
            "not UTF-8, and a manifest is "
            f"{first_of(foreign)}. Rename them, for example with: convmv -r -f latin1 -t utf8 --notest FOLDER"
        )
    names = {path: str(name_of(path, kind)) for path in paths}
    for path, name in names.items():
        check_id(name, str(folder / path))
    counts = Counter(names.values())
    twins = [path for path, name in names.items() if counts[name] > 1]
    if twins:
        group = [path for path in twins if names[path] == names[twins[0]]]
        by_suffix = len({path.with_suffix("") for path in group}) == 1
        what = "the suffix" if by_suffix else "Unicode normalisation"
        raise ManifestError(
            f"{counted(len(twins), 'file', 'differs', where=f'of {printable(folder)}')} from "
            f"another only in {what} "
            f"{first_of(twins)}. Remove or rename one of each."
        )
    if depth is not None:
        _check_classes(paths, folder, depth)


def _check_classes(paths: Sequence[PurePosixPath], folder: Path, depth: int) -> None:
    spelled: dict[str, str] = {}
    for path in paths:
        name = path.parts[depth]
        other = spelled.setdefault(text_of(name), name)
        if other != name:
            raise ManifestError(
                f"Two class folders below {printable(folder)} differ only in Unicode normalisation "
                f"({other!a} and {name!a}). Rename one of them."
            )


def _is_utf8(path: PurePosixPath) -> bool:
    return not any(0xDC80 <= ord(character) <= 0xDCFF for character in text_of(str(path)))


def _hint(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes)})" if notes else ""
