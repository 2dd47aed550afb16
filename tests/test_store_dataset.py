"""FeatureStore as a mapping, and the torch Dataset of a store: forked, spawned and in workers."""

from __future__ import annotations

import csv
import multiprocessing
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import make_store, slow
from test_check import matrix
from test_reshape import store_of
from torch.utils.data import DataLoader

from adapt.store_dataset import StoreDataset
from store import FeatureStore
from store.errors import ConfigError, Ma2lError, StoreError, UnknownVideoError

NAMES = [f"walk/{i:03}" for i in range(12)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with videos of 2 to 13 frames, and a failure."""
    videos = {name: matrix(i, 2 + i) for i, name in enumerate(NAMES)}
    halves = [{v: videos[v] for v in NAMES[begin::2]} for begin in (0, 1)]
    return store_of(tmp_path, *halves, rows={"bad": "failed"})


def by_h5py(folder: Path) -> dict[str, np.ndarray]:
    with (folder / "videos.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "ok"]
    found = {}
    for row in rows:
        with h5py.File(folder / row["shard"]) as shard:
            found[row["video"]] = shard[row["video"]][()]
    return found


def test_a_store_is_a_mapping_of_ids(folder: Path) -> None:
    expected = by_h5py(folder)
    with FeatureStore(folder) as store:
        assert list(store) == list(expected) == NAMES and len(store) == 12
        assert "walk/003" in store and "bad" not in store and 3 not in store
        for video in store:
            assert store[video].dtype == np.float16 and store[video].shape == expected[video].shape
            np.testing.assert_array_equal(store[video], expected[video])
        with pytest.raises(UnknownVideoError) as caught:
            store["003"]
        assert isinstance(caught.value, KeyError) and isinstance(caught.value, Ma2lError)
        assert str(caught.value) == (
            f"{folder} has no features of 003, which no row of videos.csv names. Is one of these meant: "
            "walk/003?"
        )
        with pytest.raises(
            StoreError, match=r"has no features of bad: failed \(.* says failed\)\.$"
        ):
            store["bad"]
        with pytest.raises(KeyError, match=r"meant: walk/01., walk/01., "):
            store["walk/01"]
        with pytest.raises(KeyError, match=r"names\.$"):
            store["quite another name"]


def _read_in_child(store: FeatureStore, queue: multiprocessing.Queue) -> None:
    queue.put({video: store[video].tobytes() for video in store})


@pytest.mark.parametrize("method", ["fork", slow("spawn")])
def test_a_store_goes_to_other_processes(folder: Path, method: str) -> None:
    expected = {video: x.tobytes() for video, x in by_h5py(folder).items()}
    context = multiprocessing.get_context(method)
    with FeatureStore(folder) as store:
        store[NAMES[0]]  # a shard is open in the parent
        queue = context.Queue()
        children = [context.Process(target=_read_in_child, args=(store, queue)) for _ in range(2)]
        for child in children:
            child.start()
        for _ in range(20):  # both sides read at the same time
            assert {video: store[video].tobytes() for video in store} == expected
        assert [queue.get(timeout=120) for _ in children] == [expected] * 2
        for child in children:
            child.join(120)
            assert child.exitcode == 0


def loaded(dataset: StoreDataset, **options: object) -> list[dict]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # torch has threads
        return list(DataLoader(dataset, **options))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader(folder: Path, method: str) -> None:
    expected = by_h5py(folder)
    labels = {video: i % 3 for i, video in enumerate(reversed(NAMES))}
    dataset = StoreDataset(folder, labels)
    first = dataset[0]  # opens a shard before the workers are made
    assert first["video"] == "walk/011" and first["label"] == 0
    items = loaded(dataset, batch_size=None, num_workers=2, multiprocessing_context=method)
    assert [item["video"] for item in items] == list(labels)
    for item in items:
        assert item["features"].dtype == torch.float32 and item["label"] == labels[item["video"]]
        np.testing.assert_array_equal(
            item["features"].numpy(), expected[item["video"]].astype(np.float32)
        )


def test_equal_lengths_make_batches(folder: Path) -> None:
    expected = by_h5py(folder)
    batches = loaded(StoreDataset(folder, NAMES, frames=4), batch_size=6)
    assert [tuple(batch["features"].shape) for batch in batches] == [(6, 4, 6)] * 2
    assert "label" not in batches[0]
    for batch in batches:
        for video, features in zip(batch["video"], batch["features"]):
            count = len(expected[video])
            centres = [int((i + 0.5) * count / 4) for i in range(4)]
            np.testing.assert_array_equal(features.numpy(), expected[video][centres].astype("f4"))


def test_the_dataset_at_its_edges(folder: Path, tmp_path: Path) -> None:
    with FeatureStore(folder) as store:
        assert [item["video"] for item in StoreDataset(store)] == NAMES
    with pytest.raises(ConfigError, match="frames must be 0 or more, got -1"):
        StoreDataset(folder, frames=-1)
    with pytest.raises(StoreError, match=r"2 of 3 videos have no features in .* \(first: bad\)"):
        StoreDataset(folder, ["bad", NAMES[0], "x"])
    one = make_store(tmp_path / "one", "toy", {"a": matrix(0, 3)})
    data = bytearray((one / "shard-00000.h5").read_bytes())
    with h5py.File(one / "shard-00000.h5") as shard:
        data[shard["a"].id.get_offset()] ^= 1
    (one / "shard-00000.h5").write_bytes(data)
    with pytest.raises(StoreError, match="features of a were damaged after they were written"):
        StoreDataset(one)[0]
