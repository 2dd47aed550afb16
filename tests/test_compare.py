"""Comparing two stores: the formula by an independent computation, tolerance, exit codes, memory."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CONFIG, make_store
from test_check import IDS, matrix

from store import compare as comparing
from store.errors import StoreError
from store.read import FeatureStore


def plain_comparison(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Smallest and mean cosine and the relative error, in plain loops over Python numbers."""
    rows_a, rows_b = a.astype(float).tolist(), b.astype(float).tolist()
    mean = [sum(column) / len(rows_b) for column in zip(*rows_b)]
    cosines, difference, variation = [], 0.0, 0.0
    for x, y in zip(rows_a, rows_b):
        dot = sum(p * q for p, q in zip(x, y))
        cosines.append(dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y)))
        difference += sum((p - q) ** 2 for p, q in zip(x, y))
        variation += sum((q - m) ** 2 for q, m in zip(y, mean))
    return min(cosines), sum(cosines) / len(cosines), math.sqrt(difference / variation)


@pytest.mark.parametrize("frames", [2, 7, comparing._ROWS + 3])
def test_comparison_is_the_formula(frames: int) -> None:
    b = (matrix(1, frames, 3) + 5).astype(np.float16)
    a = (b + matrix(2, frames, 3) * 0.1).astype(np.float16)
    pair = comparing.compare_features("v", a, b)
    expected = plain_comparison(a, b)
    np.testing.assert_allclose((pair.cosine_min, pair.cosine_mean, pair.error), expected, rtol=1e-9)
    assert not pair.identical
    # The error is what tells: features of other frames, shuffled, are still alike by cosine.
    shuffled = comparing.compare_features("v", b[::-1], b)
    assert shuffled.cosine_mean > 0.9 and shuffled.error > 1


def test_comparison_at_the_edges() -> None:
    one, zero = np.ones((1, 3), np.float16), np.zeros((2, 3), np.float16)
    same = comparing.compare_features("v", one, one)
    assert (same.identical, same.error, same.cosine_min) == (True, 0.0, 1.0)
    assert (
        comparing.compare_features("v", one * 2, one).error == math.inf
    )  # one frame: no variation
    assert comparing.compare_features("v", zero[:1], one).cosine_min == 0
    signs = comparing.compare_features("v", -zero, zero)
    assert (signs.identical, signs.error, signs.cosine_min) == (False, 0.0, 1.0)
    largest = np.full((2, 3), np.finfo(np.float16).max)
    assert comparing.compare_features("v", largest, -largest).cosine_min == pytest.approx(-1)
    longer = comparing.compare_features("v", matrix(0, 5), matrix(0, 4))
    assert (longer.frames_a, longer.frames_b, longer.identical, longer.error) == (5, 4, False, 0)


def features_of(seed: int = 0, noise: float = 0) -> dict[str, np.ndarray]:
    return {v: matrix(seed + i, 20) + noise * matrix(90 + i, 20) for i, v in enumerate(IDS)}


def test_equal_stores(tmp_path: Path, cli) -> None:
    a, b = (make_store(tmp_path / n, "toy", features_of()) for n in "ab")
    result = cli("store", "compare", a, b)
    assert result.exit_code == 0
    assert "configs: the same" in result.output and "videos: 5 in both" in result.output
    assert "5 of 5 videos have equal bytes\n" in result.output


def test_tolerance(tmp_path: Path, cli) -> None:
    a, b = make_store(tmp_path / "a", "t", features_of()), tmp_path / "b"
    b = make_store(b, "t", features_of(noise=0.01))
    with FeatureStore(a) as mine, FeatureStore(b) as yours:
        worst = max(plain_comparison(mine.read(v), yours.read(v))[2] for v in IDS)
    result = cli("store", "compare", a, b)
    assert result.exit_code == 1 and f"largest error {worst:.2e}" in result.output
    assert "0 of 5 videos have equal bytes, 5 an error above 0\n" in result.output
    result = cli("store", "compare", a, b, "--tolerance", worst * 1.001, "--show", 2)
    assert result.exit_code == 0 and "equal bytes, 5 an error within " in result.output
    assert sum(video in result.output for video in IDS) == 2
    assert cli("store", "compare", a, b, "--tolerance", worst * 0.999).exit_code == 1


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
def test_a_tolerance_that_everything_is_within_is_refused(tmp_path: Path, cli, value: str) -> None:
    a, b = (make_store(tmp_path / n, "t", features_of()) for n in "ab")
    result = cli("store", "compare", a, b, "--tolerance", value)
    assert result.exit_code == 2 and "Invalid value for '--tolerance'" in result.output
    assert ("no comparison with it could fail" in result.output) == (value in ("nan", "inf"))


