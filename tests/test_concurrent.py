"""Several processes in one store: temporary names, locks that may do nothing, readers beside writers.

Above 250 lines: all tests share the processes that write side by side.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIG, REPOSITORY, make_store
from test_check import matrix

from store import locks, read, rewrite
from store import tables as indexing
from store.check import CHECKS, verify
from store.contents import Kind
from store.errors import StoreError, UnknownVideoError
from store.files import write_text
from store.format import read_index, store_folder
from store.index import StoreIndex
from store.inventory import summarise
from store.read import FeatureStore
from store.records import VideoRecord
from store.write import ShardWriter, claiming

RUN = {"weights": "none"}


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def partial(folder: Path, machine: str, process: int, name: str = "shard-00000.h5") -> Path:
    path = folder / f".{name}.{machine}.{process}.0123abcd.partial"
    path.write_bytes(b"half")
    return path


def fill(folder: Path, number: int, videos: dict[str, np.ndarray]) -> None:
    with ShardWriter(folder, number, CONFIG) as writer:
        for video, features in videos.items():
            writer.add(VideoRecord(video=video), features)


def new_index(tmp_path: Path) -> StoreIndex:
    folder = store_folder(tmp_path, "toy", CONFIG)
    folder.mkdir(parents=True)
    return StoreIndex(folder, "toy", CONFIG, 6)


def test_only_what_is_certainly_dead_is_removed(tmp_path: Path) -> None:
    here, other = locks.machine(), "0" * 8
    day_old = time.time() - locks.STALE_SECONDS - 60
    dead = partial(tmp_path, here, dead_process())
    own_but_unknown = partial(tmp_path, here, os.getpid())  # an earlier process of that number
    old_elsewhere = partial(tmp_path, other, 1, "videos.csv")
    old_unknown = tmp_path / ".shard-00001.h5.partial"
    old_unknown.touch()
    living = partial(tmp_path, here, os.getppid())
    os.utime(living, (day_old, day_old))  # a stopped process is not a dead one
    fresh_elsewhere = partial(tmp_path, other, 1)
    fresh_unknown = tmp_path / ".shard-00002.h5.partial"
    fresh_unknown.touch()
    for path in (old_elsewhere, old_unknown):
        os.utime(path, (day_old, day_old))
    locks.remove_leftovers(tmp_path)
    gone = (dead, own_but_unknown, old_elsewhere, old_unknown)
    assert not [path for path in gone if path.exists()]
    assert set(tmp_path.iterdir()) == {living, fresh_elsewhere, fresh_unknown}
    assert set(locks.writers(tmp_path)) == {living.name, fresh_elsewhere.name}


def test_what_is_locked_is_not_removed_though_its_process_is_gone(tmp_path: Path) -> None:
    """A decoder that inherited the file, or a process in a container that shares our name."""
    path = partial(tmp_path, locks.machine(), dead_process())
    with path.open("r+b") as file:
        locks.lock(file.fileno(), wait=False)
        locks.remove_leftovers(tmp_path)
        assert path.exists()
    locks.remove_leftovers(tmp_path)
    assert not path.exists()


def test_the_lock_of_a_folder_is_a_file_that_goes(tmp_path: Path) -> None:
    with locks.folder_lock(tmp_path, wait=True) as mine:
        assert mine and locks.writers(tmp_path) == [".lock"]
        with locks.folder_lock(tmp_path, wait=False) as second:
            assert not second
        (tmp_path / ".lock").unlink()  # somebody cleaned up: the next holder has another file
        with locks.folder_lock(tmp_path, wait=False) as second:
            assert second
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".lock").touch()  # of a killed process
    with locks.folder_lock(tmp_path, wait=False) as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_two_claims_of_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = tmp_path / "shard-00003.h5"
    with claiming(shard) as mine:
        mine.write_bytes(b"x")
        with pytest.raises(StoreError, match=r"Another extraction is filling .*shard-00003\.h5"):
            claiming(shard).__enter__()
        with claiming(tmp_path / "shard-00004.h5"):
            pass
    shard.touch()
    with pytest.raises(StoreError, match=r"has finished .*shard-00003\.h5 in the meantime"):
        claiming(shard).__enter__()
    assert list(tmp_path.iterdir()) == [shard]


@pytest.mark.parametrize("links", [True, False])
def test_a_shard_that_another_process_finished_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, links: bool
) -> None:
    monkeypatch.setattr(locks.fcntl, "flock", lambda *_: None)
    if not links:

        def refused(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", refused)
    with caplog.at_level(logging.WARNING), ShardWriter(tmp_path, 0, CONFIG) as slow:
        slow.add(VideoRecord(video="a"), matrix(0, 3))
        slow.add(VideoRecord(video="b"), matrix(1, 3))
        fill(tmp_path, 0, {"a": matrix(0, 3)})
        kept = (tmp_path / "shard-00000.h5").read_bytes()
    assert (tmp_path / "shard-00000.h5").read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.h5"]
    assert "its shard is kept, with 1 of 2 videos of ours. Run again for the others." in caplog.text


WRITER = """
import fcntl, random, sys, time
fcntl.flock = lambda *_: None
from pathlib import Path
import numpy as np
from store.records import VideoRecord
from store.index import StoreIndex
from store.write import ShardWriter
folder, rank, world, count = Path(sys.argv[1]), *map(int, sys.argv[2:])
config = {"backbone": "fake", "weights_sha256": "0" * 64, "stride": 1}
listed = [f"v{i}" for i in range(2 * count)]
index, failures = StoreIndex(folder, "toy", config, 6), {}
for number in range(rank, count, world):
    with ShardWriter(folder, number, config) as writer:
        writer.add(VideoRecord(video=f"v{number}"), np.full((3, 6), number))
    bad = f"v{count + number}"
    failures[bad] = VideoRecord(video=bad, status="failed", error=f"rank {rank}")
    index.write(listed, failures, {"weights": "none"})
    time.sleep(random.uniform(0, 0.05))
