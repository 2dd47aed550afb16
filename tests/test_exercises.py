"""The benchmark of exercises: its split, its stores, and a record that a stopped command goes on from."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

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


def test_both_directions_are_trained_once_and_the_table_is_the_record(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exercises, "SHARED", "--frames 9 --width 8 --batch-size 4 --epochs 1")
    path = tmp_path / "record.jsonl"

    def run(*more: str) -> str:
        arguments = ["--npz", str(npz), "--record", str(path), *more]
        recipe = ("--recipe", "plain=--method source-only")
        result = CliRunner().invoke(exercises.main, [*arguments, *recipe], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    run("--seeds", "0", "--source", "real")
    first = path.read_text()
    output = run("--seeds", "0,1")
    assert path.read_text().startswith(first)  # what stood there was not run again
    records = [json.loads(line) for line in path.read_text().splitlines()]
    directions = ("real -> render", "render -> real")
    assert sorted((r["problem"], r["seed"]) for r in records) == [
        (direction, seed) for direction in directions for seed in (0, 1)
    ]
    [row] = [line for line in output.splitlines() if line.startswith("| plain |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    for place, direction in enumerate(directions):
        values = [r["overall"][0] for r in records if r["problem"] == direction]
        mean, spread = statistics.fmean(values), statistics.stdev(values)
        assert cells[1 + 2 * place] == f"{mean:.1f} ± {spread:.1f}"
        assert cells[2 + 2 * place] == " ".join(f"{value:.1f}" for value in values)


def test_a_folder_keeps_the_runs_of_each_direction(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exercises, "SHARED", "--frames 9 --width 8 --batch-size 4 --epochs 1")
    kept, record = tmp_path / "kept", tmp_path / "record.jsonl"
    arguments = ["--npz", str(npz), "--record", str(record), "--seeds", "3", "--folder", str(kept)]
    recipe = ["--recipe", "plain=--method source-only"]
    result = CliRunner().invoke(exercises.main, [*arguments, *recipe], catch_exceptions=False)
    assert result.exit_code == 0
    found = {}
    for source, target in (("real", "render"), ("render", "real")):
        run = kept / f"{source}-to-{target}" / "runs" / "plain" / "seed3"
        config = json.loads((run / "config.json").read_text())["config"]
        assert (config["source"], config["target"]) == (source, target)
        rows = list(csv.DictReader((run / "predictions.csv").read_text().splitlines()))
        right = sum(row["class"] == row["predicted"] for row in rows)
        found[f"{source} -> {target}"] = round(100 * right / len(rows), 2)
    records = [json.loads(line) for line in record.read_text().splitlines()]
    assert found == {line["problem"]: line["overall"][0] for line in records}


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


def test_a_record_tells_inputs_apart(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exercises, "SHARED", "--frames 9 --width 8 --batch-size 4 --epochs 1")
    record = tmp_path / "record.jsonl"
    shared = ["--npz", str(npz), "--record", str(record), "--seeds", "0", "--source", "real"]
    for inputs in ("plain", "root", "root"):
        recipe = ["--inputs", inputs, "--recipe", "one=--method source-only"]
        result = CliRunner().invoke(exercises.main, [*shared, *recipe], catch_exceptions=False)
        assert result.exit_code == 0
    names = [json.loads(line)["method"] for line in record.read_text().splitlines()]
    assert names == ["one", "one, root"]
