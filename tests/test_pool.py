"""Decoder processes that hang, crash and outlive their parent: real ones, killed for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, alive

from extract.decode import FrameOptions, SourceFacts, Video, VideoFacts
from extract.events import Attempt, Broken, Decoded, Frames, Opened, Restarted
from extract.pool import DecoderPool
from extract.ring import SLOT_FRAMES
from extract.session import Session
from extract.stream import Extracted, Unreadable, _Stream
from extract.synthetic import ACTIONS, make_collection, write_video
from extract.videos import VideoFolder
from store.index import StoreIndex
from store.machine import Process

OPTIONS = FrameOptions(resize=32, crop=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    root = tmp_path_factory.mktemp("videos")
    make_collection(root, "day", per_action=2)
    return [(path.stem, path) for path in sorted(root.rglob("*.mp4"))]


def long_video(folder: Path, frames: int = 200) -> tuple[str, Path]:
    random = np.random.default_rng(0)
    path = folder / "long.mp4"
    write_video(path, random.integers(0, 256, (frames, 48, 64, 3), np.uint8), 25)
    return "long", path


def collect(pool: DecoderPool, broken: list[Broken] | None = None) -> dict[str, np.ndarray]:
    """Every video's frames, as the pool's contract gives them."""
    parts: dict[object, list[np.ndarray]] = {}
    finished = {}
    for event in pool:
        if isinstance(event, Opened):
            parts[event.attempt] = []
        elif isinstance(event, Frames):
            parts[event.attempt].append(event.images.copy())
        elif isinstance(event, Decoded):
            finished[event.attempt.video] = np.concatenate(parts[event.attempt])
        elif isinstance(event, Broken) and broken is not None:
            broken.append(event)
    return finished


@pytest.mark.parametrize("take_turns", [False, True])
@pytest.mark.parametrize(("workers", "ring"), [(1, 16), (3, 128)])
def test_all_frames_of_all_videos_in_order(
    videos, take_turns: bool, workers: int, ring: int
) -> None:
    for stride in (1, 5):
        options = FrameOptions(resize=32, crop=32, stride=stride)
        with DecoderPool(
            videos, options, workers=workers, ring_frames=ring, take_turns=take_turns
        ) as pool:
            got = collect(pool)
        assert set(got) == {video for video, _ in videos} and len(got) == 2 * len(ACTIONS)
        for video, path in videos:
            np.testing.assert_array_equal(got[video], np.stack(list(Video(path, options).frames())))


def test_a_hung_decoder_is_replaced_and_the_run_goes_on(videos, tmp_path: Path) -> None:
    """Reading an image that is a pipe without a writer never returns: a real hang."""
    (tmp_path / "hang").mkdir()
    os.mkfifo(tmp_path / "hang" / "1.png")
    work = [videos[0], ("hang", tmp_path / "hang"), *videos[1:]]
    with DecoderPool(work, OPTIONS, workers=2, deadline=2) as pool:
        events = list(pool)
        broken = [event for event in events if isinstance(event, Broken)]
        assert [event.again for event in broken] == [True, False]
        assert all(event.attempt.video == "hang" for event in broken)
        assert "made no progress for 2 s and was stopped" in broken[0].reason
        decoded = {event.attempt.video for event in events if isinstance(event, Decoded)}
        assert decoded == {video for video, _ in videos}


def test_a_crashed_decoder_is_replaced_and_its_video_tried_again(tmp_path: Path) -> None:
    video, path = long_video(tmp_path)
    expected = np.stack(list(Video(path, OPTIONS).frames()))
    parts: dict[object, list[np.ndarray]] = {}
    broken = []
    with DecoderPool([(video, path)], OPTIONS, workers=1, ring_frames=16) as pool:
        for event in pool:
            if isinstance(event, Opened) and event.attempt.number == 1:
                os.kill(pool._workers[0].process.process.pid, signal.SIGSEGV)
            if isinstance(event, Frames):
                parts.setdefault(event.attempt, []).append(event.images.copy())
            if isinstance(event, Broken):
                broken.append(event)
            if isinstance(event, Decoded):
                assert event.attempt.number == 2
                np.testing.assert_array_equal(np.concatenate(parts[event.attempt]), expected)
    assert [event.reason for event in broken] == ["the decoder crashed (SIGSEGV)"]


def test_a_decoder_never_runs_further_ahead_than_its_ring(tmp_path: Path) -> None:
    video, path = long_video(tmp_path)
    with DecoderPool([(video, path)], OPTIONS, workers=1, ring_frames=32) as pool:
        events = iter(pool)
        while not isinstance(next(events), Frames):
            pass
        time.sleep(1)  # the consumer sleeps; the decoder fills what room it has
        waiting = 0
        while pool._workers[0].process.pipe.poll():
            assert pool._workers[0].process.pipe.recv()[0] == "frames"
            waiting += SLOT_FRAMES
        assert waiting == 32 - SLOT_FRAMES


def test_a_pool_that_is_told_to_stop_ends_and_leaves_no_process(videos) -> None:
    stop: list[bool] = []
    with DecoderPool(videos, OPTIONS, workers=2, stopped=lambda: bool(stop)) as pool:
        for _ in pool:
            stop.append(True)
        processes = [worker.process.process.pid for worker in pool._workers]
        assert processes
    assert not any(map(alive, processes))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel kills orphans on Linux only")
def test_decoders_die_with_their_parent(tmp_path: Path) -> None:
    (tmp_path / "hang").mkdir()
    os.mkfifo(tmp_path / "hang" / "1.png")
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from extract.decode import FrameOptions\n"
        "from extract.pool import DecoderPool\n"
        "if __name__ == '__main__':\n"
        "    work = [('hang', Path(sys.argv[1]))]\n"
        "    with DecoderPool(work, FrameOptions(resize=8, crop=8), workers=1) as pool:\n"
        "        pool._feed()\n"
        "        pool._workers[0].process.pipe.recv()\n"
        "        print(pool._workers[0].process.process.pid, flush=True)\n"
        "        list(pool)\n"
    )
    command = [sys.executable, script, tmp_path / "hang"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.1)
    pytest.fail("the decoder outlived its parent")


class _Reds:
    """In place of a backbone: a frame's feature is its red value times 1,000."""

    batch, width, device, frames = 4, 1, torch.device("cpu"), OPTIONS
    config: ClassVar = {"backbone": "reds", "stored_dtype": "float16"}

    def staging(self) -> torch.Tensor:
        return torch.zeros((self.batch, 32, 32, 3), dtype=torch.uint8)

    def submit(self, frames: torch.Tensor) -> Callable[[], np.ndarray]:
        features_FD = frames[:, 0, 0, :1].float().numpy() * 1000
        return lambda: features_FD