"""


def start_writers(folder: Path, world: int, count: int) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, *map(str, (folder, rank, world, count))],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def finish_writers(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and not errors, errors


def test_without_locks_no_shard_and_no_failure_is_lost(tmp_path: Path) -> None:
    folder = new_index(tmp_path).folder
    finish_writers(start_writers(folder, world=4, count=32))
    assert not list(folder.glob(".*"))
    assert list(verify(folder, CHECKS)) == []
    totals = read_index(folder)["totals"]
    assert (totals["stored"], totals["failed"], totals["pending"]) == (32, 32, 0)


@pytest.mark.slow
def test_readers_beside_writers_see_one_state(tmp_path: Path) -> None:
    folder = new_index(tmp_path).folder
    processes = start_writers(folder, world=2, count=80)
    opened = verified = 0
    while not (folder / "index.json").exists():
        time.sleep(0.01)
    while any(process.poll() is None for process in processes):
        with FeatureStore(folder) as reader:
            for video in list(reader.records)[-2:]:
                assert reader.read(video).shape == (3, 6)
        opened += 1
        assert "damaged" not in summarise(folder).state
        if opened % 4 == 0:
            problems = [p for p in verify(folder, CHECKS) if p.kind is not Kind.WRITING]
            assert problems == []
            verified += 1
    finish_writers(processes)
    assert opened >= 5 and verified >= 1  # how many, depends on what else the machine does
    assert list(verify(folder, CHECKS)) == []
    print(f"\n{opened} opened, {verified} verified")


def test_verify_says_that_an_extraction_is_writing_and_still_finds_damage(tmp_path: Path) -> None:
    index = new_index(tmp_path)
    fill(index.folder, 0, {"a": matrix(0, 3)})
    index.write(["a", "b"], {}, RUN)
    living = partial(index.folder, locks.machine(), os.getppid(), "shard-00001.h5")
    assert list(verify(index.folder, CHECKS)) == []  # what is filled now is no leftover
    fill(index.folder, 1, {"b": matrix(1, 3)})  # finished, and not yet in the index
    problems = list(verify(index.folder, CHECKS))
    assert [str(p) for p in problems] == [
        f"{index.folder.name}: its files did not fit each other in any look"
    ]
    assert problems[0].kind.label == "extraction in progress"
    (index.folder / "shard-00000.h5").write_bytes(b"x")
    assert {p.kind for p in verify(index.folder, CHECKS)} == {Kind.SHARD, Kind.WRITING}
    living.unlink()
    kinds = {p.kind for p in verify(index.folder, CHECKS)}
    assert kinds == {Kind.SHARD, Kind.CONTRADICTION}


def test_a_writer_killed_between_the_tables_and_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = new_index(tmp_path)
    fill(index.folder, 0, {"a": matrix(0, 3), "b": matrix(1, 4)})
    index.write(["a", "b", "c"], {}, RUN)
    fill(index.folder, 1, {"c": matrix(2, 5)})

    class Killed(BaseException):
        pass

    def killed(path: Path, text: str) -> None:
        if path.name == "index.json":
            raise Killed
        write_text(path, text)

    monkeypatch.setattr(indexing, "write_text", killed)
    with pytest.raises(Killed):
        index.write(["a", "b", "c"], {}, RUN)
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING), FeatureStore(index.folder) as reader:
        assert set(reader.records) == {"a", "b"}  # what the index names, no more
        assert reader.read("b").shape == (4, 6)
        with pytest.raises(
            UnknownVideoError, match=r"c: pending \(its shard is not in index\.json yet"
        ):
            reader.read("c")
    assert "index.json and videos.csv are not of one state" in caplog.text
    assert "Run extract again" in caplog.text
    (index.folder / "shard-00000.h5").unlink()
    with pytest.raises(StoreError, match=r"videos\.csv is damaged: it is not the one that index"):
        FeatureStore(index.folder)


def test_a_reader_waits_for_a_writer_that_is_between_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_store(tmp_path, "toy", {"a": matrix(0, 3)})
    table, waits = (folder / "videos.csv").read_bytes(), []
    (folder / "videos.csv").write_bytes(table.replace(b"ok", b"ok "))

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            (folder / "videos.csv").write_bytes(table)

    monkeypatch.setattr(read.time, "sleep", wait)
    with FeatureStore(folder) as reader:
        assert set(reader.records) == {"a"}
    assert len(waits) == 3


def test_a_reader_follows_a_store_that_is_rewritten(tmp_path: Path) -> None:
    folder = make_store(tmp_path, "toy", {v: matrix(i, 3) for i, v in enumerate("abc")})
    with FeatureStore(folder) as reader:
        rewrite.drop_videos(folder, ["b"])
        assert not (folder / "shard-00000.h5").exists()
        np.testing.assert_array_equal(reader.read("a"), matrix(0, 3).astype(np.float16))
        assert reader.records["a"].shard == "shard-50000.h5" and "b" not in reader
    with FeatureStore(folder) as reader:
        rewrite.drop_videos(folder, ["c"])
        with pytest.raises(StoreError, match="c has other features now, or none"):
            reader.read("c")
    with FeatureStore(folder) as reader:  # another extraction of the same id
        rewrite.drop_videos(folder, ["a"])
        fill(folder, 0, {"a": matrix(7, 3)})
        StoreIndex(folder, "toy", CONFIG, 6).write(["a"], {}, RUN)
        with pytest.raises(StoreError, match=r"changed by another command .* a has other features"):
            reader.read("a")


def test_a_shard_that_was_made_again_is_not_called_damaged(tmp_path: Path) -> None:
    """Of the same name and size; the advice to delete it would lose what is sound."""
    folder = make_store(tmp_path, "toy", {"a": matrix(0, 3)})
    readers = [FeatureStore(folder) for _ in range(2)]
    (folder / "shard-00000.h5").unlink()
    fill(folder, 0, {"a": matrix(7, 3)})
    StoreIndex(folder, "toy", CONFIG, 6).write(["a"], {}, RUN)
    for look in (lambda: readers[0].read("a"), lambda: readers[1].check_shards(["a"])):
        with pytest.raises(StoreError, match="was changed by another command while it was read"):
            look()
    with FeatureStore(folder) as reader:
        np.testing.assert_array_equal(reader.read("a"), matrix(7, 3).astype(np.float16))


def test_no_reader_ever_misses_a_shard_of_a_store_that_is_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment at which a shard is removed, an older reader finds all videos that stay."""
    folder = make_store(tmp_path, "toy", {v: matrix(i, 3) for i, v in enumerate("abc")})
    readers, unlink, looked = [FeatureStore(folder)], Path.unlink, []

    def look(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.name.startswith("shard-"):
            for reader in readers:
                looked.append(reader["a"])
                reader.close()

    monkeypatch.setattr(Path, "unlink", look)
    rewrite.drop_videos(folder, ["b"])
    assert len(looked) == 1
