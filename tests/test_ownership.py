"""No frame of one video ever stands in another's features, whatever a decoding process dies of."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import marked_worker
import numpy as np
import pytest
from conftest import slow
from test_pool import OPTIONS, collect

from extract.config import ExtractConfig
from extract.decode import Video
from extract.events import Broken
from extract.pool import DecoderPool
from extract.run import extract
from extract.synthetic import make_collection
from store.errors import DecodeError
from store.read import FeatureStore

Work = list[tuple[str, Path]]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Work:
    root = tmp_path_factory.mktemp("healthy")
    make_collection(root, "day", per_action=4)
    return [(path.stem, path) for path in sorted(root.rglob("*.mp4"))]


@pytest.fixture(scope="module")
def marked(healthy: Work, tmp_path_factory: pytest.TempPathFactory) -> Work:
    root = tmp_path_factory.mktemp("marked")
    names = [f"die_{when}_{how}" for when in marked_worker.WHEN for how in marked_worker.HOW]
    for name, (_, source) in zip(names, healthy):
        shutil.copy(source, root / f"{name}.mp4")
    return [(name, root / f"{name}.mp4") for name in names]


@pytest.fixture(scope="module")
def expected(healthy: Work) -> dict[str, np.ndarray]:
    return {video: np.stack(list(Video(path, OPTIONS).frames())) for video, path in healthy}


def check(
    healthy: Work, marked: Work, expected, *, workers: int, take_turns: bool, order: int
) -> None:
    work = [*healthy, *marked]
    random.Random(order).shuffle(work)
    broken = []
    with DecoderPool(work, OPTIONS, workers=workers, take_turns=take_turns, deadline=1) as pool:
        got = collect(pool, broken)
    assert set(got) == set(expected)
    for video in expected:
        np.testing.assert_array_equal(got[video], expected[video], err_msg=video)
    tries = {(event.attempt.video, event.again) for event in broken}
    assert tries == {(video, again) for video, _ in marked for again in (True, False)}


@pytest.mark.parametrize(
    ("workers", "take_turns"),
    [(2, True), slow(3, True), (2, False)],
)
def test_videos_beside_processes_that_die(
    healthy, marked, expected, monkeypatch, workers: int, take_turns: bool
) -> None:
    monkeypatch.setattr("extract.decoder.serve", marked_worker.serve)
    quick = [item for item in marked if "hang" not in item[0]]
    check(healthy, quick, expected, workers=workers, take_turns=take_turns, order=workers)


@pytest.mark.slow
@pytest.mark.parametrize("take_turns", [False, True])
@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("order", range(3))
def test_videos_beside_processes_that_die_or_hang(
    healthy, marked, expected, monkeypatch, workers: int, take_turns: bool, order: int
) -> None:
    monkeypatch.setattr("extract.decoder.serve", marked_worker.serve)
    check(healthy, marked, expected, workers=workers, take_turns=take_turns, order=order)


@pytest.mark.slow
def test_the_store_is_the_same_to_the_byte_without_the_files_that_kill(
    healthy: Work, marked: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.decoder.serve", marked_worker.serve)
    for video, path in [*healthy, *(item for item in marked if "hang" not in item[0])]:
        # Names in an order that puts a marked file between healthy ones.
        (tmp_path / "all").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "all" / f"{video}.mp4")
    options = ExtractConfig(
        **dict(backbone="mobilenet_v3_small", weights="random:0", device="cpu", workers=2),
        precision="float32",
    )
    listed = [path.stem for path in (tmp_path / "all").iterdir()]
    random.Random(1).shuffle(listed)
    frames = {video: 100 - number for number, video in enumerate(listed)}  # sets the order
    arguments = {"dataset": "toy", "video_roots": [tmp_path / "all"], "options": options}
    mixed = extract(**arguments, videos=frames, features=tmp_path / "mixed")
    alone = extract(
        **arguments, videos={video: None for video, _ in healthy}, features=tmp_path / "alone"
    )
    assert mixed.index["totals"]["failed"] == len(listed) - len(healthy)
    assert mixed.new_failures == len(listed) - len(healthy) and mixed.new_videos == len(healthy)
    reasons = {v: r.error for v, r in mixed.records.items() if r.status == "failed"}
    assert "RuntimeError: harm was asked for (tried twice)" in reasons["die_open_exception"]
    assert "the decoder crashed (SIGSEGV) (tried twice)" in reasons["die_middle_segv"]
    with FeatureStore(mixed.folder) as a, FeatureStore(alone.folder) as b:
        for video, _ in healthy:
            assert a.read(video).tobytes() == b.read(video).tobytes(), video


def test_a_process_that_dies_before_it_is_ready_is_replaced(healthy, expected, monkeypatch) -> None:
    monkeypatch.setattr("extract.decoder.serve", marked_worker.harmless)
    # Three such starts in a row end a run, and here about every second one is such a start.
    monkeypatch.setattr("extract.pool._MOST_FAILED_STARTS", 1000)
    broken: list[Broken] = []
    with DecoderPool(healthy, OPTIONS, workers=2) as pool:
        got = collect(pool, broken)
    assert not broken
    for video in expected:
        np.testing.assert_array_equal(got[video], expected[video])


def test_decoders_that_never_start_end_the_run_with_a_reason(healthy, monkeypatch) -> None:
    monkeypatch.setattr("extract.decoder.serve", marked_worker.never_ready)
    expected = r"do not start: the decoder crashed \(SIGKILL\), 3 times in a row"
    with (
        DecoderPool(healthy, OPTIONS, workers=1) as pool,
        pytest.raises(DecodeError, match=expected),
    ):
        list(pool)
