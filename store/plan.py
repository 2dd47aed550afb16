"""Which videos stand in which shard: pure functions, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SHARD_VIDEOS = 256
SHARD_FRAMES = 65_536
"""A shard is closed at either. What a kill can cost is the shard being filled, so smaller is safer:
65,536 frames of ResNet-101 are 0.27 GB, and the 46,624 videos of Kinetics make 183 shards."""


def plan_shards(videos: Mapping[str, int | None]) -> list[tuple[str, ...]]:
    """Videos (id -> published frames or None) -> the ids of every shard, longest first within each.

    Longest first, so that no decoder is left alone with a long video at the end.
    """
    groups: list[list[str]] = [[]]
    frames = 0
    for video in sorted(videos):
        count = videos[video] or 0
        if groups[-1] and (len(groups[-1]) == SHARD_VIDEOS or frames + count > SHARD_FRAMES):
            groups.append([])
            frames = 0
        groups[-1].append(video)
        frames += count
    return [tuple(sorted(group, key=lambda v: (-(videos[v] or 0), v))) for group in groups if group]


def shard_number(group: int, groups: int, taken: Iterable[int]) -> int:
    """The number of the next shard file of a group: `group`, and later, for videos that were missing or
    failed before, `group + groups`, `group + 2 groups`, ... so that two processes never choose the same.
    """
    number, standing = group, set(taken)
    while number in standing:
        number += groups
    return number
