"""Taking videos out of a store: what is left, kills at any point, and `store prune`."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIG, make_store
from test_check import edit_rows, matrix, row
from test_concurrent import RUN, dead_process, fill, new_index, partial

from store import locks, moving, rewrite
from store.check import CHECKS, verify
from store.contents import Kind
from store.errors import StoreError
from store.format import read_index, shards_in
from store.index import StoreIndex
from store.read import FeatureStore
from store.records import VideoRecord


def three_shards(tmp_path: Path) -> StoreIndex:
    index = new_index(tmp_path)
    for number in range(3):
        fill(index.folder, number, {f"{number}{v}": matrix(number, 3) for v in "ab"})
    failed = {v: VideoRecord(video=v, status="failed", error="bad") for v in ("typo", "short")}
    index.write([f"{n}{v}" for n in range(3) for v in "ab"] + ["typo", "short"], failed, RUN)
    return index


def stored(folder: Path) -> dict[str, bytes]:
    with FeatureStore(folder) as reader:
        return {video: reader.read(video).tobytes() for video in reader.records}


def test_dropping_videos(tmp_path: Path) -> None:
    folder = three_shards(tmp_path).folder
    before = stored(folder)
    assert rewrite.drop_videos(folder, ["0a", "1a", "1b", "unknown", "typo"]) == 3
    assert [path.name for path in shards_in(folder)] == ["shard-00002.h5", "shard-50000.h5"]
    assert list(verify(folder, CHECKS)) == []
    assert stored(folder) == {v: before[v] for v in ("0b", "2a", "2b")}
    assert read_index(folder)["totals"]["listed"] == 4  # and "short", which failed
    assert rewrite.drop_videos(folder, ["0b"]) == 1
    assert read_index(folder)["totals"]["listed"] == 3
    assert [path.name for path in shards_in(folder)] == ["shard-00002.h5"]
    assert rewrite.drop_videos(folder, ["2a"]) == 1
    assert stored(folder) == {"2b": before["2b"]} and list(verify(folder, CHECKS)) == []


def test_a_drop_that_is_killed_at_any_point_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill_at(step: int) -> None:
        """Die before the file operation of that number."""
        done = iter(range(step + 1))

        def counted(original):
            def call(*arguments, **more):
                if next(done, None) is None:
                    raise Killed
                return original(*arguments, **more)

            return call

        for name in ("replace", "link", "truncate"):
            monkeypatch.setattr(os, name, counted(getattr(os, name)))
        monkeypatch.setattr(rewrite, "sync_folder", counted(rewrite.sync_folder))
        monkeypatch.setattr(moving.Mover, "write", counted(moving.Mover.write))

    for step in range(40):
        index = three_shards(tmp_path / str(step))
        folder, before = index.folder, stored(index.folder)
        kill_at(step)
        try:
            rewrite.drop_videos(folder, ["0a", "1b"])
            killed = False
        except Killed:
            killed = True
        finally:
            monkeypatch.undo()
        # What extract finds, and what a second attempt makes of it.
        again = StoreIndex(folder, "toy", CONFIG, 6)
        assert again.stored.keys() >= before.keys() - {"0a", "1b"}
        again.write([*before, "typo", "short"], {}, RUN)
        assert list(verify(folder, CHECKS)) == []
        rewrite.drop_videos(folder, ["0a", "1b"])
        assert stored(folder) == {v: x for v, x in before.items() if v not in ("0a", "1b")}
        assert list(verify(folder, CHECKS)) == []
        if not killed:
            break
    assert not killed and step > 8


def test_of_a_video_in_two_shards_the_higher_number_counts(tmp_path: Path) -> None:
    index = three_shards(tmp_path)
    fill(index.folder, 50_000, {"0b": matrix(0, 3)})
    index.write(list(index.stored), {}, RUN)
    with FeatureStore(index.folder) as reader:
        assert reader.records["0b"].shard == "shard-50000.h5"
        assert reader.index["shards"][0]["videos"] == 1
    assert list(verify(index.folder, CHECKS)) == []
    fill(index.folder, 50_001, {"0b": matrix(9, 3)})
    index.write(list(index.stored), {}, RUN)
    older = {
        f"{shard}: 0b is in it, and with newer features in shard-50001.h5"
        for shard in ("shard-00000.h5", "shard-50000.h5")
    }
    problems = list(verify(index.folder, CHECKS))
    assert {str(problem) for problem in problems} == older
    assert {problem.kind for problem in problems} == {Kind.REPLACED}
    with FeatureStore(index.folder) as reader:
        assert reader.read("0b").tobytes() == matrix(9, 3).astype(np.float16).tobytes()
    before = stored(index.folder)
    rewrite.drop_replaced(index.folder)
    assert list(verify(index.folder, CHECKS)) == [] and stored(index.folder) == before
    assert [path.name for path in shards_in(index.folder)] == [
        *("shard-00001.h5", "shard-00002.h5", "shard-50001.h5", "shard-50002.h5")
    ]
    names = [path.name for path in shards_in(index.folder)]
    rewrite.drop_replaced(index.folder)  # nothing is left to remove
    assert [path.name for path in shards_in(index.folder)] == names
    edit_rows(index.folder, lambda rows: rows.remove(row(rows, "0b")))
    found = [str(problem) for problem in verify(index.folder, CHECKS)]
    assert "shard-50001.h5: 0b is in it, though videos.csv does not say so" in found


def test_a_store_of_deep_ids_that_was_repacked_stays_as_it_is(tmp_path: Path) -> None:
    folder = three_shards(tmp_path).folder
    deep = {"/".join(f"{level}-{n}" for level in range(9)): matrix(n, 1) for n in range(30)}
    fill(folder, 50_000, deep)
    index = StoreIndex(folder, "toy", CONFIG, 6)
    index.write(list(index.stored), {}, RUN)
    rewrite.repack(folder)
    assert rewrite.repack(folder).moved == 0


def test_a_drop_is_refused_while_shards_are_filled(tmp_path: Path) -> None:
    folder = three_shards(tmp_path).folder
    living = partial(folder, locks.machine(), os.getppid(), "shard-00007.h5")
    with pytest.raises(StoreError, match=r"is filling 1 shard in .*Let it finish, or stop it"):
        rewrite.drop_videos(folder, ["0a"])
    living.unlink()
    partial(folder, locks.machine(), dead_process(), "shard-00007.h5")
    assert rewrite.drop_videos(folder, ["0a"]) == 1
    assert not list(folder.glob(".*"))


def test_a_drop_of_a_damaged_shard_changes_nothing(tmp_path: Path) -> None:
    folder = three_shards(tmp_path).folder
    shard = folder / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"shard-00000\.h5 is damaged: its sha256 is"):
        rewrite.drop_videos(folder, ["0a"])
    assert len(shards_in(folder)) == 3 and not list(folder.glob(".*"))


def test_failures_of_unlisted_videos_go(tmp_path: Path) -> None:
    index = three_shards(tmp_path)
    written, records = index.write([*index.stored, "short"], {}, RUN)
    assert "typo" not in records and records["short"].status == "failed"
    assert written["totals"]["failed"] == 1


def test_prune(tmp_path: Path, cli) -> None:
    folder = three_shards(tmp_path / "f").folder
    rows = "".join(f"{v},0,c,train,\n" for v in ("0a", "0b", "1a", "2a", "2b"))
    for benchmark in ("one", "two"):
        (tmp_path / "m" / benchmark).mkdir(parents=True)
        (tmp_path / "m" / benchmark / "toy.csv").write_text(
            "video,label,class,split,frames\n" + rows
        )
    before = hashlib.sha256((folder / "SHA256SUMS").read_bytes()).digest()
    prune = ("store", "prune", tmp_path / "f", "--manifests", tmp_path / "m")
    result = cli(*prune, "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"{folder}: 1 of 6 stored videos is listed nowhere (first: 1b)" in result.output
    assert hashlib.sha256((folder / "SHA256SUMS").read_bytes()).digest() == before
    result = cli(*prune)
    assert result.exit_code == 0, result.output
    assert f"{folder}: 1 of 6 stored videos was removed (first: 1b)" in result.output
    index = read_index(folder)
    assert index["complete"] is True and index["totals"]["listed"] == 5
    assert "0 of 5 stored videos were removed\n" in cli(*prune).output
    for benchmark in ("one", "two"):
        (tmp_path / "m" / benchmark / "toy.csv").write_text(
            "video,label,class,split,frames\nx,0,c,train,\n"
        )
    result = cli(*prune)
    assert result.exit_code == 1 and "None of the 5 videos stored in" in result.output
    assert len(json.loads((folder / "index.json").read_text())["shards"]) == 3


def test_prune_in_another_folder_than_the_benchmarks_removes_nothing(
    tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A built-in benchmark lists some of the videos, and one of the user's own, which is elsewhere, more."""
    own = "#437_How_To_Ride_A_Bike_ride_bike_f_cm_np1_ba_med_0"
    store = make_store(tmp_path / "features", "hmdb51", {v: np.ones((3, 4)) for v in (own, "mine")})
    before = (store / "SHA256SUMS").read_bytes()
    monkeypatch.chdir(tmp_path)
    for more in ((), ("--dry-run",), ("--manifests", "mistyped")):
        result = cli("store", "prune", "features", *more)
        assert result.exit_code == 1 and "is not there. Name it with --manifests" in result.output
        assert "1 of 2 videos stored in" in result.output and "(first: mine)" in result.output
    assert (store / "SHA256SUMS").read_bytes() == before
    (tmp_path / "manifests").mkdir()
    assert "1 of 2 stored videos was removed" in cli("store", "prune", "features").output
