"""Stores of float32: what their config says decides what every reader expects."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from conftest import CONFIG, make_problem, make_store, toy_arguments

from adapt.bank import load_bank, needed_bytes
from adapt.interface import predict
from store.check import CHECKS, verify
from store.compare import compare
from store.errors import StoreError
from store.manifest import Video
from store.read import FeatureStore
from store.rewrite import drop_videos

SINGLE = {**CONFIG, "stored_dtype": "float32"}
FINE = np.float32(1 + 2**-20)
"""A number that float16 would round to 1."""


def matrix(frames: int, width: int = 6) -> np.ndarray:
    return (np.arange(frames * width, dtype=np.float32).reshape(frames, width) + 1) * FINE


def test_every_bit_comes_back_and_verify_looks_at_it(tmp_path) -> None:
    folder = make_store(tmp_path, "ucf101", {"a": matrix(3), "b/c": matrix(5)}, SINGLE)
    with FeatureStore(folder) as store:
        for video, frames in (("a", 3), ("b/c", 5)):
            assert store.read(video).tobytes() == matrix(frames).tobytes()
    assert not list(verify(folder, CHECKS))
    path = folder / "shard-00000.h5"
    data = bytearray(path.read_bytes())
    position = data.index(matrix(5).tobytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert list(verify(folder, CHECKS))
    (folder / "index.json").unlink()
    with FeatureStore(make_store(tmp_path, "other", {"a": matrix(3)}, SINGLE)) as store:
        assert store.dtype == np.float32


@pytest.mark.parametrize("kind", ["device", "host", "mapped"])
def test_banks_hold_the_stored_type(tmp_path, kind) -> None:
    features = {"a": matrix(3), "b": matrix(5)}
    videos = [Video(id=v, label=0, class_name="x", split="train", frames=None) for v in features]
    with FeatureStore(make_store(tmp_path, "ucf101", features, SINGLE)) as store:
        assert needed_bytes(store, videos) == 8 * 6 * 4
        bank = load_bank(store, videos, torch.device("cpu"), kind)
        picked = bank.gather(torch.tensor([1, 0]), torch.tensor([[4, 0], [2, 2]]))
    expected = np.stack([features["b"][[4, 0]], features["a"][[2, 2]]])
    assert picked.numpy().tobytes() == expected.tobytes()


def test_a_shard_of_another_type_than_the_config_says_is_refused(tmp_path) -> None:
    folder = make_store(tmp_path, "ucf101", {"a": matrix(3)}, SINGLE)
    with FeatureStore(folder) as store:
        with h5py.File(folder / "shard-00000.h5", "r+") as file:
            kept = dict(file["a"].attrs)
            del file["a"]
            file.create_dataset("a", data=matrix(3).astype(np.float16)).attrs.update(kept)
        store.index["shards"][0]["bytes"] = (folder / "shard-00000.h5").stat().st_size
        with pytest.raises(StoreError, match="has type float16, expected float32"):
            store.read("a")
    with pytest.raises(StoreError, match="the number type 'int8'; this version reads float16 and"):
        make_store(tmp_path, "x", {"a": matrix(3)}, {**CONFIG, "stored_dtype": "int8"})


def test_values_beyond_float16_fit_and_those_beyond_float32_do_not(tmp_path) -> None:
    make_store(tmp_path, "ucf101", {"a": matrix(2) * 1e30}, SINGLE)
    with pytest.raises(StoreError, match=r"float32 holds finite values up to 3\.40282e"):
        make_store(tmp_path, "hmdb51", {"a": matrix(2).astype(np.float64) * 1e40}, SINGLE)


def test_a_rewrite_keeps_the_bytes_and_compare_reads_both_types(tmp_path) -> None:
    features = {"a": matrix(3), "b": matrix(5)}
    folder = make_store(tmp_path, "ucf101", features, SINGLE)
    assert drop_videos(folder, {"b"}) == 1
    half = make_store(tmp_path, "ucf101", features)
    with FeatureStore(folder) as a, FeatureStore(half) as b:
        assert a.read("a").tobytes() == features["a"].tobytes()
        [pair] = compare(a, b)
    assert not pair.identical and 0 < pair.error < 1e-3


def test_adapt_evaluates_and_predicts_on_float32(tmp_path, cli) -> None:
    make_problem(tmp_path)
    exact = {}
    for domain in ("left", "right"):
        [old] = (tmp_path / "features" / domain).iterdir()
        with FeatureStore(old) as store:
            exact[domain] = {v: store.read(v).astype(np.float32) * FINE for v in store.records}
        make_store(tmp_path / "features", domain, exact[domain], SINGLE)
    chosen = ("--store", make_store(tmp_path / "again", "left", exact["left"], SINGLE).name)
    result = cli(*toy_arguments(tmp_path, "run", *chosen))
    assert result.exit_code == 0, result.output
    assert cli("evaluate", tmp_path / "run").exit_code == 0
    table = cli("predict", tmp_path / "run", "--format", "jsonl")
    assert table.exit_code == 0, table.output
    some = list(exact["right"].values())[:2]
    found = predict(tmp_path / "run", some, device="cpu")
    large = predict(tmp_path / "run", [some[0] * np.float32(1e6)], device="cpu")
    assert np.isfinite(large.probabilities).all() and found.probabilities.shape == (2, 3)
