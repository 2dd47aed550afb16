from __future__ import annotations

import pytest

from store.datasets import dataset_videos
from store.errors import ConfigError
from store.machine import Process, process_of
from store.plan import SHARD_FRAMES, SHARD_VIDEOS, plan_shards, shard_number


@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51", "kinetics"])
def test_every_video_has_one_place(dataset: str) -> None:
    videos = dataset_videos(dataset)
    plan = plan_shards(videos)
    assert sorted(video for shard in plan for video in shard) == sorted(videos)
    for shard in plan:
        lengths = [videos[video] or 0 for video in shard]
        assert len(shard) <= SHARD_VIDEOS and sum(lengths) <= SHARD_FRAMES
        assert lengths == sorted(lengths, reverse=True)  # longest first
    shuffled = dict(sorted(videos.items(), key=lambda item: hash(item[0])))
    assert plan_shards(shuffled) == plan


def test_a_video_longer_than_a_shard_and_unknown_lengths() -> None:
    assert plan_shards({"a": 3, "b": SHARD_FRAMES + 1, "c": 3}) == [("a",), ("b",), ("c",)]
    assert plan_shards({"a": None, "b": None}) == [("a", "b")]
    assert plan_shards({}) == []


def test_ranks_never_choose_the_same_number() -> None:
    assert shard_number(3, 10, []) == 3
    assert shard_number(3, 10, [3, 13]) == 23
    taken = set(range(7))
    numbers = [shard_number(group, 5, taken) for group in range(5)]
    assert len(set(numbers)) == 5 and not taken & set(numbers)


@pytest.mark.parametrize(
    ("environment", "process"),
    [
        ({}, Process(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Process(3, 4, 1)),
        # A batch script alone: SLURM sets these for the script too, which then is the only process.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Process(0, 1, 0)),
        (
            {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"},
            Process(5, 8, 1),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            Process(2, 4, 0),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_LOCALID": "1",
            },
            Process(3, 6, 1),
        ),
    ],
)
def test_where_a_process_stands(environment: dict[str, str], process: Process) -> None:
    assert process_of(environment) == process
    assert process_of(environment, rank=1, world=2) == Process(1, 2, 1)


def test_a_strange_environment_is_named() -> None:
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'two', not a number"):
        process_of({"RANK": "0", "WORLD_SIZE": "two"})