class _Pool(list):
    """Events that are known before."""

    waited = 0.0


def _tries(*reds: int) -> _Pool:
    """A video whose decoder begins again after every try but the last; `reds` are those of the tries."""
    pool = _Pool()
    facts = VideoFacts(
        decoder="pyav",
        fps=25,
        width=32,
        height=32,
        container_frames=8,
        expected_frames=8,
        kept_frames=8,
    )
    for number, red in enumerate(reds):
        attempt = Attempt("a", Path("a.avi"), facts=facts, decoded_frames=8)
        attempt.source = SourceFacts(bytes=1, mtime_ns=1, sha256="0" * 64)
        frames = Frames(attempt, np.full((8, 32, 32, 3), red, np.uint8))
        last = number + 1 == len(reds)
        pool += [Opened(attempt), frames, Decoded(attempt) if last else Restarted(attempt)]
    return pool


@pytest.mark.parametrize(("second", "stored"), [(7, 1), (255, 0)])
def test_features_that_cannot_be_stored_count_when_the_decoder_is_at_its_end(
    tmp_path: Path, second: int, stored: int
) -> None:
    (tmp_path / "a.avi").touch()
    index = StoreIndex(tmp_path, "mine", _Reds.config, _Reds.width)
    session = Session(_Reds(), index, {"a": None}, Process(), {}, lambda progress: None)
    session.plan(VideoFolder([tmp_path]), 0)
    session.work(_tries(255, second))
    assert (session.videos_done, session.stored) == (1, stored)
    assert len(session.failures) == 1 - stored
    told = list(_Stream(_Reds(), np.arange).results(_tries(255, second)))
    assert [type(one) for one in told] == [Extracted if stored else Unreadable]
