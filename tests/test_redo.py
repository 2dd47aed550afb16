"""`extract --redo`: videos that are named, and those whose file is another one now."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import slow
from test_decoding import write
from test_reshape import plain, statuses

from extract import run, session
from store import rewrite
from store.check import CHECKS, verify
from store.contents import Kind
from store.errors import StoreError
from store.format import read_records, shards_in
from store.records import VideoRecord
from store.write import ShardWriter


@pytest.fixture
def command(tmp_path: Path, cli):
    """Three videos, one of which is called as the word for changed files once was; all are stored."""
    for name in ("a", "b", "changed"):
        (tmp_path / "videos").mkdir(exist_ok=True)
        write(tmp_path / "videos" / f"{name}.mp4", gop=10 + len(name))
    (tmp_path / "m/own").mkdir(parents=True)
    rows = "".join(f"{v},0,c,train,\n" for v in ("a", "b", "changed"))
    (tmp_path / "m/own/toy.csv").write_text("video,label,class,split,frames\n" + rows)

    def run(*more: object):
        return cli(
            *("extract", "--dataset", "toy", "--videos", tmp_path / "videos"),
            *("--features", tmp_path / "f", "--manifests", tmp_path / "m", "--workers", 1),
            *("--backbone", "mobilenet_v3_small", "--weights", "random:0"),
            *("--device", "cpu", "--precision", "float32", *more),
        )

    first = run()
    assert first.exit_code == 0, first.output
    return run


def test_named_videos_are_extracted_again(tmp_path: Path, command, cli) -> None:
    [folder] = (tmp_path / "f/toy").iterdir()
    before = plain(folder)
    again = command("--redo", "a", "--redo", "changed")
    assert again.exit_code == 0 and "in this run: 2 stored, 0 failed" in again.output, again.output
    assert plain(folder) == before and len(shards_in(folder)) == 2
    assert "in this run: 0 stored" in command("--redo").output  # no file is another one
    assert cli("store", "repack", folder).exit_code == 0
    assert plain(folder) == before and len(shards_in(folder)) == 1
    write(tmp_path / "videos/b.mp4", count=30, gop=30)
    kept = command("--redo", "a")  # what is not named stays, and is said
    assert kept.exit_code == 3 and "1 stored video has another file now (first: b)" in kept.output
    assert plain(folder) == before
    both = command("--redo", "a", "--redo")
    assert both.exit_code == 0 and "in this run: 2 stored" in both.output
    assert plain(folder)["a"] == before["a"] and plain(folder)["b"] != before["b"]


def test_what_could_only_be_lost_is_refused(tmp_path: Path, command) -> None:
    [folder] = (tmp_path / "f/toy").iterdir()
    before = plain(folder)
    typo = command("--redo", "chnged")
    assert typo.exit_code == 1
    assert "(first: chnged). Is one of these meant: changed?" in typo.output
    (tmp_path / "videos/a.mp4").unlink()
    gone = command("--redo", "a", "--redo", "b")
    assert gone.exit_code == 1
    assert "1 of 2 videos cannot be extracted again, so the features stay" in gone.output
    (tmp_path / "videos/twice").mkdir()
    shutil.copy(tmp_path / "videos/b.mp4", tmp_path / "videos/twice/b.mp4")
    assert "1 of 1 video cannot be extracted again" in command("--redo", "b").output
    (tmp_path / "m/own/toy.csv").write_text("video,label,class,split,frames\na,0,c,train,\n")
    unlisted = command("--redo", "changed")
    assert "(first: changed): no benchmark lists it any more. Put" in unlisted.output
    assert plain(folder) == before and set(statuses(folder).values()) == {"ok"}
    empty = command("--redo", "")
    assert empty.exit_code == 2 and "the text is empty" in empty.output


def record_of(folder: Path, video: str) -> VideoRecord:
    """A video's row, wherever its features lie."""
    [row] = [row for row in read_records(folder / "videos.csv") if row.video == video]
    return replace(row, shard="")


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def cut(path: Path) -> None:
    """The first half, which begins like a video."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(("damage", "named"), [(garbage, True), (cut, False)])
def test_a_file_that_can_no_longer_be_decoded_keeps_its_old_features(
    tmp_path: Path, command, cli, damage, named: bool
) -> None:
    [folder] = (tmp_path / "f/toy").iterdir()
    before, row = plain(folder), record_of(folder, "a")
    damage(tmp_path / "videos/a.mp4")
    redo = ("--redo", "a", "--redo", "b") if named else ("--redo",)
    found = command(*redo)
    assert found.exit_code == 3, found.output
    said = " ".join(found.output.split())
    assert (
        "1 video could not be extracted again, so the old features stay as they were (first: a)"
        in said
    )
    assert "a.mp4: " in said.partition("stay as they were")[2]
    assert f"in this run: {int(named)} stored, 1 failed" in said
    assert "another file now" not in said and "3 of 3 listed videos are stored" in said
    assert plain(folder) == before and set(statuses(folder).values()) == {"ok"}
    assert record_of(folder, "a") == row
    assert cli("store", "verify", folder).exit_code == 0
    assert command().exit_code == 3  # the file is still another one, and is named
    write(tmp_path / "videos/a.mp4", gop=11)
    assert command("--redo", "a").exit_code == 0
    assert plain(folder) == before


def test_whole_features_do_not_give_way_to_damaged_ones(tmp_path: Path, command) -> None:
    """Also where --keep-damaged stores what is whole of a file for the first time."""
    [folder] = (tmp_path / "f/toy").iterdir()
    before = plain(folder)
    path = tmp_path / "videos/a.mp4"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    shutil.copy(path, tmp_path / "videos/new.mp4")
    with (tmp_path / "m/own/toy.csv").open("a") as file:
        file.write("new,0,c,train,\n")
    found = command("--redo", "a", "--keep-damaged")
    assert found.exit_code == 3 and "1 video could not be extracted again" in found.output, (
        found.output
    )
    assert statuses(folder) == {"a": "ok", "b": "ok", "changed": "ok", "new": "damaged"}
    assert {v: x for v, x in plain(folder).items() if v != "new"} == before
    again = command("--redo", "new", "--keep-damaged")  # damaged features may be made again
    assert "in this run: 1 stored, 0 failed" in again.output


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "moment",
    [
        slow("before the shard"),
        "before the index",
        slow("before the old ones go"),
    ],
)
def test_a_kill_at_any_moment_leaves_the_old_features_or_the_new(
    tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    [folder] = (tmp_path / "f/toy").iterdir()
    before = plain(folder)
    write(tmp_path / "videos/a.mp4", count=30, gop=30)

    def kill(*_: object, **__: object) -> None:
        raise Killed

    place = {
        "before the shard": (ShardWriter, "_put_in_place"),
        "before the index": (session.StoreIndex, "write"),
        "before the old ones go": (run, "drop_replaced"),
    }[moment]
    with monkeypatch.context() as patched:
        patched.setattr(*place, kill)
        with pytest.raises(Killed):
            raise command("--redo").exception or AssertionError
    seen = plain(folder)
    assert seen.keys() == before.keys() and {v: seen[v] for v in ("b", "changed")} == {
        v: before[v] for v in ("b", "changed")
    }
    assert (seen["a"] == before["a"]) is (moment != "before the old ones go")
    kinds = {problem.kind for problem in verify(folder, CHECKS)}
    assert Kind.SHARD not in kinds
    assert (kinds == {Kind.REPLACED}) is (moment == "before the old ones go")
    again = command("--redo")
    assert again.exit_code == 0, again.output
    after = plain(folder)
    assert len(after["a"]) != len(before["a"]) and after.keys() == before.keys()
    assert list(verify(folder, CHECKS)) == []


def test_old_features_that_cannot_be_removed_are_said(
    tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    [folder] = (tmp_path / "f/toy").iterdir()

    def refuse(folder: Path) -> None:
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(run, "drop_replaced", refuse)
        found = command("--redo", "a")
    assert found.exit_code == 0
    said = "The new features count, and the old ones still take room: The disk is full."
    assert said in found.output and f"store repack {folder}" in found.output


def test_a_rewrite_meanwhile_that_makes_the_old_features_count_is_said(
    tmp_path: Path, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another command may move the old features to a higher number before the new shard is begun."""
    [folder] = (tmp_path / "f/toy").iterdir()
    work = session.Session.work

    def first_moved(self, pool) -> None:
        monkeypatch.setattr(rewrite, "next_number", lambda folder: 60_000)
        rewrite.drop_videos(folder, ["b"])
        work(self, pool)

    monkeypatch.setattr(session.Session, "work", first_moved)
    found = command("--redo", "a")
    assert found.exit_code == 1
    said = " ".join(found.output.split())
    assert (
        "so the old features of 1 video still count (first: a). Run the same command again." in said
    )


def test_a_shard_number_of_six_digits_is_refused(tmp_path: Path) -> None:
    config = {"backbone": "fake", "weights_sha256": "0" * 64, "stride": 1}
    with ShardWriter(tmp_path, 99_999, config) as writer:
        writer.add(VideoRecord(video="v"), np.zeros((2, 3), np.float16))
    with pytest.raises(StoreError, match="no shard number is left"):
        ShardWriter(tmp_path, 100_000, config)