def test_an_error_that_is_no_number_is_within_nothing(capsys) -> None:
    from commands.compare import _say_pairs

    good = matrix(0, 4).astype(np.float16)
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = good.copy()
        spoilt[2, 1] = bad
        for a, b in ((spoilt, good), (good, spoilt)):
            pair = comparing.compare_features("v", a, b)
            assert (pair.identical, pair.error, pair.cosine_min) == (False, math.inf, 0)
            assert not _say_pairs([pair], 1e300, 10)
    pair = dataclasses.replace(pair, error=math.nan)
    assert not _say_pairs([pair], 1e300, 10)
    assert "1 an error above 1e+300" in capsys.readouterr().out


def test_other_videos_frames_and_configs(tmp_path: Path, cli) -> None:
    a = make_store(tmp_path / "a", "t", features_of())
    fewer = make_store(tmp_path / "b", "t", {v: features_of()[v] for v in IDS[:2]})
    result = cli("store", "compare", a, fewer)
    assert result.exit_code == 1 and "videos: 2 in both\n  3 only in A (first: " in result.output
    assert cli("store", "compare", a, fewer, "--allow-missing").exit_code == 0
    longer = features_of()
    longer["naïve+"] = np.concatenate([longer["naïve+"], matrix(50, 1)])
    result = cli("store", "compare", a, make_store(tmp_path / "c", "t", longer), "--tolerance", 9)
    assert result.exit_code == 1 and "equal bytes, 1 another number of frames\n" in result.output
    assert result.stdout.splitlines()[3].split() == [
        *("20", "21", "1.000000", "1.000000", "0.00e+00", "naïve+")
    ]
    other = make_store(tmp_path / "d", "t", features_of(), {**CONFIG, "stride": 2})
    result = cli("store", "compare", a, other)
    assert result.exit_code == 1 and "configs differ: stride: 1 or 2" in result.output
    assert "5 of 5 videos have equal bytes" in result.output
    nothing = make_store(tmp_path / "e", "t", {"x": matrix(0, 2)})
    assert cli("store", "compare", a, nothing, "--allow-missing").exit_code == 1
    narrow = make_store(tmp_path / "f", "t", {"naïve+": matrix(0, 2, 3)})
    result = cli("store", "compare", a, narrow)
    assert result.exit_code == 1 and "width 6" in result.output and "of 3" in result.output


def test_comparing_holds_one_video_at_a_time(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        stores = [
            make_store(
                tmp_path / f"{seed}-{count}",
                "t",
                {f"v{i}": matrix(seed + i, 200, 64) for i in range(count)},
            )
            for seed in (0, 1)
        ]
        with FeatureStore(stores[0]) as a, FeatureStore(stores[1]) as b:
            tracemalloc.start()
            for pair in comparing.compare(a, b):
                assert not pair.identical
            size = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return size

    assert peak(30) < 1.5 * peak(3)


def test_a_damaged_store_is_not_compared(tmp_path: Path) -> None:
    a, b = (make_store(tmp_path / n, "t", features_of()) for n in "ab")
    shard = b / "shard-00000.h5"
    with h5py.File(shard) as file:
        offset = file["naïve+"].id.get_offset()
    data = bytearray(shard.read_bytes())
    data[offset] ^= 1
    shard.write_bytes(data)
    with (
        FeatureStore(a) as mine,
        FeatureStore(b) as yours,
        pytest.raises(StoreError, match=r"naïve\+ were damaged"),
    ):
        list(comparing.compare(mine, yours))
