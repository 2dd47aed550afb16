"""`manifest from-folder --group-by` and `--classes`: which videos stay together, and which are kept."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import touch

from extract.from_folders import from_folders
from extract.splits import SplitRule, grouping
from store.errors import ConfigError, ManifestError
from store.manifest import Video, read_manifest

FILMS = [f"film{letter}" for letter in "abcdefghijkl"]


@pytest.fixture
def films(tmp_path: Path) -> dict[str, Path]:
    """Two domains; a film has clips of both classes."""
    names = [f"{c}/{film}_c{i}.mp4" for c in ("run", "walk") for film in FILMS for i in range(2)]
    return {domain: touch(tmp_path / domain, *names) for domain in ("phone", "cctv")}


def splits_of_groups(rows: tuple[Video, ...]) -> dict[str | None, set[str]]:
    found = defaultdict(set)
    for video in rows:
        found[video.group].add(video.split)
    return found


@pytest.mark.parametrize("pattern", [r"(.+)_c\d+$", "[^_]+", r"film."])
def test_clips_of_one_film_stay_together(films: dict[str, Path], pattern: str) -> None:
    made = from_folders(films, groups=grouping(pattern), rule=SplitRule(eval_fraction=0.4, seed=3))
    for rows in made.videos.values():
        assert {v.group for v in rows} == set(FILMS)
        for group, splits in splits_of_groups(rows).items():
            u = int(hashlib.sha256(f"3/{group}".encode()).hexdigest()[:16], 16) / 2**64
            assert splits == {"eval" if u < 0.4 else "train"}


def test_what_came_out_is_said(films: dict[str, Path], tmp_path: Path, cli) -> None:
    touch(films["phone"], *(f"run/filma_c{i}.mp4" for i in range(2, 30)))
    domains = [f"--domain={name}={folder}" for name, folder in films.items()]
    places = ("--benchmark", "mine", "--manifests", tmp_path / "m")
    made = cli("manifest", "from-folder", *places, *domains, "--group-by", "[^_]+")
    assert made.exit_code == 0, made.output
    rows = read_manifest(tmp_path / "m" / "mine" / "phone.csv")
    held = [v for v in rows if v.split == "eval"]
    groups = {v.id.split("/")[1].split("_")[0] for v in held}
    assert (
        f"  12 groups, each in one split: {12 - len(groups)} train ({len(rows) - len(held)} videos), "
        f"{len(groups)} eval ({len(held)} videos)\n"
        f"  {100 * len(held) / len(rows):.0f} % of the videos are eval, and --eval-fraction is 30 %; the "
        "largest group, filma, has 32 videos\n"
    ) in made.output
    header, first, *_ = (tmp_path / "m" / "mine" / "phone.csv").read_text().splitlines()
    assert header == "video,label,class,split,frames,group" and first.endswith(",filma")


def test_groups_from_a_csv(films: dict[str, Path], tmp_path: Path) -> None:
    ids = [v.id for v in from_folders(films).videos["phone"]]
    rows = [f'"{v}.mp4";scene {int(n / 4)}' for n, v in enumerate(ids)]
    path = tmp_path / "groups.CSV"
    path.write_text("\ufeffvideo;group\n" + "\n".join([*rows, "elsewhere;x"]) + "\n")
    videos = from_folders(films, groups=grouping(str(path)), rule=SplitRule(seed=1)).videos["phone"]
    assert {v.id: v.group for v in videos} == {v: f"scene {int(n / 4)}" for n, v in enumerate(ids)}
    assert all(len(splits) == 1 for splits in splits_of_groups(videos).values())
    path.write_text("video,group\n" + "\n".join(f"{v},x" for v in ids[1:]) + "\n")
    with pytest.raises(
        ManifestError, match=r"no group for 1 of 48 videos of phone \(first: run/filma_c0\)"
    ):
        from_folders(films, groups=grouping(str(path)))
    path.write_text("video,group\n" + "\n".join(f"{v}," for v in ids) + "\n")
    with pytest.raises(ManifestError, match=r"48 rows of .* have no group, or one with control"):
        from_folders(films, groups=grouping(str(path)))
    with pytest.raises(ManifestError, match=r"There is no file none.csv. It must be a CSV"):
        grouping("none.csv")


def test_names_without_a_group_are_refused(films: dict[str, Path]) -> None:
    touch(films["cctv"], "run/other.mp4")
    with pytest.raises(
        ManifestError,
        match=r"'\(film\.\)_' finds no group in 1 of 49 names of cctv \(first: run/other\)",
    ):
        from_folders(films, groups=grouping("(film.)_"))
    with pytest.raises(ManifestError, match="finds no group in 48 of 48 names of phone"):
        from_folders(films, groups=grouping("x*"))  # an empty beginning is no group
    with pytest.raises(ConfigError, match=r"and '\(' is neither \(missing \), unterminated"):
        grouping("(")


def test_an_update_keeps_groups_together(films: dict[str, Path]) -> None:
    pattern = grouping("[^_]+")
    before = from_folders(films, groups=pattern).videos
    touch(films["phone"], *(f"run/{film}_c9.mp4" for film in FILMS))
    # Another share would put some of the new clips elsewhere than the rest of their film.
    other = SplitRule(eval_fraction=0.7, seed=9)
    made = from_folders({"phone": films["phone"]}, groups=pattern, rule=other, recorded=before)
    old = splits_of_groups(before["phone"])
    assert splits_of_groups(made.videos["phone"]) == old
    assert made.videos["cctv"] == before["cctv"]
    with pytest.raises(
        ManifestError, match=r"phone were split by groups.*Give the same --group-by"
    ):
        from_folders({"phone": films["phone"]}, recorded=before)
    alone = from_folders(films).videos
    with pytest.raises(ManifestError, match=r"of 12 groups of phone are in both splits \(first: "):
        from_folders({"phone": films["phone"]}, groups=pattern, recorded=alone)


def test_folders_named_like_splits_must_not_tear_a_group(tmp_path: Path) -> None:
    names = [f"{s}/{c}/{s}{i}_1.mp4" for s in ("train", "test") for c in "xy" for i in range(2)]
    folders = {domain: touch(tmp_path / domain, *names) for domain in "ab"}
    rows = from_folders(folders, groups=grouping("[^_]+")).videos["a"]
    assert {(v.group, v.split) for v in rows} == {
        *(("train0", "train"), ("train1", "train"), ("test0", "eval"), ("test1", "eval"))
    }
    touch(folders["a"], "test/x/train0_2.mp4")
    with pytest.raises(
        ManifestError,
        match=r"1 of 4 groups of a is in both splits \(first: 'train0', train/x/train0_1 is train",
    ):
        from_folders(folders, groups=grouping("[^_]+"))


def test_all_in_one_split_is_refused_with_a_seed_that_helps(films: dict[str, Path]) -> None:
    rule = SplitRule(eval_fraction=0.02)
    with pytest.raises(ManifestError, match=r"none would be eval .* Try --split-seed") as error:
        from_folders(films, groups=grouping("[^_]+"), rule=rule)
    seed = int(str(error.value).split("--split-seed ")[1].split(",")[0])
    better = SplitRule(eval_fraction=0.02, seed=seed)
    assert from_folders(films, groups=grouping("[^_]+"), rule=better)
    with pytest.raises(ManifestError, match="No --split-seed helps"):
        from_folders(films, groups=grouping("film"))  # one group


def test_only_the_named_classes_are_kept(tmp_path: Path, cli) -> None:
    names = [f"{c}/{i}.mp4" for c in ("run", "walk", "sit, down", "fly") for i in range(12)]
    folders = {domain: touch(tmp_path / domain, *names) for domain in ("phone", "cctv")}
    domains = [f"--domain={name}={folder}" for name, folder in folders.items()]

    def make(classes: str, *more: object):
        places = ("--benchmark", "mine", "--manifests", tmp_path / "m", "--classes", classes)
        return cli("manifest", "from-folder", *places, *domains, *more)

    made = make('walk, "sit, down"')
    assert made.exit_code == 0, made.output
    rows = read_manifest(tmp_path / "m" / "mine" / "cctv.csv")
    assert {(v.label, v.class_name) for v in rows} == {(0, "sit, down"), (1, "walk")}
    assert "  left out, because of --classes: fly (12), run (12)\n" in made.output
    for classes, code, message in (
        (
            "walk,Run",
            1,
            "1 of 2 classes of --classes is not in phone (first: 'Run'; is 'run' meant?)",
        ),
        ("walk,swim", 1, "(first: 'swim'). It has fly, run, sit, down, walk."),
        ("walk", 1, "The domains have only walk in common"),
        ("walk,,run", 2, "--classes must be different names and none blank, got 'walk,,run'."),
        ("walk,walk", 2, "--classes must be different names and none blank"),
        ('walk,"run', 2, "--classes must be names with commas between them"),
    ):
        refused = make(classes, "--overwrite")
        assert refused.exit_code == code and message in refused.output, refused.output
    (folders["cctv"] / "fly").rename(folders["cctv"] / "flying")
    refused = make("walk,fly", "--overwrite")
    assert "1 of 2 classes of --classes is not in cctv (first: 'fly')" in refused.output
