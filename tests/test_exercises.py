"""The benchmark of exercises: its split and its stores."""

from __future__ import annotations

import hashlib
import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from benchmarks import exercises
from benchmarks.common import Folders
from store.manifest import read_manifest
from store.read import find_stores

LENGTHS = (1, 3, 12, 24)
CLASSES = ("squat", "bench", "curl")
WIDTH = 8


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """60 videos of three classes in two domains, of unequal lengths, one of them without a frame."""
    random = np.random.default_rng(0)
    lengths = [LENGTHS[number % 4] for number in range(60)]
    lengths[5] = 0
    path = tmp_path / "features.npz"
    np.savez(
        path,
        features=random.gamma(2, 0.5, (sum(lengths), WIDTH)).astype(np.float16),
        offsets=np.cumsum([0, *lengths]),
        video=[f"v_{number}" for number in range(60)],
        domain=["real" if number < 30 else "render" for number in range(60)],
        **{"class": [CLASSES[number % 3] for number in range(60)]},
    )
    return path


def test_manifests_and_stores_hold_the_file(npz: Path, tmp_path: Path) -> None:
    folders = Folders.below(tmp_path)
    exercises.write_problem(npz, folders)
    arrays = np.load(npz)
    splits = set()
    for domain, numbers in (("real", range(30)), ("render", range(30, 60))):
        rows = read_manifest(folders.manifests / "exercises" / f"{domain}.csv")
        [store] = find_stores(folders.features, domain).values()
        expected = {}
        for number in numbers:
            begin, end = arrays["offsets"][number], arrays["offsets"][number + 1]
            if begin < end:
                name = CLASSES[number % 3]
                expected[f"{name}/v_{number}"] = (name, arrays["features"][begin:end])
        assert {row.id for row in rows} == expected.keys() and len(rows) == len(expected)
        for row in rows:
            name, features = expected[row.id]
            assert (row.class_name, row.label) == (name, ["bench", "curl", "squat"].index(name))
            assert row.frames == len(features)
            # The rule of `manifest from-folder`, written out.
            first = hashlib.sha256(f"0/{row.id}".encode()).hexdigest()[:16]
            assert row.split == ("eval" if int(first, 16) < 0.4 * 2**64 else "train")
            splits.add(row.split)
            assert np.array_equal(store.read(row.id), features)
        store.close()
    assert splits == {"train", "eval"}


@pytest.mark.parametrize("inputs", ["root", "deviation", "root-deviation"])
def test_inputs_are_stored_as_their_formulas_say(npz: Path, tmp_path: Path, inputs: str) -> None:
    folders = Folders.below(tmp_path)
    exercises.write_problem(npz, folders, inputs)
    arrays = np.load(npz)
    begin, end = arrays["offsets"][3], arrays["offsets"][4]
    [store] = find_stores(folders.features, "real").values()
    stored = store.read(f"{CLASSES[0]}/v_3")
    assert end - begin == 24
    for frame in range(24):
        plain = [float(x) for x in arrays["features"][begin + frame]]
        expected = [math.sqrt(x) for x in plain] if "root" in inputs else plain
        if "deviation" in inputs:
            rows = [[float(x) for x in row] for row in arrays["features"][begin:end]]
            rows = [[math.sqrt(x) for x in row] for row in rows] if "root" in inputs else rows
            expected += [statistics.pstdev(column) for column in zip(*rows)]
        assert stored[frame].tolist() == pytest.approx(expected, rel=2e-3, abs=1e-3)
    assert store.index["config"]["inputs"] == inputs
    store.close()
