"""`store merge`, `subset` and `repack`: every byte by a plain h5py loop, kills at any point, refusals."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CONFIG, make_store, slow
from test_check import matrix
from test_concurrent import RUN, fill, partial

from store import locks, moving, plan, rewrite
from store.check import CHECKS, verify
from store.errors import ConfigError, StoreError
from store.format import read_index, shards_in, store_folder
from store.index import StoreIndex
from store.merge import merge, subset
from store.read import FeatureStore
from store.records import VideoRecord


def plain(folder: Path) -> dict[str, bytes]:
    """Video -> bytes by nothing but index.json, videos.csv and h5py; every stored row exactly once."""
    names = {shard["file"] for shard in json.loads((folder / "index.json").read_text())["shards"]}
    found = {}
    with (folder / "videos.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] in ("ok", "damaged"):
                assert row["shard"] in names and row["video"] not in found
                with h5py.File(folder / row["shard"]) as shard:
                    assert json.loads(shard[row["video"]].attrs["record"])["shard"] == row["shard"]
                    found[row["video"]] = shard[row["video"]][()].tobytes()
    return found


def statuses(folder: Path) -> dict[str, str]:
    with (folder / "videos.csv").open(newline="") as file:
        rows = {row["video"]: row["status"] for row in csv.DictReader(file)}
    with (folder / "failures.csv").open(newline="") as file:
        failed = {row["video"]: row["status"] for row in csv.DictReader(file)}
    assert failed == {v: status for v, status in rows.items() if status != "ok"}
    return rows


def as_bytes(features: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {v: x.astype(np.float16).tobytes() for v, x in features.items()}


def store_of(
    root: Path, *shards: dict[str, np.ndarray], rows: dict[str, str] | None = None
) -> Path:
    """A store with these shards; `rows` are listed videos without features, with their status."""
    folder = store_folder(root, "toy", CONFIG)
    folder.mkdir(parents=True)
    for number, videos in enumerate(shards):
        fill(folder, number, videos)
    failures = {
        v: VideoRecord(video=v, status=s, error=f"{root.name} says {s}")
        for v, s in (rows or {}).items()
    }
    listed = [v for videos in shards for v in videos] + list(failures)
    StoreIndex(folder, "toy", CONFIG, 6).write(listed, failures, {**RUN, "device": root.name})
    return folder


def videos(names: str, first: int = 0) -> dict[str, np.ndarray]:
    return {name: matrix(first + i, 3 + i) for i, name in enumerate(names)}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_VIDEOS", 4)
    monkeypatch.setattr(rewrite, "SHARD_VIDEOS", 4)


def test_merge(tmp_path: Path, small_shards: None) -> None:
    every = videos("abcdefgh")
    mine = store_of(
        tmp_path / "mine",
        {v: every[v] for v in "abc"},
        rows={"g": "pending", "x": "missing", "y": "pending", "z": "failed"},
    )
    yours = store_of(
        tmp_path / "yours",
        {v: every[v] for v in "cde"},
        {v: every[v] for v in "fgh"},
        rows={"a": "failed", "x": "failed", "y": "missing", "z": "missing"},
    )
    before = snapshot(mine), snapshot(yours)
    done: list[moving.Moved] = []
    written = merge([mine, yours], tmp_path / "both", done.append)
    assert written.folder == store_folder(tmp_path / "both", "toy", CONFIG)
    assert (written.new, written.twice) == (8, 1)
    assert plain(written.folder) == as_bytes(every)
    assert statuses(written.folder) == {
        **dict.fromkeys(every, "ok"),
        **{v: "failed" for v in "xz"},
        "y": "missing",
    }
    with FeatureStore(written.folder) as store:
        assert store.absent["x"].error == "yours says failed"
        assert store.absent["z"].error == "mine says failed"
    assert [path.name for path in shards_in(written.folder)] == ["shard-00000.h5", "shard-00001.h5"]
    assert list(verify(written.folder, CHECKS)) == []
    assert (snapshot(mine), snapshot(yours)) == before
    assert [step.videos for step in done] == list(range(1, 9))
    assert done[-1].bytes == done[-1].of_bytes == sum(map(len, as_bytes(every).values()))
    run = read_index(written.folder)["run"]
    assert run["weights"] == "none" and [one["device"] for one in run["merged"]] == [
        "mine",
        "yours",
    ]
    assert merge([mine, yours], tmp_path / "both").new == 0  # again: nothing is left to do
    third = store_of(tmp_path / "third", videos("i", 70))
    again = merge([written.folder, third], tmp_path / "all")
    assert [one["device"] for one in again.index["run"]["merged"]] == ["mine", "yours", "third"]


def test_a_store_may_be_merged_into_one_of_its_sources(tmp_path: Path) -> None:
    every = videos("abcd")
    mine = store_of(tmp_path / "mine", {v: every[v] for v in "ab"}, rows={"c": "pending"})
    yours = store_of(tmp_path / "yours", {v: every[v] for v in "bcd"})
    shard = (mine / "shard-00000.h5").read_bytes()
    with FeatureStore(mine) as reader:
        assert merge([mine, yours], tmp_path / "mine").new == 2
        assert reader["a"].tobytes() == as_bytes(every)["a"]
    assert (mine / "shard-00000.h5").read_bytes() == shard
    assert [path.name for path in shards_in(mine)] == ["shard-00000.h5", "shard-50000.h5"]
    assert plain(mine) == as_bytes(every) and list(verify(mine, CHECKS)) == []
    assert read_index(mine)["complete"] is True


def test_merges_that_would_mix(tmp_path: Path) -> None:
    mine = store_of(tmp_path / "mine", videos("abc"))
    other = make_store(tmp_path / "b", "toy", videos("de", 8), {**CONFIG, "stride": 2, "crop": 9})
    with pytest.raises(StoreError, match=r"made differently \(crop: None or 9, stride: 1 or 2\)"):
        merge([mine, other], tmp_path / "out")
    foreign = make_store(tmp_path / "c", "night", videos("de", 8))
    with pytest.raises(StoreError, match=r"data set toy with width 6, .* of night with 6\. Only"):
        merge([mine, foreign], tmp_path / "out")
    unlike = store_of(tmp_path / "yours", {**videos("ab"), "c": matrix(9, 7), "b": matrix(9, 4)})
    with pytest.raises(StoreError) as caught:
        merge([mine, unlike], tmp_path / "out")
    assert str(caught.value).startswith(
        f"2 videos have other features in {unlike} than in {mine} (first: b: 4 "
    )
    assert f"store compare {mine} {unlike}. Then leave the wrong ones out: store subset" in str(
        caught.value
    )
    inside = store_of(tmp_path / "inside", {"a/x": matrix(3, 3)})
    with pytest.raises(StoreError, match=r"1 id of one store .* \(first: a is the folder of a/x\)"):
        merge([mine, inside], tmp_path / "out")
    composed = store_of(tmp_path / "composed", {"caf\u00e9": matrix(3, 3)})
    apart = store_of(tmp_path / "apart", {"cafe\u0301": matrix(3, 3)})
    with pytest.raises(StoreError, match=r"'cafe\\u0301' differs only by Unicode .* 'caf\\xe9'"):
        merge([composed, apart], tmp_path / "out")
    for same in ([mine], [mine, mine.parent / "." / mine.name]):
        with pytest.raises(ConfigError, match="Name two or more different stores"):
            merge(same, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    standing = store_of(tmp_path / "out", {"other": matrix(1, 2)})
    before = snapshot(standing)
    fine = store_of(tmp_path / "fine", videos("de", 8))
    with pytest.raises(
        StoreError, match=r"is another store: it has 1 video not belonging .*first: other"
    ):
        merge([mine, fine], tmp_path / "out")
    assert snapshot(standing) == before


class Killed(BaseException):
    pass


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Die before the file operation of that number; yields whether that happened."""
    done, killed = iter(range(step)), []

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if next(done, None) is None:
                killed.append(True)
                raise Killed
            return original(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "link", "truncate"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(rewrite, "sync_folder", counted(rewrite.sync_folder))
        patch.setattr(moving.Mover, "write", counted(moving.Mover.write))
        with suppress(Killed):
            yield lambda: bool(killed)


def found(folder: Path) -> dict[str, bytes]:
    """What a reader finds, also where a writer was killed between two tables."""
    with FeatureStore(folder) as store:
        return {video: store[video].tobytes() for video in store}


@pytest.mark.parametrize("in_place", [False, slow(True)])
def test_a_merge_that_is_killed_at_any_point_is_ended_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None, in_place: bool
) -> None:
    every = videos("abcdefghi")
    for step in range(60):
        root = tmp_path / str(step)
        mine = store_of(root / "mine", {v: every[v] for v in "abc"}, rows={"x": "failed"})
        yours = store_of(root / "yours", {v: every[v] for v in "cdefghi"})
        out = root / ("mine" if in_place else "out")
        with killed_at(step, monkeypatch) as was_killed:
            merge([mine, yours], out)
        assert (
            as_bytes(every).items()
            >= found(mine).items()
            >= as_bytes({v: every[v] for v in "abc"}).items()
        )
        assert plain(yours) == as_bytes({v: every[v] for v in "cdefghi"})
        folder = merge([mine, yours], out).folder
        assert plain(folder) == as_bytes(every) and statuses(folder)["x"] == "failed"
        assert list(verify(folder, CHECKS)) == []
        if not was_killed():
            break
    assert not was_killed() and step > 15


