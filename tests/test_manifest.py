from __future__ import annotations

import re
from pathlib import Path

import pytest

from extract.errors import ManifestError
from extract.manifest import (
    MANIFESTS,
    Video,
    benchmarks,
    choose_benchmark,
    classes_of,
    dataset_of,
    dataset_videos,
    domain_of,
    from_folders,
    read_manifest,
    refuse_name_clash,
    write_manifest,
)

PUBLISHED = {  # train, eval: TA3N's release
    ("ucf-hmdb-full", "ucf"): (1438, 571),
    ("ucf-hmdb-full", "hmdb"): (840, 360),
    ("ucf-hmdb-small", "ucf"): (482, 189),
    ("ucf-hmdb-small", "hmdb"): (350, 150),
    ("ucf-olympic", "ucf"): (601, 240),
    ("ucf-olympic", "olympic"): (250, 54),
    ("kinetics-gameplay", "kinetics"): (43378, 3246),
    ("kinetics-gameplay", "gameplay"): (2625, 749),
}
CLASSES = {"ucf-hmdb-full": 12, "ucf-hmdb-small": 5, "ucf-olympic": 6, "kinetics-gameplay": 30}


def manifest(benchmark: str, domain: str) -> tuple[Video, ...]:
    return read_manifest(MANIFESTS / benchmark / f"{domain}.csv")


@pytest.mark.parametrize(("benchmark", "domain"), PUBLISHED)
def test_split_sizes_are_the_published_ones(benchmark: str, domain: str) -> None:
    videos = manifest(benchmark, domain)
    by_split = {s: {v.id for v in videos if v.split == s} for s in ("train", "eval")}
    assert (len(by_split["train"]), len(by_split["eval"])) == PUBLISHED[benchmark, domain]
    assert not by_split["train"] & by_split["eval"]
    assert all(v.frames for v in videos)


@pytest.mark.parametrize("benchmark", CLASSES)
def test_classes(benchmark: str) -> None:
    names = classes_of(*(manifest(benchmark, d) for d in benchmarks()[benchmark]))
    assert len(names) == CLASSES[benchmark]
    known = {
        "ucf-hmdb-full": (3, "kick_ball"),
        "ucf-hmdb-small": (4, "shoot_ball"),
        "ucf-olympic": (1, "CleanAndJerk"),
        "kinetics-gameplay": (16, "news_anchor"),
    }
    label, name = known[benchmark]
    assert names[label] == name


def test_ucf_groups_1_to_7_are_eval_and_no_other() -> None:
    for benchmark in ("ucf-hmdb-full", "ucf-hmdb-small", "ucf-olympic"):
        for video in manifest(benchmark, "ucf"):
            group = int(re.search(r"_g(\d\d)_c\d\d$", video.id)[1])
            assert (group <= 7) == (video.split == "eval"), video


def test_labels_agree_with_the_names_in_ucf_ids() -> None:
    """The official file names carry UCF101's own class: an independent check of ids against labels."""
    expected = {
        "GolfSwing": "golf",
        "Biking": "ride_bike",
        "PullUps": "pullup",
        "HorseRiding": "ride_horse",
    }
    for video in manifest("ucf-hmdb-small", "ucf"):
        assert video.class_name == expected.get(video.id.split("_")[1], "shoot_ball"), video


def test_dataset_is_the_union_over_all_benchmarks() -> None:
    union = dataset_videos("ucf101")
    parts = [
        {v.id for v in manifest(b, "ucf")}
        for b in ("ucf-hmdb-full", "ucf-hmdb-small", "ucf-olympic")
    ]
    assert set(union) == set.union(*parts)
    assert list(union) == sorted(union)
    assert domain_of("hmdb51") == "hmdb"
    assert dataset_of("ucf") == "ucf101"


def test_unknown_data_set_lists_the_known_ones() -> None:
    with pytest.raises(
        ManifestError, match=r"no data set 'ucf'?.*Known: gameplay, hmdb51"
    ) as error:
        domain_of("ucf1010")
    assert "from-folder" in str(error.value)


def test_benchmark_defaults_to_the_fullest() -> None:
    assert choose_benchmark("ucf", "hmdb") == "ucf-hmdb-full"
    assert choose_benchmark("hmdb", "ucf", "ucf-hmdb-small") == "ucf-hmdb-small"
    for source, target, name in (
        ("ucf", "gameplay", None),
        ("ucf", "ucf", None),
        ("ucf", "hmdb", "ucf-olympic"),
    ):
        with pytest.raises(
            ManifestError, match="Domains are: kinetics-gameplay: gameplay, kinetics"
        ):
            choose_benchmark(source, target, name)


ROW = Video(id="a", label=0, class_name="x", split="train", frames=3)


