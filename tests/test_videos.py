"""Which files below a folder are videos, and which of them an id means."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from conftest import REPOSITORY, touch

from extract.sources import images_in
from extract.videos import VideoFolder, find_videos, left_out_note, survey
from store.errors import ManifestError, printable

NFC, NFD = "caf\u00e9", "cafe\u0301"


def found(root: Path, kind: str = "videos") -> list[str]:
    return [str(path) for path in find_videos(root, kind)]


@pytest.mark.parametrize(
    "suffix",
    [
        *(
            "vob",
            "mxf",
            "dv",
            "h264",
            "264",
            "h265",
            "hevc",
            "265",
            "qt",
            "ogg",
            "ogm",
            "m2v",
            "mpe",
        ),
        *(
            "mpv",
            "mp4v",
            "f4v",
            "3g2",
            "rm",
            "rmvb",
            "wtv",
            "nut",
            "y4m",
            "ivf",
            "mjpg",
            "mjpeg",
            "obu",
        ),
        *("tod", "mod", "av1", "MP4", "TS"),
    ],
)
def test_many_suffixes_are_videos(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"walk/a.{suffix}")
    assert found(tmp_path) == [f"walk/a.{suffix}"]


def test_files_left_out_are_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.txt", "b.JSON", "poster.jpg", ".hidden.foo", "x/1.FOO", "x/2.foo")
    touch(tmp_path, "x/GX01")
    left_out = survey(tmp_path).left_out
    assert (
        left_out_note(left_out)
        == "3 files are left out for the suffix: .foo (2), none (1) (first: x/1.FOO)"
    )
    assert left_out_note({}) == ""
    folder = VideoFolder([tmp_path])
    assert folder.candidates("x/1") == []
    assert folder.why_missing("x/1") == (
        "there is only x/1.FOO, and files with this suffix are not read; convert it, for example with: "
        "ffmpeg -i IN OUT.mp4"
    )
    assert folder.why_missing("GX01").startswith("there is only x/GX01, and files")
    assert folder.why_missing("b") == "no video of that name"


def test_frames_have_other_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "v/1.jfif", "v/2.jpe", "w/1.heic", "u/clip.avi", "v/notes.txt")
    assert found(tmp_path, "frames") == ["v"]
    assert [path.name for path in images_in(tmp_path / "v")] == ["1.jfif", "2.jpe"]
    assert {s: len(p) for s, p in survey(tmp_path, "frames").left_out.items()} == {
        ".heic": 1,
        ".avi": 1,
    }


@pytest.mark.parametrize("kind", ["videos", "frames"])
def test_side_folders_are_skipped(tmp_path: Path, kind: str) -> None:
    name = "1.mp4" if kind == "videos" else "1.jpg"
    for folder in (
        *("@eaDir", ".thumbnails", "__MACOSX", "#recycle", "lost+found", "$RECYCLE.BIN"),
        *("System Volume Information", "@EADIR", "walk"),
    ):
        touch(tmp_path, f"{folder}/deep/{name}")
    assert found(tmp_path, kind) == [f"walk/deep/{name}" if kind == "videos" else "walk/deep"]


def test_nfc_and_nfd_are_one_name(tmp_path: Path) -> None:
    touch(tmp_path, f"{NFD}/{NFD}.mp4")
    folder = VideoFolder([tmp_path])
    for video in (NFC, NFD, f"{NFC}/{NFC}", f"{NFD}/{NFC}"):
        assert folder.candidates(video) == [(tmp_path, PurePosixPath(NFD, f"{NFD}.mp4"))]
    touch(tmp_path, f"{NFD}/{NFC}.mp4")
    folder = VideoFolder([tmp_path])
    assert len(folder.candidates(NFC)) == 2
    assert folder.why_missing(NFC).startswith("2 files could be meant: ")


def test_a_byte_that_is_not_utf8_disturbs_no_other_video(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    touch(tmp_path, "walk/a.mp4", f"{odd}/b.mp4", f"walk/{odd}.mp4")
    folder = VideoFolder([tmp_path, tmp_path / odd])
    assert len(folder) == 4
    assert len(folder.candidates("b")) == len(folder.candidates("a")) == 1
    assert str(folder).endswith("caf\\xe9") and printable(odd) == "caf\\xe9"


def test_names_are_utf8_whatever_the_locale_is(tmp_path: Path) -> None:
    touch(tmp_path, f"walk/{NFD}.mp4")
    code = (
        "import sys, pathlib; from extract.videos import VideoFolder; "
        f"print(len(VideoFolder([pathlib.Path(sys.argv[1])]).candidates({NFC!a})))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        **dict(cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True),
    )
    assert result.stdout.strip() == "1"


def test_a_folder_that_cannot_be_read_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "run/a.mp4", "walk/b.mp4")
    real = os.scandir

    def scandir(path: Path):
        if Path(path).name == "walk":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ManifestError, match=r"/walk cannot be read \(Permission denied\), and its"):
        find_videos(tmp_path)


def test_real_folders_win_over_links_to_them(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "walk/deep/b.mp4")
    (tmp_path / "a-link").symlink_to(tmp_path / "walk")
    (tmp_path / "b-link").symlink_to(tmp_path / "walk" / "deep")
    assert found(tmp_path) == ["walk/a.mp4", "walk/deep/b.mp4"]
    assert set(survey(tmp_path).skipped_links) == {PurePosixPath("a-link"), PurePosixPath("b-link")}
    folder = VideoFolder([tmp_path])
    assert len(folder.candidates("walk/a")) == 1
    assert (
        folder.why_missing("a-link/a")
        == f"a-link is a link to {tmp_path / 'walk'}, whose videos have the names that they have there"
    )


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "disk/walk/a.mp4", "other/run/b.mp4")
    root = tmp_path / "root"
    root.mkdir()
    (root / "walk").symlink_to(tmp_path / "disk" / "walk")
    (tmp_path / "disk" / "walk" / "more").symlink_to(tmp_path / "other")
    assert found(root) == ["walk/a.mp4", "walk/more/run/b.mp4"]


@pytest.mark.parametrize(
    "loop",
    [
        lambda root: (root / "walk" / "up").symlink_to(root),
        lambda root: (root / "walk" / "far").symlink_to(root.parent.parent),
        lambda root: (root / "self").symlink_to(root / "self"),
        lambda root: (root / "broken").symlink_to(root / "nothing"),
    ],
)
def test_loops_end(tmp_path: Path, loop: Callable[[Path], None]) -> None:
    root = touch(tmp_path / "root", "walk/a.mp4")
    touch(tmp_path, "beside/b.mp4")
    loop(root)
    assert found(root) == ["walk/a.mp4"]


@pytest.mark.parametrize("target", ["disk", "disk/inside"])
def test_two_links_into_one_folder_are_refused(tmp_path: Path, target: str) -> None:
    touch(tmp_path, "disk/inside/a.mp4", "disk-other/b.mp4")
    root = touch(tmp_path / "root", "run/c.mp4")
    (root / "walk").symlink_to(tmp_path / "disk")
    (root / "other").symlink_to(tmp_path / "disk-other")
    (root / "stroll").symlink_to(tmp_path / target)
    with pytest.raises(ManifestError, match=r"walk and stroll|stroll and walk") as error:
        find_videos(root)
    assert "are links into one folder" in str(error.value)
    assert str(error.value).endswith("Remove one of the links.")


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none is not a folder. Put the videos there or name"):
        find_videos(tmp_path / "none")
