"""Deciding by a hash which videos of a user's own are held out, alone or in groups that stay together."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from extract.videos import VIDEO_SUFFIXES
from store.errors import ConfigError, ManifestError, counted, first_of, printable, shortened
from store.manifest import SPLITS, Video
from store.video_lists import Row, match, read_video_list


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """Decides the split of a video by its id alone, or by its group's name, so that adding videos never
    moves others.

    u = (first 8 bytes of sha256("<seed>/<id or group>")) / 2^64;  eval where u < eval_fraction, else train.
    """

    eval_fraction: float = 0.3
    """About what share of the videos, or of the groups, is held out."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.eval_fraction < 1:
            raise ConfigError(f"--eval-fraction must be between 0 and 1, got {self.eval_fraction}.")

    def split_of(self, name: str) -> str:
        """Return `train` or `eval` for a video's id or a group's name."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        u = int.from_bytes(digest[:8], "big") / 2**64
        return "eval" if u < self.eval_fraction else "train"


DEFAULT_RULE = SplitRule()


class Grouping(Protocol):
    """Says which videos stay in one split."""

    def groups_of(self, domain: str, ids: Sequence[str]) -> Mapping[str, str]:
        """Return id -> the name of its group.

        Raises:
            ManifestError: a video has none.
        """


def grouping(text: str) -> Grouping:
    """What `--group-by` means: a CSV with the columns video and group, or a regular expression.

    Raises:
        ConfigError: it is no regular expression.
        ManifestError: the CSV is absent or no such CSV.
    """
    if text.lower().endswith(".csv"):
        return GroupTable(Path(text), read_video_list(Path(text), "group"))
    try:
        return GroupPattern(re.compile(text))
    except re.error as error:
        raise ConfigError(
            f"--group-by must be a CSV or a regular expression for the beginning of file names, and "
            f"{shortened(text)} is neither ({error})."
        ) from error


@dataclass(frozen=True)
class GroupPattern:
    """A group is what a regular expression finds at the beginning of the file's name: its part in
    parentheses, if it has one."""

    pattern: re.Pattern[str]

    def groups_of(self, domain: str, ids: Sequence[str]) -> dict[str, str]:
        """See `Grouping`."""
        found = {video: self._group(video.rpartition("/")[2]) for video in ids}
        without = [video for video, group in found.items() if not group]
        if without:
            raise ManifestError(
                f"--group-by {shortened(self.pattern.pattern)} finds no group in "
                f"{counted(len(without), 'name', of=len(ids))} of {domain} {first_of(without)}. A "
                "group is what it finds at the "
                "beginning of the file's name, or its part in parentheses."
            )
        return found

    def _group(self, name: str) -> str:
        found = self.pattern.match(name)
        return (found.group(min(1, self.pattern.groups)) or "") if found else ""


@dataclass(frozen=True)
class GroupTable:
    """Groups as a CSV lists them."""

    path: Path
    rows: Sequence[Row]

    def groups_of(self, domain: str, ids: Sequence[str]) -> dict[str, str]:
        """See `Grouping`. The CSV may list videos of other domains too."""
        bad = [r for r in self.rows if not r.value or any(map(_is_control, r.value))]
        if bad:
            raise ManifestError(
                f"{counted(len(bad), 'row', 'has', where=f'of {printable(self.path)}')} no group, "
                "or one with control characters "
                f"(first: {bad[0].where}). Give every video of it a group."
            )
        found = match(self.rows, ids, VIDEO_SUFFIXES).rows
        without = [video for video in ids if video not in found]
        if without:
            raise ManifestError(
                f"{printable(self.path)} has no group for {counted(len(without), 'video', of=len(ids))} of "
                f"{domain} {first_of(without)}. A video is named by its id, the path below the domain's "
                "folder; give one that is alone a group of its own."
            )
        return {video: found[video].value for video in ids}


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def refuse_torn_groups(domain: str, rows: Iterable[Video]) -> None:
    """Make sure that no group is in both splits, which folders or a recorded manifest could have done.

    Raises:
        ManifestError: one is.
    """
    members: dict[str, dict[str, str]] = defaultdict(dict)
    for video in rows:
        if video.group is not None:
            members[video.group].setdefault(video.split, video.id)
    torn = [(group, ids) for group, ids in members.items() if len(ids) > 1]
    if torn:
        group, ids = torn[0]
        raise ManifestError(
            f"{counted(len(torn), 'group', 'is', of=len(members), where=f'of {domain}')} in both "
            "splits (first: "
            f"{shortened(group)}, {printable(ids['train'])} is train and {printable(ids['eval'])} is eval). "
            "Splits that were recorded before are forgotten with --overwrite; where folders are named like "
            "splits, move the videos of a group into one of them."
        )


def groups_note(rows: Sequence[Video], rule: SplitRule) -> list[str]:
    """Say how many groups and videos came into each split, if the videos have groups."""
    sizes = Counter(video.group for video in rows if video.group is not None)
    if not sizes:
        return []
    groups = {split: {v.group for v in rows if v.split == split} for split in SPLITS}
    videos = Counter(video.split for video in rows)
    group, largest = sizes.most_common(1)[0]
    return [
        f"{counted(len(sizes), 'group')}, each in one split: {len(groups['train']):,} train "
        f"({counted(videos['train'], 'video')}), {len(groups['eval']):,} eval "
        f"({counted(videos['eval'], 'video')})",
        f"{100 * videos['eval'] / len(rows):.0f} % of the videos are eval, and --eval-fraction is "
        f"{100 * rule.eval_fraction:.0f} %; the largest group, {printable(group)}, has "
        f"{counted(largest, 'video')}",
    ]