def test_a_merge_checks_what_it_copies(tmp_path: Path) -> None:
    mine, yours = (store_of(tmp_path / n, videos(n, i)) for i, n in enumerate("ab"))
    shard = yours / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"shard-00000\.h5 is damaged: its sha256 is"):
        merge([mine, yours], tmp_path / "out")
    folder = store_folder(tmp_path / "out", "toy", CONFIG)
    assert shards_in(folder) == [] and not list(folder.glob(".*"))


def test_nothing_is_moved_while_shards_are_filled(tmp_path: Path) -> None:
    mine, yours = (store_of(tmp_path / n, videos(n, i)) for i, n in enumerate("ab"))
    living = partial(mine, locks.machine(), os.getppid(), "shard-00007.h5")
    for command in (lambda: merge([mine, yours], tmp_path / "a"), lambda: rewrite.repack(mine)):
        with pytest.raises(StoreError, match=r"is filling 1 shard in .*Let it finish, or stop it"):
            command()
    living.unlink()
    assert merge([mine, yours], tmp_path / "a").new == 1


def test_subset(tmp_path: Path) -> None:
    every = videos("abcdef")
    whole = store_of(
        tmp_path / "whole",
        {v: every[v] for v in "abc"},
        {v: every[v] for v in "def"},
        rows={"x": "failed", "y": "missing"},
    )
    before = snapshot(whole)
    written = subset(whole, ["b", "f", "x"], tmp_path / "part")
    assert plain(written.folder) == as_bytes({v: every[v] for v in "bf"})
    assert statuses(written.folder) == {"b": "ok", "f": "ok", "x": "failed"}
    assert list(verify(written.folder, CHECKS)) == [] and snapshot(whole) == before
    assert read_index(written.folder)["run"] == read_index(whole)["run"]
    with pytest.raises(StoreError, match=r"is another store: it has 1 video .*\(first: f\)"):
        subset(whole, ["b", "x"], tmp_path / "part")
    with pytest.raises(StoreError, match="would be written over itself"):
        subset(whole, ["b"], tmp_path / "whole")
    with pytest.raises(
        StoreError,
        match=r"1 of 2 videos is not listed in .* \(first: bb\)\. Is one of these meant: b\? Correct",
    ):
        subset(whole, ["b", "bb"], tmp_path / "other")
    with pytest.raises(StoreError, match="has features of none of the 2 videos"):
        subset(whole, ["x", "y"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_why_a_video_was_not_pulled_goes_along(tmp_path: Path) -> None:
    folder = store_of(tmp_path / "part", videos("ab"))
    reason = "its shard was not pulled from s3://bucket/features/toy/fake-1a2b3c4d"
    left = VideoRecord(video="c", status="pending", error=reason)
    StoreIndex(folder, "toy", CONFIG, 6).write(["a", "b", "c"], {"c": left}, RUN)
    with FeatureStore(subset(folder, ["a", "c"], tmp_path / "new").folder) as store:
        assert store.absent["c"].error == reason


def test_the_commands(tmp_path: Path, cli) -> None:
    every = videos("abcdef")
    mine = store_of(tmp_path / "mine", {v: every[v] for v in "abc"}, rows={"d": "pending"})
    yours = store_of(tmp_path / "yours", {v: every[v] for v in "def"}, rows={"x": "failed"})
    result = cli("store", "merge", mine, yours, "--out", tmp_path / "f")
    assert result.exit_code == 0, result.output
    folder = store_folder(tmp_path / "f", "toy", CONFIG)
    assert f"{folder}: 6 of 7 listed videos are stored, 33 frames; 6 copied now\n" in result.output
    assert f"  1 failed: see {folder / 'failures.csv'}\n" in result.output
    assert "merge: 6/6, " in result.output and "0:00 left" in result.output
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0

    for name, ids in (("one", "abq"), ("two", "abcdef")):
        (tmp_path / "m" / name).mkdir(parents=True)
        rows = "".join(f"{v},0,c,train,\n" for v in ids)
        (tmp_path / "m" / name / "toy.csv").write_text("video,label,class,split,frames\n" + rows)
    cut = ("store", "subset", folder, "--manifests", tmp_path / "m", "--out")
    result = cli(*cut, tmp_path / "one", "--benchmark", "one")
    assert result.exit_code == 0, result.output
    one = store_folder(tmp_path / "one", "toy", CONFIG)
    assert plain(one) == as_bytes({v: every[v] for v in "ab"}) and statuses(one)["q"] == "pending"
    result = cli(*cut, tmp_path / "x", "--benchmark", "ucf-olympic")
    assert (
        result.exit_code == 1 and "lists videos of toy. Those that do: one, two." in result.output
    )
    for both in ((), ("--benchmark", "one", "--videos", tmp_path / "m/one/toy.csv")):
        result = cli(*cut, tmp_path / "x", *both)
        assert result.exit_code == 2 and "--benchmark NAME or --videos FILE, one" in result.output
    lists = {
        "plain": "b\n\ne.avi\n",
        "csv": '"video";label\r\nb;1\r\n"e";0\r\n',
        "bom": "\ufeffb\ne",
    }
    for name, text in lists.items():
        (tmp_path / name).write_bytes(text.encode())
        result = cli(*cut, tmp_path / f"by-{name}", "--videos", tmp_path / name)
        assert result.exit_code == 0, result.output
        by_list = store_folder(tmp_path / f"by-{name}", "toy", CONFIG)
        assert plain(by_list) == as_bytes({v: every[v] for v in "be"})
    result = cli(*cut, tmp_path / "again", "--videos", one / "videos.csv")
    assert result.exit_code == 1 and "1 of 3 videos is not listed in" in result.output
    assert "'q', " in result.output and "videos.csv, line 4" in result.output
    (tmp_path / "empty").write_text("\n")
    assert (
        "empty lists no videos." in cli(*cut, tmp_path / "y", "--videos", tmp_path / "empty").output
    )


def test_repack(tmp_path: Path, small_shards: None, cli) -> None:
    every = videos("abcdefghi")
    folder = store_of(
        tmp_path,
        *({v: every[v]} for v in "abc"),
        {v: every[v] for v in "defg"},
        {v: every[v] for v in "hi"},
        rows={"x": "failed"},
    )
    full = (folder / "shard-00003.h5").read_bytes()
    result = cli("store", "repack", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"{folder}: 3 videos moved, 5 shards are 3 now, " in result.output
    assert plain(folder) == as_bytes(every) and statuses(folder)["x"] == "failed"
    assert list(verify(folder, CHECKS)) == []
    assert (folder / "shard-00003.h5").read_bytes() == full  # what is as it should be stays
    before = snapshot(folder)
    assert "0 videos moved, 3 shards are 3 now" in cli("store", "repack", folder).output
    assert snapshot(folder) == before


def test_repack_leaves_no_dead_bytes(tmp_path: Path) -> None:
    folder = store_of(tmp_path, {})
    every = {v: matrix(i, 4000) for i, v in enumerate("abc")}
    from store.write import ShardWriter

    with ShardWriter(folder, 0, CONFIG) as writer:
        for video in "ab":
            writer.add(VideoRecord(video=video), every[video])
        writer.begin("broken", 20_000, 6)  # a file that is damaged at its end
        writer.append("broken", matrix(9, 100))
        writer.add(VideoRecord(video="c"), every["c"])
        writer.discard("broken")
    StoreIndex(folder, "toy", CONFIG, 6).write(list("abc"), {}, RUN)
    size = (folder / "shard-00000.h5").stat().st_size
    data = sum(map(len, as_bytes(every).values()))
    assert size > data + 200_000
    done = rewrite.repack(folder)
    assert done.moved == 3 and done.bytes[0] == size
    assert data < done.bytes[1] < data + 20_000
    assert plain(folder) == as_bytes(every) and list(verify(folder, CHECKS)) == []
    assert rewrite.repack(folder).moved == 0


@pytest.mark.slow
def test_a_repack_that_is_killed_at_any_point_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_shards: None
) -> None:
    every = videos("abcdef")
    for step in range(80):
        folder = store_of(
            tmp_path / str(step), *({v: every[v]} for v in every), rows={"x": "failed"}
        )
        reader = FeatureStore(folder)
        with killed_at(step, monkeypatch) as was_killed:
            rewrite.repack(folder)
        with reader:  # opened before, it finds everything all the same
            assert {v: reader[v].tobytes() for v in reader} == as_bytes(every)
        assert found(folder) == as_bytes(every)
        rewrite.repack(folder)
        assert plain(folder) == as_bytes(every) and statuses(folder)["x"] == "failed"
        assert list(verify(folder, CHECKS)) == [] and len(shards_in(folder)) == 2
        if not was_killed():
            break
    assert not was_killed() and step > 20
