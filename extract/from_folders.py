"""Making a benchmark from a user's own folders: one per domain, and in it one per class."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from extract.domain_folder import DomainFolder, read_domain
from store.errors import ConfigError, ManifestError, first_of, printable
from store.manifest import SPLITS, Video

_TRIES = 50


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Decides the split of a video by its id alone, so that adding videos never moves others.

    u = (first 8 bytes of sha256("<seed>/<id>")) / 2^64;  eval where u < eval_fraction, else train.
    """

    eval_fraction: float = 0.3
    """About what share of the videos is held out."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.eval_fraction < 1:
            raise ConfigError(f"--eval-fraction must be between 0 and 1, got {self.eval_fraction}.")

    def split_of(self, video: str) -> str:
        """Return `train` or `eval`."""
        digest = hashlib.sha256(f"{self.seed}/{video}".encode()).digest()
        u = int.from_bytes(digest[:8], "big") / 2**64
        return "eval" if u < self.eval_fraction else "train"


DEFAULT_RULE = SplitRule()


@dataclass(frozen=True, kw_only=True)
class OwnBenchmark:
    """What `from_folders` found."""

    videos: Mapping[str, tuple[Video, ...]]
    """Domain -> its rows, by label and id."""
    notes: Mapping[str, Sequence[str]]
    """Domain -> what the user should know about what was recognised or left out, in sentences."""


def from_folders(
    folders: Mapping[str, Path],
    *,
    rule: SplitRule = DEFAULT_RULE,
    kind: str = "videos",
    recorded: Mapping[str, Sequence[Video]] | None = None,
) -> OwnBenchmark:
    """Make the rows for a user's own videos, in one folder per class, perhaps below one per split.

    Only classes that every domain has are kept; labels follow the sorted class names. A split that the
    folders name is taken from them, any other is `rule`'s.

    Args:
        folders: domain -> its folder.
        kind: `videos` or `frames` (one folder of images per video).
        recorded: the rows of the benchmark that is updated, by domain: a video keeps its recorded split,
            and a domain that `folders` does not name keeps its rows.

    Raises:
        ManifestError: too few domains, classes or videos, or names that could be confused.
    """
    kept = _kept_domains(folders, recorded)
    _refuse_one_inside_another(folders)
    contents = {domain: read_domain(folder, kind) for domain, folder in folders.items()}
    _refuse_shared_videos(contents)
    names = {domain: set(content.videos) for domain, content in contents.items()}
    names |= {domain: {video.class_name for video in rows} for domain, rows in kept.items()}
    classes = _common_classes(names, kept)
    labels = _labels(classes, kept or recorded or {})
    splits = {d: {v.id: v.split for v in rows} for d, rows in (recorded or {}).items()}

    def rows_by(rule: SplitRule) -> dict[str, tuple[Video, ...]]:
        return {d: _rows(c, labels, rule, splits.get(d, {})) for d, c in contents.items()}

    videos = rows_by(rule)
    if _one_split_only(videos):
        seeds = (dataclasses.replace(rule, seed=seed) for seed in range(_TRIES))
        better = next((other.seed for other in seeds if not _one_split_only(rows_by(other))), None)
        raise _no_split(videos, better)
    notes = {d: [*c.notes, *_notes(names[d], c, videos[d], classes)] for d, c in contents.items()}
    return OwnBenchmark(videos=videos | {d: tuple(rows) for d, rows in kept.items()}, notes=notes)


def _kept_domains(
    folders: Mapping[str, Path], recorded: Mapping[str, Sequence[Video]] | None
) -> dict[str, Sequence[Video]]:
    if recorded is None:
        if len(folders) < 2:
            raise ManifestError(f"Adaptation needs two domains or more, got {len(folders)}.")
        return {}
    new = [domain for domain in folders if domain not in recorded]
    if new:
        raise ManifestError(
            f"The benchmark has no domain {new[0]}; it has {', '.join(recorded)}. To add a domain, make the "
            "benchmark again with --overwrite and all domains: a split depends on the id alone, so with the "
            "same --split-seed and --eval-fraction no video moves."
        )
    return {domain: rows for domain, rows in recorded.items() if domain not in folders}


def _refuse_one_inside_another(folders: Mapping[str, Path]) -> None:
    for (one, a), (other, b) in combinations(folders.items(), 2):
        real_a, real_b = a.resolve(), b.resolve()
        if real_a == real_b:
            raise ManifestError(
                f"{one} and {other} are the same folder ({printable(real_a)}). Name the folder of each "
                "domain."
            )
        if real_a in real_b.parents or real_b in real_a.parents:
            outer, inner = (one, other) if real_a in real_b.parents else (other, one)
            raise ManifestError(
                f"The folder of {inner} ({printable(folders[inner])}) lies inside that of {outer} "
                f"({printable(folders[outer])}), so its videos would be in both domains. Move it out."
            )


def _refuse_shared_videos(contents: Mapping[str, DomainFolder]) -> None:
    """Links can put one file into two domains though their folders lie apart."""
    for (one, a), (other, b) in combinations(contents.items(), 2):
        shared = sorted(a.real_paths & b.real_paths)
        if shared:
            raise ManifestError(
                f"{len(shared):,} videos are, through links, in both {one} and {other} {first_of(shared)}. A "
                "video belongs to one domain. Remove the links from one of them."
            )


def _common_classes(
    names: Mapping[str, set[str]], kept: Mapping[str, Sequence[Video]]
) -> list[str]:
    """Return the class names that all domains have, sorted."""
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
    common = set.intersection(*names.values())
    for domain, rows in kept.items():
        gone = sorted({video.class_name for video in rows} - common)
        if gone:
            raise ManifestError(
                f"{len(gone)} classes of {domain} are in its manifest, but not in all folders that were read "
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


def _loosely(name: str) -> str:
    """Return a class name without case, spaces, hyphens and underscores; `1-10` keeps its hyphen."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)", "", plain)


