"""Benchmarks of own folders: splits, classes, names and links. Above 250 lines: one test per rule."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from conftest import fill, touch

from extract.domain_folder import read_domain
from extract.from_folders import OwnBenchmark, SplitRule, from_folders
from store.errors import ConfigError, ManifestError
from store.manifest import Video, read_manifest, write_manifest
from store.own_benchmarks import write_benchmark

NFC, NFD = "caf\u00e9", "cafe\u0301"


def splits(rows: tuple[Video, ...]) -> dict[str, str]:
    return {video.id: video.split for video in rows}


def notes(made: OwnBenchmark, domain: str = "phone") -> str:
    return "\n".join(made.notes[domain])


# Splits


def test_a_split_is_the_documented_hash_of_the_id(pair: dict[str, Path]) -> None:
    rows = from_folders(pair, rule=SplitRule(eval_fraction=0.4, seed=7)).videos["phone"]
    assert [v.id for v in rows] == [f"{c}/{i:03}" for c in ("run", "walk") for i in range(12)]
    assert [(v.label, v.class_name) for v in rows] == [(0, "run")] * 12 + [(1, "walk")] * 12
    for video in rows:
        first = hashlib.sha256(f"7/{video.id}".encode()).hexdigest()[:16]
        assert video.split == ("eval" if int(first, 16) / 2**64 < 0.4 else "train")


def test_the_share_is_about_the_given_one() -> None:
    rule = SplitRule(eval_fraction=0.3)
    held = sum(rule.split_of(f"walk/{i}") == "eval" for i in range(4000))
    assert abs(held / 4000 - 0.3) < 0.03


def test_adding_and_removing_videos_moves_no_other(pair: dict[str, Path]) -> None:
    before = from_folders(pair).videos
    touch(pair["phone"], "run/0005.mp4", "walk/zzz.mp4", "walk/a/deep.mkv", "sit/new.mp4")
    fill(pair["phone"], "aaa")
    fill(pair["cctv"], "aaa")
    (pair["phone"] / "run" / "003.mp4").unlink()
    after = from_folders(pair).videos
    for domain in pair:
        old, new = splits(before[domain]), splits(after[domain])
        assert {v: new[v] for v in old if v in new} == {v: old[v] for v in old if v in new}
    assert set(splits(before["phone"])) - set(splits(after["phone"])) == {"run/003"}
    assert {v.class_name for v in after["phone"]} == {"aaa", "run", "walk"}


def test_an_id_is_always_the_whole_path(tmp_path: Path) -> None:
    a = touch(tmp_path / "a", *(f"run/only-a-{i}.mp4" for i in range(6)), *("walk/x/1.b.mkv",))
    fill(a, "walk")
    b = fill(tmp_path / "b", "run", "walk")
    ids = {v.id for v in from_folders({"a": a, "b": b}).videos["a"]}
    assert {"run/only-a-0", "walk/x/1.b", "walk/000"} < ids


def test_small_classes_in_one_split_only_are_said(tmp_path: Path) -> None:
    a = fill(tmp_path / "a", "run", "walk", "sit")
    b = fill(tmp_path / "b", "run", "walk")
    touch(b, "sit/0.mp4")
    made = from_folders({"a": a, "b": b})
    [sit] = [video for video in made.videos["b"] if video.class_name == "sit"]
    lacking = "eval" if sit.split == "train" else "train"
    assert f"1 of 3 classes has no {lacking} video (first: sit)" in notes(made, "b")
    assert notes(made, "a") == ""


def test_a_domain_in_one_split_only_is_refused_with_a_seed_that_helps(tmp_path: Path) -> None:
    folders = {d: fill(tmp_path / d, "run", "walk", count=1) for d in ("a", "b")}
    bad = next(s for s in range(99) if SplitRule(seed=s).split_of("run/000") == "train")
    bad = next(
        s
        for s in range(bad, 99)
        if {SplitRule(seed=s).split_of(v) for v in ("run/000", "walk/000")} == {"train"}
    )
    with pytest.raises(
        ManifestError,
        match=r"Of the 2 videos of a none would be eval \(first: run/000 is train\). Try --split-seed",
    ) as error:
        from_folders(folders, rule=SplitRule(seed=bad))
    better = int(str(error.value).split("--split-seed ")[1].split(",")[0])
    assert from_folders(folders, rule=SplitRule(seed=better))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_the_share_is_checked(fraction: float) -> None:
    with pytest.raises(ConfigError, match="--eval-fraction must be between 0 and 1, got"):
        SplitRule(eval_fraction=fraction)


# Folders that are named like splits


def split_folders(root: Path, *levels: str) -> Path:
    return fill(root, *(f"{level}/{c}" for level in levels for c in ("run", "walk")), count=2)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (("train", "test"), {"train": "train", "test": "eval"}),
        (("Training", "EVAL"), {"Training": "train", "EVAL": "eval"}),
        (("train", "validation"), {"train": "train", "validation": "eval"}),
        (("train", "testing", "Val"), {"train": "train", "testing": "eval"}),
    ],
)
def test_levels_named_like_splits(
    tmp_path: Path, pair: dict[str, Path], levels: tuple[str, ...], expected: dict[str, str]
) -> None:
    folder = split_folders(tmp_path / "x", *levels)
    made = from_folders({"phone": folder, "cctv": pair["cctv"]})
    rows = made.videos["phone"]
    assert {(v.id.split("/")[0], v.split) for v in rows} == set(expected.items())
    assert {v.class_name for v in rows} == {"run", "walk"}
    assert f"{', '.join(sorted(levels))} above the classes are taken for splits" in notes(made)
    spare = "4 videos for validation are left out (first: Val/run/000.mp4)"
    assert (spare in notes(made)) == (len(levels) == 3)


def test_one_level_only_is_split_by_hash(tmp_path: Path, pair: dict[str, Path]) -> None:
    folder = fill(tmp_path / "x", "train/run", "train/walk")
    made = from_folders({"phone": folder, "cctv": pair["cctv"]})
    rule = SplitRule()
    assert all(v.split == rule.split_of(v.id) for v in made.videos["phone"])
    assert {v.class_name for v in made.videos["phone"]} == {"run", "walk"}
    assert "train above the classes is taken for a split; the videos are split by their ids" in (
        notes(made)
    )


def test_a_class_named_test_beside_others_is_a_class(tmp_path: Path) -> None:
    folders = {d: fill(tmp_path / d, "test/setup", "drive/setup", "train/x") for d in "ab"}
    assert {v.class_name for v in from_folders(folders).videos["a"]} == {"drive", "test", "train"}


def test_split_folders_without_classes_are_refused(tmp_path: Path, pair: dict[str, Path]) -> None:
    folder = fill(tmp_path / "x", "train", "test")
    with pytest.raises(
        ManifestError, match=r"named like splits \(test, train\), and there are no class folders"
    ):
        from_folders({"phone": folder, "cctv": pair["cctv"]})


def test_folders_of_images_have_levels_too(tmp_path: Path) -> None:
    names = [
        f"{s}/{c}/{i}/1.jpg" for s in ("train", "test") for c in ("run", "walk") for i in range(2)
    ]
    folders = {d: touch(tmp_path / d, *names) for d in "ab"}
    rows = from_folders(folders, kind="frames").videos["a"]
    assert splits(rows)["train/run/0"] == "train" and splits(rows)["test/walk/1"] == "eval"


# Classes and domains


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("walk", "Walk"), ("ride bike", "ride_bike"), ("ride-bike", "RideBike")),
        *(("ride  bike", "ride bike"), ("ﬁght", "fight"), ("STRASSE", "straße")),
    ],
)
def test_near_misses_are_refused(tmp_path: Path, one: str, other: str) -> None:
    a, b = fill(tmp_path / "a", "run", "sit", one), fill(tmp_path / "b", "run", "sit", other)
    with pytest.raises(ManifestError, match="differ only in case, spaces, hyphens or") as error:
        from_folders({"a": a, "b": b})
    assert f"{one!r} of a" in str(error.value) and f"{other!r} of b" in str(error.value)
    assert "Rename one of the folders" in str(error.value)
    both = fill(tmp_path / "both", "run", "sit", one, other)
    with pytest.raises(ManifestError, match="differ only in case"):
        from_folders({"a": both, "b": fill(tmp_path / "c", "run", "sit")})


def test_numbers_keep_their_separator(tmp_path: Path) -> None:
    folders = {d: fill(tmp_path / d, "1-10", "11-0") for d in "ab"}
    assert {v.class_name for v in from_folders(folders).videos["a"]} == {"1-10", "11-0"}


def test_nfc_and_nfd_are_one_class_in_two_domains_and_refused_in_one(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", "run", NFD), fill(tmp_path / "b", "run", NFC)
    made = from_folders({"a": a, "b": b}).videos
    assert {v.class_name for v in made["a"]} == {v.class_name for v in made["b"]} == {"run", NFC}
    assert {v.id for v in made["a"]} == {v.id for v in made["b"]}
    touch(a, f"{NFC}/other.mp4")
    with pytest.raises(ManifestError, match=r"only in Unicode normalisation \('cafe\\u0301' and"):
        from_folders({"a": a, "b": b})
    (tmp_path / "c").mkdir()
    c = touch(fill(tmp_path / "c", "run"), f"sit/{NFC}.mp4", f"sit/{NFD}.mp4")
    with pytest.raises(ManifestError, match=r"2 files of .* differ from another only in Unicode"):
        from_folders({"b": b, "c": c})


def test_too_few_are_refused(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a", "run", "sit"), fill(tmp_path / "b", "walk")
    with pytest.raises(ManifestError, match=r"no class in common.*a: run, sit; b: walk"):
        from_folders({"a": a, "b": b})
    fill(b, "run")
    with pytest.raises(ManifestError, match=r"have only run in common, and telling classes apart"):
        from_folders({"a": a, "b": b})
    with pytest.raises(ManifestError, match="two domains or more, got 1"):
        from_folders({"a": a})
    with pytest.raises(ManifestError, match="is not a folder"):
        from_folders({"a": a, "b": tmp_path / "none"})
    empty = touch(tmp_path / "empty", "run/a.xyz", "run/b.txt", "top.mp4")
    with pytest.raises(ManifestError) as error:
        from_folders({"a": a, "b": empty})
    assert "There is no video in a class folder below" in str(error.value)
    assert "1 file is left out for the suffix: .xyz (1) (first: run/a.xyz)" in str(error.value)
    assert "1 video beside the class folders, so of no class, is left out" in str(error.value)


def test_one_pile_cannot_be_two_domains(tmp_path: Path, pair: dict[str, Path]) -> None:
    phone = pair["phone"]
    with pytest.raises(ManifestError, match=r"a and b are the same folder \(.*phone\)"):
        from_folders({"a": phone, "b": phone.parent / "cctv" / ".." / "phone"})
    (tmp_path / "link").symlink_to(phone)
    with pytest.raises(ManifestError, match="are the same folder"):
        from_folders({"a": phone, "b": tmp_path / "link"})
    with pytest.raises(ManifestError, match=r"The folder of b \(.*run\) lies inside that of a"):
        from_folders({"a": phone, "b": phone / "run"})
    linked = fill(tmp_path / "linked", "run")
    (linked / "walk").symlink_to(phone / "walk")
    with pytest.raises(
        ManifestError,
        match=r"12 videos are, through links, in both phone and b \(first: .*walk/000",
    ):
        from_folders({"phone": phone, "b": linked})


# Names, links, side files


def test_a_name_that_is_not_utf8_is_named(pair: dict[str, Path]) -> None:
    touch(pair["phone"], os.fsdecode(b"walk/caf\xe9.mp4"))
    with pytest.raises(
        ManifestError, match=r"1 video name .* is not UTF-8, .*walk/caf\\xe9.mp4\)"
    ) as e:
        from_folders(pair)
    assert "convmv" in str(e.value)
    str(e.value).encode()


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\x1b[31m"])
def test_names_that_no_id_can_have(pair: dict[str, Path], name: str) -> None:
    touch(pair["phone"], f"walk/{name}.mp4")
    with pytest.raises(ManifestError, match="is no video id"):
        from_folders(pair)


def test_two_files_with_one_id_are_refused(pair: dict[str, Path]) -> None:
    touch(pair["phone"], "run/001.avi")
    with pytest.raises(
        ManifestError,
        match=r"2 files .* differ from another only in the suffix \(first: run/001.avi",
    ):
        from_folders(pair)


def test_links_to_videos(pair: dict[str, Path], tmp_path: Path) -> None:
    phone = pair["phone"]
    (phone / "walk" / "again.mp4").symlink_to(phone / "run" / "003.mp4")
    made = from_folders(pair)
    assert "1 video left out as a link to another video of the domain (first: walk/again.mp4)" in (
        notes(made)
    )
    assert "run/003" in splits(made.videos["phone"])
    assert "walk/again" not in splits(made.videos["phone"])
    touch(tmp_path, "disk/x.mp4")
    (phone / "walk" / "x.mp4").symlink_to(tmp_path / "disk" / "x.mp4")
    assert "walk/x" in splits(from_folders(pair).videos["phone"])
    (phone / "run" / "x.mp4").symlink_to(tmp_path / "disk" / "x.mp4")
    with pytest.raises(
        ManifestError, match=r"run/x.mp4 and walk/x.mp4 below .* links to one video"
    ):
        from_folders(pair)


def test_a_link_to_a_class_relabels_nothing(pair: dict[str, Path]) -> None:
    before = from_folders(pair)
    (pair["phone"] / "a-stroll").symlink_to(pair["phone"] / "walk")
    after = from_folders(pair)
    assert after.videos == before.videos
    assert "1 link leads to a folder read already, not followed (first: a-stroll -> " in notes(
        after
    )


def test_what_is_left_out_is_said(pair: dict[str, Path]) -> None:
    touch(pair["phone"], "run/x.xyz", "walk/y.xyz", "walk/z.txt", "stray.mp4", "sit/only.mp4")
    made = from_folders(pair)
    assert list(made.notes["phone"]) == [
        "2 files are left out for the suffix: .xyz (2) (first: run/x.xyz)",
        "1 video beside the class folders, so of no class, is left out (first: stray.mp4)",
        "left out, because not every domain has them: sit (1)",
    ]


def test_side_folders_are_no_classes(pair: dict[str, Path]) -> None:
    for domain in pair.values():
        touch(domain, "@eaDir/thumb.mp4", "__MACOSX/run/._1.mp4", "__MACOSX/run/1.mp4")
    assert set(read_domain(pair["phone"]).videos) == {"run", "walk"}


# Update and overwrite


def test_an_update_keeps_recorded_splits(pair: dict[str, Path]) -> None:
    old = dict(from_folders(pair).videos)
    other = {"train": "eval", "eval": "train"}
    old["phone"] = tuple(
        Video(id=v.id, label=v.label, class_name=v.class_name, split=other[v.split], frames=None)
        for v in old["phone"]
    )
    touch(pair["phone"], "run/new.mp4")
    (pair["phone"] / "walk" / "000.mp4").unlink()
    made = from_folders({"phone": pair["phone"]}, recorded=old).videos
    expected = splits(old["phone"]) | {"run/new": SplitRule().split_of("run/new")}
    del expected["walk/000"]
    assert splits(made["phone"]) == expected
    assert made["cctv"] == old["cctv"]


def test_an_update_keeps_labels_that_are_not_sorted(pair: dict[str, Path]) -> None:
    turned = {
        domain: tuple(
            Video(id=v.id, label=1 - v.label, class_name=v.class_name, split=v.split, frames=None)
            for v in rows
        )
        for domain, rows in from_folders(pair).videos.items()
    }
    made = from_folders({"phone": pair["phone"]}, recorded=turned).videos
    assert {(v.label, v.class_name) for v in made["phone"]} == {(1, "run"), (0, "walk")}


def test_an_update_that_would_change_unnamed_domains_is_refused(pair: dict[str, Path]) -> None:
    for domain in pair.values():
        fill(domain, "sit")
    recorded = from_folders(pair).videos
    for path in (pair["phone"] / "sit").iterdir():
        path.unlink()
    with pytest.raises(
        ManifestError, match=r"1 class of cctv is .* \(first: sit\). Name the folder of cctv too"
    ):
        from_folders({"phone": pair["phone"]}, recorded=recorded)
    assert len({v.label for v in from_folders(pair, recorded=recorded).videos["cctv"]}) == 2
    with pytest.raises(ManifestError, match=r"has no domain webcam; it has phone, cctv. To add"):
        from_folders({"webcam": pair["phone"]}, recorded=recorded)


def test_writing_is_all_or_nothing(pair: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "m" / "mine"
    videos = dict(from_folders(pair).videos)
    write_benchmark(folder, videos)
    (folder / "notes.txt").touch()
    (folder / "old.csv").write_text("x")
    (folder / ".hidden.csv").touch()
    (folder / "folder.csv").mkdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    bad = {**videos, "phone": videos["phone"][:3], "zzz": (*videos["cctv"], videos["cctv"][0])}
    with pytest.raises(ManifestError, match="1 id stands there twice"):
        write_benchmark(folder, bad)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    write_benchmark(folder, {"cctv": videos["cctv"]})
    assert {path.name for path in folder.iterdir()} == {
        *("cctv.csv", "notes.txt", ".hidden.csv", "folder.csv")
    }


def test_two_own_benchmarks_may_share_a_domain(pair: dict[str, Path], tmp_path: Path) -> None:
    """One benchmark per split of the same videos."""
    root = tmp_path / "m"
    for seed in (0, 1):
        for domain, rows in from_folders(pair, rule=SplitRule(seed=seed)).videos.items():
            write_manifest(root / f"mine-{seed}" / f"{domain}.csv", rows)
    first, second = (read_manifest(root / f"mine-{seed}" / "phone.csv") for seed in (0, 1))
    assert splits(first) != splits(second) and set(splits(first)) == set(splits(second))
