"""`manifest from-folder --unlabelled`: a pile of videos without class folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import fill, touch

from extract.from_folders import from_folders
from extract.videos import VideoFolder
from store.errors import ManifestError
from store.manifest import Video, read_manifest


@pytest.fixture
def studio(tmp_path: Path) -> Path:
    return fill(tmp_path / "studio", "run", "walk")


def make(cli, root: Path, *more: object, benchmark: str = "mine"):
    places = ("--benchmark", benchmark, "--manifests", root / "manifests")
    return cli("manifest", "from-folder", *places, *more)


def test_the_command(cli, tmp_path: Path, studio: Path) -> None:
    phone = touch(tmp_path / "phone", "b.mp4", "2024/trip 1/a.mov", "x.txt", "y.xyz", "run/c.mp4")
    made = make(cli, tmp_path, f"--unlabelled=phone={phone}", f"--domain=studio={studio}")
    assert made.exit_code == 0, made.output
    path = tmp_path / "manifests" / "mine" / "phone.csv"
    assert path.read_text() == (
        "video,label,class,split,frames\n2024/trip 1/a,,,both,\nb,,,both,\nrun/c,,,both,\n"
    )
    assert f"{path}: 3 videos, which all train and are all predicted, no labels\n" in made.output
    assert "  1 file is left out for the suffix: .xyz (1) (first: y.xyz)" in made.output
    assert "classes: run, walk\n" in made.output
    assert f"extract --dataset phone --videos {phone}" in made.output
    assert "adapt --source studio --target phone" in made.output


def test_a_single_video_and_a_folder_without_any(cli, tmp_path: Path, studio: Path) -> None:
    phone = touch(tmp_path / "phone", "one.mp4")
    made = make(cli, tmp_path, f"--domain=studio={studio}", f"--unlabelled=phone={phone}")
    assert made.exit_code == 0 and "1 video, which trains and is predicted" in made.output
    empty = touch(tmp_path / "empty", "one.txt", "two.xyz")
    for folder, message in (
        (empty, "There is no video below"),
        (tmp_path / "none", "is not a folder"),
    ):
        refused = make(
            cli, tmp_path, f"--domain=studio={studio}", f"--unlabelled=p={folder}", benchmark="b"
        )
        assert refused.exit_code == 1 and message in refused.output
    assert not (tmp_path / "manifests" / "b").exists()


def test_folders_of_images(tmp_path: Path) -> None:
    names = [f"{c}/{i}/1.jpg" for c in ("run", "walk") for i in range(12)]
    studio = touch(tmp_path / "studio", *names)
    phone = touch(tmp_path / "phone", "a/1.jpg", "b/c/1.jpg", "stray.jpg")
    made = from_folders({"studio": studio}, unlabelled={"phone": phone}, kind="frames")
    assert [v.id for v in made.videos["phone"]] == ["a", "b/c"]
    assert "images beside the folders of images are left out" in made.notes["phone"][0]


def test_domains_that_cannot_be(cli, tmp_path: Path, studio: Path) -> None:
    phone = touch(tmp_path / "phone", "a.mp4")
    one, other = f"--domain=studio={studio}", f"--unlabelled=phone={phone}"
    for more, code, message in (
        ((one, f"--unlabelled=studio={phone}"), 2, "studio is named by --domain and by --unlabel"),
        ((other, f"--unlabelled=web={studio}"), 1, "All 2 domains are without labels, and adapt"),
        ((other,), 1, "Adaptation needs two domains or more, got 1."),
        ((), 2, "Missing option '--domain'."),
        ((one, other, other), 2, "--unlabelled must be NAME=DIR with different names"),
        ((one, "--unlabelled=phone"), 2, "--unlabelled must be NAME=DIR with different names"),
        ((one, f"--unlabelled=phone={studio}"), 1, "studio and phone are the same folder"),
        ((one, f"--unlabelled=phone={studio / 'run'}"), 1, "The folder of phone"),
    ):
        refused = make(cli, tmp_path, *more)
        assert refused.exit_code == code and message in refused.output, refused.output
    (phone / "b.mp4").symlink_to(studio / "run" / "000.mp4")
    refused = make(cli, tmp_path, one, other)
    assert "1 video is, through links, in both studio and phone" in refused.output
    assert not (tmp_path / "manifests").exists()


def test_an_update_keeps_the_labels_that_were_added(tmp_path: Path, studio: Path) -> None:
    phone = touch(tmp_path / "phone", "a.mp4", "b.mp4", "c.mp4")
    recorded = dict(from_folders({"studio": studio}, unlabelled={"phone": phone}).videos)
    known = {"a": ("run", 0), "b": ("walk", 1)}
    recorded["phone"] = tuple(
        Video(
            id=v.id,
            label=known[v.id][1] if v.id in known else None,
            class_name=known[v.id][0] if v.id in known else None,
            split="both",
            frames=None,
        )
        for v in recorded["phone"]
    )

    def labels(made) -> dict[str, tuple[int | None, str | None]]:
        assert {v.split for v in made.videos["phone"]} == {"both"}
        return {v.id: (v.label, v.class_name) for v in made.videos["phone"]}

    touch(phone, "d.mp4")
    (phone / "a.mp4").unlink()
    only = from_folders({}, unlabelled={"phone": phone}, recorded=recorded)
    assert labels(only) == {"b": (1, "walk"), "c": (None, None), "d": (None, None)}
    assert only.videos["studio"] == recorded["studio"]

    fill(studio, "aaa")  # a class before the others: all labels move
    moved = from_folders({"studio": studio}, recorded=recorded)
    assert labels(moved) == {"a": (1, "run"), "b": (2, "walk"), "c": (None, None)}
    for path in (studio / "walk").iterdir():
        path.unlink()
    gone = from_folders({"studio": studio}, recorded=recorded)
    assert labels(gone) == {"a": (1, "run"), "b": (None, None), "c": (None, None)}
    assert (
        "1 label is removed, because the class is gone (first: b was walk)" in (gone.notes["phone"])
    )
    with pytest.raises(ManifestError, match=r"The domain phone has no labels in this benchmark"):
        from_folders({"phone": phone}, recorded=recorded)
    with pytest.raises(ManifestError, match=r"The domain studio has labels in this benchmark"):
        from_folders({}, unlabelled={"studio": studio}, recorded=recorded)


def test_a_file_is_not_also_meant_by_a_shorter_id(tmp_path: Path, studio: Path) -> None:
    """In a pile, `a` and `old/a` are two videos; a list that has `a` alone could mean either."""
    phone = touch(tmp_path / "phone", "a.mp4", "old/a.mp4", "old/er/a.mp4")
    rows = from_folders({"studio": studio}, unlabelled={"phone": phone}).videos["phone"]
    ids = [video.id for video in rows]
    assert ids == ["a", "old/a", "old/er/a"]
    folder = VideoFolder([phone], listed=ids)
    for video in ids:
        [(_, path)] = folder.candidates(video)
        assert str(path) == f"{video}.mp4"
    assert len(VideoFolder([phone], listed=["a"]).candidates("a")) == 3


def test_the_next_command_of_an_update_names_the_target(cli, tmp_path: Path, studio: Path) -> None:
    phone = touch(tmp_path / "phone", "a.mp4")
    one, other = f"--domain=studio={studio}", f"--unlabelled=phone={phone}"
    assert make(cli, tmp_path, one, other).exit_code == 0
    touch(phone, "b.mp4")
    updated = make(cli, tmp_path, other, "--update")
    assert updated.exit_code == 0, updated.output
    assert "no labels (1 added, 0 removed, 1 kept)" in updated.output
    assert "adapt --source studio --target phone" in updated.output
    assert len(read_manifest(tmp_path / "manifests" / "mine" / "phone.csv")) == 2
