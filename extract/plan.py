"""Which videos stand in which shard, and which process makes it: pure functions, the same everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from extract.errors import ConfigError

SHARD_VIDEOS = 256
SHARD_FRAMES = 65_536
"""A shard is closed at either. What a kill can cost is the shard being filled, so smaller is safer:
65,536 frames of ResNet-101 are 0.27 GB, and the 46,624 videos of Kinetics make 183 shards."""


@dataclass(frozen=True)
class Place:
    """This process among those that share the work."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among the processes of this machine: chooses the GPU."""


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


def place_of(environment: Mapping[str, str], rank: int = 0, world: int = 0) -> Place:
    """Where this process stands: as asked, or by torchrun's or SLURM's variables, else alone.

    A SLURM array and `srun` tasks multiply: each array task's steps share its part.

    Raises:
        ConfigError: a variable is not a number.
    """
    if world:
        return Place(rank, world, rank)

    def number(name: str, default: int) -> int:
        text = environment.get(name, "")
        if text and not text.isdecimal():
            raise ConfigError(f"The environment variable {name} is {text!r}, not a number.")
        return int(text) if text else default

    if "WORLD_SIZE" in environment:
        local = number("LOCAL_RANK", 0)
        return Place(number("RANK", 0), number("WORLD_SIZE", 1), local)
    tasks = number("SLURM_STEP_NUM_TASKS", 1)
    task = number("SLURM_PROCID", 0) if tasks > 1 else 0
    arrays = number("SLURM_ARRAY_TASK_COUNT", 1)
    first, step = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
    array = (number("SLURM_ARRAY_TASK_ID", first) - first) // max(step, 1)
    return Place(
        array * tasks + task, arrays * tasks, number("SLURM_LOCALID", 0) if tasks > 1 else 0
    )