@pytest.mark.parametrize(
    "video", ["#1 [x] (y) & z!", "-7Y7cfnr3O8_000000", "walk/001", "+a", "naïve", "a b"]
)
def test_odd_ids_survive(tmp_path: Path, video: str) -> None:
    path = tmp_path / "b" / "d.csv"
    rows = (Video(id=video, label=0, class_name="x", split="eval", frames=None),)
    write_manifest(path, rows)
    assert read_manifest(path) == rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("../a,0,x,train,1", "no video id"),
        ("/etc/a,0,x,train,1", "no video id"),
        ("a\\b,0,x,train,1", "no video id"),
        ("a,0,x,test,1", "split must be train or eval, got 'test'"),
        ("a,-1,x,train,1", "label must be a number, got '-1'"),
        ("a,0,x,train,many", "frames must be a number, got 'many'"),
        ("a,0,x,train", "expected 5 columns"),
        ("a,0,x,train,1\na,0,x,train,1", r"1 ids stand there twice \(first: a\)"),
        ("a,0,x,train,1\nb,0,y,train,1", "one to one"),
        ("", "lists no videos"),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "d.csv"
    path.write_text(f"video,label,class,split,frames\n{row}\n")
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


def test_columns_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("video,label\na,0\n")
    with pytest.raises(ManifestError, match="columns must be video,label,class,split,frames"):
        read_manifest(path)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_from_folders(tmp_path: Path) -> None:
    a = touch(
        tmp_path / "a",
        *(f"run/a{i}.mp4" for i in range(10)),
        "walk/x.avi",
        "sit/y.avi",
        "walk/.z.avi",
    )
    b = touch(
        tmp_path / "b", *(f"run/{i}.mp4" for i in range(4)), *(f"walk/{i}.mp4" for i in range(4))
    )
    touch(b, "walk/notes.txt", "stray.mp4")
    videos, left_out = from_folders({"a": a, "b": b}, seed=1)
    assert left_out == {"a": {"sit": 1}, "b": {}}
    assert {(v.label, v.class_name) for v in videos["a"]} == {(0, "run"), (1, "walk")}
    assert [v.id for v in videos["b"]][:2] == ["run/0", "run/1"]  # stems repeat, so ids are paths
    count = {s: sum(v.split == s and v.label == 0 for v in videos["a"]) for s in ("train", "eval")}
    assert count == {"train": 7, "eval": 3}
    assert [v.split for v in videos["a"] if v.label == 1] == [
        "train"
    ]  # a single video stays in train
    assert from_folders({"a": a, "b": b}, seed=1)[0] == videos
    assert from_folders({"a": a, "b": b}, seed=2)[0] != videos


def test_from_folders_refuses(tmp_path: Path) -> None:
    a, b = touch(tmp_path / "a", "run/1.mp4"), touch(tmp_path / "b", "walk/1.mp4")
    with pytest.raises(ManifestError, match=r"no class in common.*a: run; b: walk"):
        from_folders({"a": a, "b": b})
    touch(b, "run/1.mp4", "run/1.avi")
    with pytest.raises(ManifestError, match=r"2 files .* only in the suffix \(first: run/1.avi\)"):
        from_folders({"a": a, "b": b})
    with pytest.raises(ManifestError, match="is not a folder"):
        from_folders({"a": a, "b": tmp_path / "none"})
    with pytest.raises(ManifestError, match="two domains or more, got 1"):
        from_folders({"a": a})


def test_a_name_means_one_pile_of_videos() -> None:
    with pytest.raises(
        ManifestError, match=r"'ucf' is taken by other videos \(kinetics|'ucf' is taken"
    ):
        refuse_name_clash("mine", {"ucf": [ROW]})
    with pytest.raises(ManifestError, match="'ucf101' is taken"):
        refuse_name_clash("mine", {"ucf101": [ROW]})
    refuse_name_clash("mine", {"phone": [ROW]})


def test_commands(tmp_path: Path, cli) -> None:
    for domain in ("phone", "cctv"):
        touch(
            tmp_path / domain,
            *(f"{c}/{domain}_{c}_{i}.mp4" for c in ("run", "sit") for i in range(3)),
        )
    root = tmp_path / "manifests"
    arguments = ["manifest", "from-folder", "--benchmark", "mine", "--manifests", root]
    domains = [f"--domain={d}={tmp_path / d}" for d in ("phone", "cctv")]
    made = cli(*arguments, *domains)
    assert made.exit_code == 0, made.output
    assert f"{root / 'mine' / 'phone'}.csv: 4 train, 2 eval" in made.output
    assert f"python cli.py extract --dataset phone --videos {tmp_path / 'phone'}" in made.output
    assert "exists. Choose another --benchmark" in cli(*arguments, *domains).output
    assert cli(*arguments, *domains, "--overwrite").exit_code == 0
    assert cli(*arguments, "--domain=../x=/tmp").exit_code == 2

    (tmp_path / "phone" / "run" / "phone_run_1.mp4").unlink()
    check = cli(
        "manifest",
        "check",
        "--dataset",
        "phone",
        "--videos",
        tmp_path / "phone",
        "--manifests",
        root,
    )
    assert check.exit_code == 3
    assert "5 of 6 listed videos are in" in check.output
    assert "1 are missing (first: phone_run_1)" in check.output
    listed = cli("manifest", "list")
    assert (
        "ucf-hmdb-full        ucf          ucf101              1438    571       12"
        in listed.output
    )
