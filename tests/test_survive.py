"""Extraction as real processes: killed, stopped, crowded, without space, and in parts.

Above 250 lines: all tests share the same extraction and what undisturbed it gives.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, alive, slow

from extract.synthetic import ACTIONS, make_collection
from store.check import CHECKS, verify
from store.format import shards_in
from store.locks import is_held
from store.read import FeatureStore
from store.records import VideoRecord
from store.shards import names_in, open_shard
from store.write import ShardWriter

PER_ACTION = 8
COUNT = PER_ACTION * len(ACTIONS)
RUNNER = """
import sys
import store.plan
from cli import main
if __name__ == "__main__":
    store.plan.SHARD_VIDEOS = 5
    main()
"""
WITHOUT_LOCKS = """
import fcntl
fcntl.flock = lambda *_: None  # as on NFS between machines, where each locks for itself
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small collections with manifests, and a script that runs the commands with small shards."""
    root = tmp_path_factory.mktemp("survive")
    for domain in ("day", "night"):
        make_collection(root / "videos" / domain, domain, per_action=PER_ACTION)
    (root / "run.py").write_text(RUNNER)
    (root / "unlocked.py").write_text(WITHOUT_LOCKS + RUNNER)
    made = subprocess.run(
        [
            *(sys.executable, REPOSITORY / "cli.py", "manifest", "from-folder"),
            *("--benchmark", "toy", "--manifests", root / "manifests"),
            *(f"--domain={domain}={root / 'videos' / domain}" for domain in ("day", "night")),
        ],
        capture_output=True,
    )
    assert made.returncode == 0, made.stderr
    return root


def command(root: Path, features: Path, *more: object, script: str = "run.py") -> list[str]:
    arguments = [
        *(root / script, "extract", "--dataset", "day", "--videos", root / "videos" / "day"),
        *("--manifests", root / "manifests", "--features", features, "--device", "cpu"),
        *("--backbone", "mobilenet_v3_small", "--weights", "random:0", "--precision", "float32"),
        *("--batch", 8, "--workers", 1, *more),
    ]
    return [str(argument) for argument in arguments]


def start(
    root: Path, features: Path, *more: object, script: str = "run.py"
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command(root, features, *more, script=script)],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(root: Path, features: Path, *more: object) -> str:
    with start(root, features, *more) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def contents(features: Path) -> dict[str, bytes]:
    [folder] = (features / "day").iterdir()
    with FeatureStore(folder) as store:
        assert store.index["complete"] is True
        return {video: store.read(video).tobytes() for video in store.records}


def check_whole(features: Path) -> None:
    [folder] = (features / "day").iterdir()
    assert list(verify(folder, CHECKS)) == []
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> dict[str, bytes]:
    features = root / "undisturbed"
    finish(root, features)
    check_whole(features)
    result = contents(features)
    assert len(result) == COUNT
    return result


def wait_for(path: Path, pattern: str, seconds: float = 120) -> None:
    begin = time.monotonic()
    while not list(path.glob(pattern)):
        assert time.monotonic() - begin < seconds, f"no {pattern} in {path}"
        time.sleep(0.01)


def check_kills(root: Path, features: Path, expected: dict[str, bytes], kills: int) -> None:
    """Kill at random moments after the work began; between kills no half shard has a final name."""
    moments = random.Random(kills)
    for _ in range(kills):
        with start(root, features) as process:
            if moments.random() < 0.8:  # else: while it still loads
                wait_until_working(process, features)
                time.sleep(moments.uniform(0, 0.6))
            else:
                time.sleep(moments.uniform(0.5, 3))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        for path in features.glob("day/*/shard-*.h5"):
            with open_shard(path) as file:
                assert all("record" in file[name].attrs for name in names_in(file))
    finish(root, features)
    check_whole(features)
    assert contents(features) == expected


def wait_until_working(process: subprocess.Popen[str], features: Path) -> None:
    """Until a shard is being filled, or the work is done."""
    begin = time.monotonic()
    while process.poll() is None and not list(features.glob("day/*/.shard-*.partial")):
        assert time.monotonic() - begin < 120
        time.sleep(0.005)


def stop_in_a_shard(process: subprocess.Popen[str], features: Path) -> None:
    """Stop a process, not end it, while it holds a shard, not just before it does or after that."""
    while True:
        wait_until_working(process, features)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        filled = features.glob("day/*/.shard-*.partial")
        if any(is_held(path) for path in filled) or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again(root: Path, undisturbed, tmp_path: Path) -> None:
    check_kills(root, tmp_path, undisturbed, kills=4)


@pytest.mark.slow
def test_killed_twenty_times_and_run_again(root: Path, undisturbed, tmp_path: Path) -> None:
    check_kills(root, tmp_path, undisturbed, kills=20)


def test_a_kill_costs_no_finished_shard(root: Path, undisturbed, tmp_path: Path) -> None:
    with start(root, tmp_path) as process:
        wait_for(tmp_path, "day/*/shard-00001.h5")
        process.kill()
        process.communicate()
    [folder] = (tmp_path / "day").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in shards_in(folder)}
    assert len(before) >= 2
    finish(root, tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in shards_in(folder)}
    assert before.items() <= after.items()
    assert contents(tmp_path) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, slow(signal.SIGTERM)])
def test_a_stop_keeps_what_is_complete(root: Path, undisturbed, tmp_path: Path, number) -> None:
    with start(root, tmp_path) as process:
        wait_for(tmp_path, "day/*/shard-00000.h5")
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert "Stopping: storing what is complete" in output
    assert "Stopped; what was complete is stored. Run the same command to go on." in output
    [folder] = (tmp_path / "day").iterdir()
    assert not list(folder.glob(".*"))
    with FeatureStore(folder) as store:
        assert 5 <= len(store.records) <= COUNT
        assert store.index["totals"]["pending"] == COUNT - len(store.records)
    finish(root, tmp_path)
    check_whole(tmp_path)
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
def test_two_in_one_folder(root: Path, undisturbed, tmp_path: Path) -> None:
    with start(root, tmp_path) as first:
        stop_in_a_shard(first, tmp_path)  # it holds its shard while the second one tries
        try:
            with start(root, tmp_path) as second:
                output, _ = second.communicate(timeout=120)
        finally:
            first.send_signal(signal.SIGCONT)
        assert second.returncode == 1, output
        assert "Another extraction is filling" in output and "what is finished is kept" in output
        assert "Traceback" not in output
        first.communicate(timeout=120)
    assert first.returncode == 0
    check_whole(tmp_path)
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_full_disk_says_so_and_a_rerun_completes(root: Path, undisturbed, tmp_path: Path) -> None:
    """In a file system of its own with room for some shards only."""
    script = (
        f"mount -t tmpfs -o size=400k tmpfs {tmp_path} && "
        '"$@"; code=$?; '
        f"mount -o remount,size=20m {tmp_path} && "
        f'"$@" && cp -r {tmp_path}/day {tmp_path}-kept; exit $code'
    )
    namespace = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*namespace, f"mount -t tmpfs tmpfs {tmp_path}"]).returncode:
        pytest.skip("this machine does not let a test mount a small file system")
    process = subprocess.run(
        [*namespace, script, "sh", sys.executable, *command(root, tmp_path)],
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
    )
    output = process.stdout + process.stderr
    assert process.returncode == 1, output
    assert "No space left on device. Finished shards are kept. Make room" in output
    assert "Traceback" not in output
    kept = tmp_path.with_name(f"{tmp_path.name}-kept")
    (tmp_path / "features").mkdir()
    kept.rename(tmp_path / "features" / "day")
    assert contents(tmp_path / "features") == undisturbed


@pytest.mark.slow
def test_a_folder_that_refuses_says_so(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for features in (tmp_path / "file" / "below", Path("/proc/features")):
        with start(root, features) as process:
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
        assert f"Cannot write {features}" in output and "Traceback" not in output


@pytest.mark.slow
def test_torchrun_shares_the_work(root: Path, undisturbed, tmp_path: Path) -> None:
    ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    process = subprocess.run(
        [*ranks, *command(root, tmp_path)], env=ENVIRONMENT, text=True, capture_output=True
    )
    assert process.returncode == 0, process.stderr
    assert "rank 0 of 2" in process.stderr and "rank 1 of 2" in process.stderr
    check_whole(tmp_path)
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [3, 1])
def test_where_locks_do_nothing(root: Path, undisturbed, tmp_path: Path, ranks: int) -> None:
    """Three ranks beside each other; and two processes that do all of the same work."""
    places = [("--rank", r, "--world", ranks) for r in range(ranks)] if ranks > 1 else [()] * 2
    processes = [start(root, tmp_path, *place, script="unlocked.py") for place in places]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs):
        # Who comes to a shard that has just been finished is told so, and nothing is lost.
        told = "has finished" in output and "what is finished is kept" in output.replace("\n", " ")
        assert process.returncode == 0 or (ranks == 1 and told), output
        assert "Traceback" not in output
    if ranks == 1:
        finish(root, tmp_path)
    check_whole(tmp_path)
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
def test_a_rank_that_was_killed_is_repaired_by_running_again(
    root: Path, undisturbed, tmp_path: Path
) -> None:
    finish(root, tmp_path, "--rank", 1, "--world", 2)
    [folder] = (tmp_path / "day").iterdir()
    with FeatureStore(folder) as store:
        assert 0 < len(store.records) < COUNT and store.index["complete"] is False
    with start(root, tmp_path, "--rank", 0, "--world", 2) as process:
        wait_until_working(process, tmp_path)
        process.kill()
        process.communicate()
    output = finish(root, tmp_path, "--rank", 0, "--world", 2)
    assert f"{COUNT} of {COUNT} listed videos are stored" in output
    check_whole(tmp_path)
    assert contents(tmp_path) == undisturbed


@pytest.mark.slow
def test_no_process_is_left_behind(root: Path, tmp_path: Path) -> None:
    with start(root, tmp_path) as process:
        wait_until_working(process, tmp_path)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.communicate()
    assert children
    time.sleep(1)
    assert not any(alive(int(child)) for child in children)


@pytest.mark.slow
def test_the_odd_files(clips: Path, tmp_path: Path, cli) -> None:
    """Eighty files from test suites of media libraries: each is stored or refused with a reason."""
    files = sorted(p for p in (clips / "odd").iterdir() if p.suffix not in (".csv", ".md"))
    for domain, (number, path) in itertools.product("ab", enumerate(files)):
        folder = tmp_path / domain / ("odd", "even")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    common = ["--manifests", tmp_path / "m"]
    made = cli(
        *("manifest", "from-folder", "--benchmark", "odd", *common),
        *(f"--domain={d}={tmp_path / d}" for d in "ab"),
    )
    assert made.exit_code == 0, made.output
    result = cli(
        *("extract", "--dataset", "a", "--videos", tmp_path / "a", *common),
        *("--features", tmp_path / "f", "--device", "cpu", "--frames-per-video", 3),
        *("--backbone", "mobilenet_v3_small", "--weights", "random:0", "--precision", "float32"),
    )
    assert result.exit_code == 3, result.output
    [folder] = (tmp_path / "f" / "a").iterdir()
    assert list(verify(folder, CHECKS)) == []
    with FeatureStore(folder) as store:
        failed = (folder / "failures.csv").read_text().splitlines()[1:]
        assert len(store.records) + len(failed) == len(files)
        # Without a video stream, without packets, encrypted, damaged (065) or no video at all.
        assert len(failed) == 23
        assert {record.decoder for record in store.records.values()} == {"decord", "pyav"}
    assert all("(tried twice)" in line for line in failed)


def test_shards_are_written_side_by_side_and_only_when_whole(tmp_path: Path) -> None:
    config = {"backbone": "fake"}
    rows = np.arange(12, dtype=np.float16).reshape(4, 3)
    with ShardWriter(tmp_path, 7, config) as writer:
        for video in ("a", "b", "c/d"):
            writer.begin(video, 4, 3)
        for part in (rows[:1], rows[1:]):
            writer.append("a", part)
            writer.append("c/d", part)
        writer.append("b", rows[:2])
        writer.complete(VideoRecord(video="a"))
        writer.complete(VideoRecord(video="c/d"))
        with pytest.raises(Exception, match="only 2 of the 4 frames that were announced came"):
            writer.complete(VideoRecord(video="b"))
    with open_shard(tmp_path / "shard-00007.h5") as file:
        assert set(file) == {"a", "c"}
        np.testing.assert_array_equal(file["c/d"][()], rows)
    with ShardWriter(tmp_path, 8, config) as writer:
        writer.begin("a", 4, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00007.h5"]


def test_verify_extracts_a_sample_again(root: Path, undisturbed, tmp_path: Path, cli) -> None:
    shutil.copytree(root / "undisturbed", tmp_path / "f")
    sample = ["store", "verify", tmp_path / "f", "--sample", 3, "--device", "cpu"]
    result = cli(*sample)
    assert result.exit_code == 2 and "name their folder with --videos" in result.output
    result = cli(*sample, "--videos", root / "videos" / "day")
    assert result.exit_code == 0, result.output
    # The batch has another size here than the run's, so float32 may round otherwise.
    found = re.search(
        r"3 extracted again \(3 by PyAV .*\): . equal to the byte, largest error (\S+) of",
        result.output,
    )
    assert found is not None and float(found[1]) < 1e-2, result.output
    result = cli(*sample, "--videos", root / "videos" / "day", "--weights", "random:1")
    assert result.exit_code == 1 and "were made otherwise: weights_sha256" in result.output
    result = cli(*sample, "--videos", root / "videos" / "night")
    assert result.exit_code == 1 and "source that is not the extracted one" in result.output