def _labels(classes: Sequence[str], recorded: Mapping[str, Sequence[Video]]) -> dict[str, int]:
    """Return class -> label, as recorded if the classes are still the same."""
    known = {video.class_name: video.label for rows in recorded.values() for video in rows}
    if set(known) == set(classes):
        return known
    return {name: label for label, name in enumerate(classes)}


def _rows(
    content: DomainFolder, labels: Mapping[str, int], rule: SplitRule, recorded: Mapping[str, str]
) -> tuple[Video, ...]:
    return tuple(
        Video(
            id=video,
            label=label,
            class_name=name,
            split=recorded.get(video) or given or rule.split_of(video),
            frames=None,
        )
        for name, label in sorted(labels.items(), key=lambda item: item[1])
        for video, given in sorted(content.videos[name].items())
    )


def _one_split_only(videos: Mapping[str, Sequence[Video]]) -> list[str]:
    return [d for d, rows in videos.items() if {video.split for video in rows} != set(SPLITS)]


def _no_split(videos: Mapping[str, Sequence[Video]], better_seed: int | None) -> ManifestError:
    domain = _one_split_only(videos)[0]
    rows = videos[domain]
    lacking = next(split for split in SPLITS if split != rows[0].split)
    advice = (
        f"Try --split-seed {better_seed}, or another --eval-fraction."
        if better_seed is not None
        else "No --split-seed helps; add videos, or try another --eval-fraction."
    )
    return ManifestError(
        f"Of the {len(rows):,} videos of {domain} none would be {lacking} "
        f"{first_of([f'{rows[0].id} is {rows[0].split}'])}. {advice}"
    )


def _notes(
    found: set[str], content: DomainFolder, rows: Sequence[Video], classes: Sequence[str]
) -> list[str]:
    notes = []
    skipped = [f"{printable(c)} ({len(content.videos[c])})" for c in sorted(found - set(classes))]
    if skipped:
        notes.append(f"left out, because not every domain has them: {', '.join(skipped)}")
    splits: dict[str, set[str]] = defaultdict(set)
    for video in rows:
        splits[video.class_name].add(video.split)
    for split in SPLITS:
        without = [name for name in classes if split not in splits[name]]
        if without:
            have = "has" if len(without) == 1 else "have"
            notes.append(
                f"{len(without)} of {len(classes)} classes {have} no {split} video {first_of(without)}"
            )
    return notes
