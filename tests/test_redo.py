"""`extract --redo`: videos that are named, and those whose file is another one now."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_decoding import write
from test_reshape import plain, statuses

from store.format import shards_in


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
    assert kept.exit_code == 3 and "1 stored videos have another file now (first: b)" in kept.output
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
    assert "1 of 2 videos cannot be extracted again, so their features stay" in gone.output
    (tmp_path / "videos/twice").mkdir()
    shutil.copy(tmp_path / "videos/b.mp4", tmp_path / "videos/twice/b.mp4")
    assert "1 of 1 videos cannot be extracted again" in command("--redo", "b").output
    (tmp_path / "m/own/toy.csv").write_text("video,label,class,split,frames\na,0,c,train,\n")
    unlisted = command("--redo", "changed")
    assert "(first: changed): no benchmark lists it any more. Put" in unlisted.output
    assert plain(folder) == before and set(statuses(folder).values()) == {"ok"}
    empty = command("--redo", "")
    assert empty.exit_code == 2 and "the text is empty" in empty.output
