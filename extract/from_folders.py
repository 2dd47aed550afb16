"""Making a benchmark from a user's own folders: one per domain, and in it one per class, or no labels."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from extract.classes import class_labels, common_classes
from extract.domain_folder import DomainFolder, read_domain, read_flat
from extract.domains import kept_domains, refuse_one_inside_another, refuse_shared_videos
from extract.splits import DEFAULT_RULE, Grouping, SplitRule, groups_note, refuse_torn_groups
from store.errors import ManifestError, counted, first_of, printable
from store.manifest import BOTH, SPLITS, Video, has_no_labels

_TRIES = 50


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
    unlabelled: Mapping[str, Path] = MappingProxyType({}),
    rule: SplitRule = DEFAULT_RULE,
    groups: Grouping | None = None,
    classes: Sequence[str] | None = None,
    kind: str = "videos",
    recorded: Mapping[str, Sequence[Video]] | None = None,
) -> OwnBenchmark:
    """Make the rows for a user's own videos, in one folder per class, perhaps below one per split.

    Only classes that every domain with labels has are kept; labels follow the sorted class names. A split
    that the folders name is taken from them, any other is `rule`'s.

    Args:
        folders: domain with labels -> its folder.
        unlabelled: domain without labels -> its folder, of any layout.
        groups: which videos stay in one split.
        classes: keep these alone; None for all.
        kind: `videos` or `frames` (one folder of images per video).
        recorded: the rows of the benchmark that is updated, by domain: a video keeps its recorded split
            or label, and a domain that is not named keeps its rows.

    Raises:
        ManifestError: too few domains, classes or videos, or names that could be confused.
    """
    kept = kept_domains(folders, unlabelled, recorded)
    refuse_one_inside_another({**folders, **unlabelled})
    contents = {domain: read_domain(folder, kind) for domain, folder in folders.items()}
    flat = {domain: read_flat(folder, kind) for domain, folder in unlabelled.items()}
    refuse_shared_videos(
        {d: c.real_paths for d, c in contents.items()} | {d: c.real_paths for d, c in flat.items()}
    )
    told = {domain: rows for domain, rows in kept.items() if not has_no_labels(rows)}
    names = {domain: set(content.videos) for domain, content in contents.items()}
    names |= {domain: {str(v.class_name) for v in rows} for domain, rows in told.items()}
    chosen = common_classes(names, told, classes)
    before = recorded or {}
    labels = class_labels(chosen, told or before)
    videos = _split(_Splitter(contents, labels, groups, before), rule)
    notes = {
        d: [
            *c.notes,
            *_left_out(
                c, chosen, "not every domain has them" if classes is None else "of --classes"
            ),
            *_lacking(videos[d], chosen),
            *groups_note(videos[d], rule),
        ]
        for d, c in contents.items()
    }
    for domain, content in flat.items():
        videos[domain], more = _without_labels(content.ids, before.get(domain, ()), labels)
        notes[domain] = [*content.notes, *more]
    for domain in kept.keys() - told.keys():
        ids = [video.id for video in kept[domain]]
        videos[domain], notes[domain] = _without_labels(ids, kept[domain], labels)
    return OwnBenchmark(videos=videos | {d: tuple(rows) for d, rows in told.items()}, notes=notes)


class _Splitter:
    """Makes the rows of the domains with labels that were read, with the splits of any rule."""

    def __init__(
        self,
        contents: Mapping[str, DomainFolder],
        labels: Mapping[str, int],
        groups: Grouping | None,
        recorded: Mapping[str, Sequence[Video]],
    ) -> None:
        self._contents = contents
        self._classes = sorted(labels.items(), key=lambda item: item[1])
        self._recorded = {domain: recorded.get(domain, ()) for domain in contents}
        self._groups: dict[str, Mapping[str, str]] = {}
        for domain, content in contents.items():
            ids = [video for name in labels for video in content.videos[name]]
            if groups is not None:
                self._groups[domain] = groups.groups_of(domain, ids)
            elif any(video.group is not None for video in recorded.get(domain, ())):
                raise ManifestError(
                    f"The videos of {domain} were split by groups, and a new one could come into another "
                    "split than the rest of its group. Give the same --group-by again."
                )

    def by(self, rule: SplitRule) -> dict[str, tuple[Video, ...]]:
        """Return domain -> its rows.

        Raises:
            ManifestError: a group is in both splits.
        """
        videos = {domain: self._rows(domain, rule) for domain in self._contents}
        for domain, rows in videos.items():
            refuse_torn_groups(domain, rows)
        return videos

    def _rows(self, domain: str, rule: SplitRule) -> tuple[Video, ...]:
        groups = self._groups.get(domain, {})
        recorded = {v.id: v.split for v in self._recorded[domain]}
        of_groups = {groups.get(v.id, v.group): v.split for v in self._recorded[domain]}
        rows = []
        for name, label in self._classes:
            for video, given in sorted(self._contents[domain].videos[name].items()):
                group = groups.get(video)
                split = recorded.get(video) or given or (of_groups.get(group) if group else None)
                rows.append(
                    Video(
                        id=video,
                        label=label,
                        class_name=name,
                        split=split or rule.split_of(group or video),
                        frames=None,
                        group=group,
                    )
                )
        return tuple(rows)


def _without_labels(
    ids: Sequence[str], recorded: Sequence[Video], labels: Mapping[str, int]
) -> tuple[tuple[Video, ...], list[str]]:
    """Return the rows of a domain without labels, and what to say; labels that were added are kept."""
    names = {v.id: v.class_name for v in recorded if v.class_name is not None}
    gone = [video for video in ids if video in names and names[video] not in labels]
    rows = tuple(
        Video(id=video, label=labels.get(name or ""), class_name=name, split=BOTH, frames=None)
        for video in ids
        for name in [names.get(video) if names.get(video) in labels else None]
    )
    if not gone:
        return rows, []
    had = [f"{video} was {names[video]}" for video in gone]
    return rows, [
        f"{counted(len(gone), 'label', 'is')} removed, because the class is gone {first_of(had)}"
    ]


def _split(splitter: _Splitter, rule: SplitRule) -> dict[str, tuple[Video, ...]]:
    """Return domain -> its rows; one that would have one split only is refused with a seed that helps."""
    videos = splitter.by(rule)
    if _one_split_only(videos):
        seeds = (dataclasses.replace(rule, seed=seed) for seed in range(_TRIES))
        better = next((r.seed for r in seeds if not _one_split_only(splitter.by(r))), None)
        raise _no_split(videos, better)
    return videos


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
        f"Of the {counted(len(rows), 'video')} of {domain} none would be {lacking} "
        f"{first_of([f'{rows[0].id} is {rows[0].split}'])}. {advice}"
    )


def _left_out(content: DomainFolder, classes: Sequence[str], reason: str) -> list[str]:
    others = sorted(set(content.videos) - set(classes))
    names = [f"{printable(name)} ({len(content.videos[name])})" for name in others]
    return [f"left out, because {reason}: {', '.join(names)}"] if names else []


def _lacking(rows: Sequence[Video], classes: Sequence[str]) -> list[str]:
    notes = []
    splits: dict[str | None, set[str]] = defaultdict(set)
    for video in rows:
        splits[video.class_name].add(video.split)
    for split in SPLITS:
        without = [name for name in classes if split not in splits[name]]
        if without:
            lacking = counted(len(without), "class", f"has no {split} video", of=len(classes))
            notes.append(f"{lacking} {first_of(without)}")
    return notes
