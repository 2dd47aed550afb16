"""Manifests: the published splits, and rows, tables and names that are refused.

Above 250 lines: one test per rule.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from store.datasets import (
    benchmarks,
    choose_benchmark,
    dataset_of,
    dataset_videos,
    domain_of,
    manifest_path,
)
from store.errors import ManifestError
from store.manifest import Video, classes_of, read_manifest, write_manifest
from store.own_benchmarks import refuse_name_clash

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


NONE = Path(__file__).parent / "none"
"""No own benchmarks: what a developer has in ./manifests must not decide a test."""


def manifest(benchmark: str, domain: str) -> tuple[Video, ...]:
    return read_manifest(manifest_path(benchmark, domain, NONE))


@pytest.mark.parametrize(("benchmark", "domain"), PUBLISHED)
def test_split_sizes_are_the_published_ones(benchmark: str, domain: str) -> None:
    videos = manifest(benchmark, domain)
    by_split = {s: {v.id for v in videos if v.split == s} for s in ("train", "eval")}
    assert (len(by_split["train"]), len(by_split["eval"])) == PUBLISHED[benchmark, domain]
    assert not by_split["train"] & by_split["eval"]
    assert all(v.frames for v in videos)


@pytest.mark.parametrize("benchmark", CLASSES)
def test_classes(benchmark: str) -> None:
    names = classes_of(*(manifest(benchmark, d) for d in benchmarks(NONE)[benchmark]))
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


def test_domains_that_number_the_classes_otherwise_are_refused() -> None:
    """One class under two labels would be two outputs of a network, one of which nothing teaches."""

    def domain(*labels: tuple[int, str]) -> list[Video]:
        return [
            Video(id=f"{n}/{i}", label=i, class_name=n, split="train", frames=None)
            for i, n in labels
        ]

    left = domain((0, "run"), (1, "E\u0301te\u0301"))
    assert classes_of(left, domain((1, "E\u0301te\u0301"))) == ("run", "E\u0301te\u0301")
    for other, message in (
        (domain((2, "run")), "The class 'run' has the label 0 in one domain and 2 in the other"),
        (domain((2, "\u00c9t\u00e9")), "has the label 1 in one domain and 2 in the other"),
        (domain((0, "walk")), "Label 0 is 'run' in one domain and 'walk' in the other"),
        (
            domain((3, "sit")),
            r"labels of 3 classes must be 0 to 2, got 0, 1, 3\. Number them so\. Or",
        ),
    ):
        with pytest.raises(ManifestError, match=message):
            classes_of(left, other)
    with pytest.raises(ManifestError, match="They count from 1: subtract 1 from every label"):
        classes_of(domain((1, "run"), (2, "walk")))


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
    union = dataset_videos("ucf101", NONE)
    parts = [
        {v.id for v in manifest(b, "ucf")}
        for b in ("ucf-hmdb-full", "ucf-hmdb-small", "ucf-olympic")
    ]
    assert set(union) == set.union(*parts)
    assert list(union) == sorted(union)
    assert domain_of("hmdb51", NONE) == "hmdb"
    assert dataset_of("ucf", NONE) == "ucf101"


def test_unknown_data_set_lists_the_known_ones() -> None:
    with pytest.raises(
        ManifestError, match=r"no data set 'ucf'?.*Known: gameplay, hmdb51"
    ) as error:
        domain_of("ucf1010", NONE)
    assert "from-folder" in str(error.value)


@pytest.mark.parametrize("command", ["extract", "manifest check", "store import --format npy"])
def test_a_domain_is_not_taken_for_its_data_set(cli, tmp_path: Path, command: str) -> None:
    place = ("--videos", tmp_path) if "import" not in command else (tmp_path,)
    np.save(tmp_path / "v_Archery_g08_c01.npy", np.ones((3, 4), np.float32))
    refused = cli(*command.split(), *place, "--dataset", "ucf")
    assert refused.exit_code == 1
    assert "ucf is a domain and no data set. Its videos are those of the data set ucf101" in (
        refused.output
    )


def test_benchmark_defaults_to_the_fullest() -> None:
    assert choose_benchmark("ucf", "hmdb", root=NONE) == "ucf-hmdb-full"
    assert choose_benchmark("hmdb", "ucf", "ucf-hmdb-small", NONE) == "ucf-hmdb-small"
    for source, target, name in (
        ("ucf", "gameplay", None),
        ("ucf", "ucf", None),
        ("ucf", "hmdb", "ucf-olympic"),
    ):
        with pytest.raises(
            ManifestError, match="Domains are: kinetics-gameplay: gameplay, kinetics"
        ):
            choose_benchmark(source, target, name, NONE)


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
        ("a,0,x,test,1", "split must be train or eval, or both in .* without labels, got 'test'"),
        ("a,,,train,1", "line 2: label and class are blank, which only videos of split both"),
        ("a,,,eval,1", "line 2: label and class are blank, which only videos of split both"),
        ("a,,x,both,1", "line 2: label must be a number, got ''"),
        ("a,0,,both,1", "line 2: class must be a name without control characters, got ''"),
        ("a,,,both,1\nb,0,x,eval,1", r"both for some videos and not for all \(first: b\)"),
        ("a,-1,x,train,1", "label must be a number, got '-1'"),
        ("a,0,x,train,many", "frames must be a number, got 'many'"),
        ("a,0,x,train", "expected 5 columns"),
        ("a,0,x,train,1\na,0,x,train,1", r"1 id stands there twice \(first: a\)"),
        ("a,0,x,train,1\nb,0,y,train,1", "one to one"),
        ("", "lists no videos"),
        ("a,0,,train,1", "line 2: class must be a name without control characters, got ''"),
        ('a,0,"x\x1b[31m",train,1', r"line 2: class must be a name .* got 'x\\x1b\[31m'"),
        (
            f"a,0,x,train,{'7' * 5000}",
            r"frames must have at most 9 digits, got '7{60}'\.\.\. \(5,000",
        ),
        (f"a,{'1' * 4301},x,train,1", "line 2: label must have at most 9 digits"),
        ("walk,0,x,train,1\nwalk/1,0,x,train,1", r"1 id is also .*\(first: walk of walk/1\)"),
        (
            "e\u0301,0,x,train,1\n\u00e9,0,x,train,1",
            r"1 id differs .* Unicode .*'\\xe9', 'e\\u0301'",
        ),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "d.csv"
    path.write_text(f"video,label,class,split,frames\n{row}\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


def test_columns_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("video,label\na,0\n")
    with pytest.raises(ManifestError, match="columns must be video,label,class,split,frames"):
        read_manifest(path)


def test_a_name_means_one_pile_of_videos() -> None:
    with pytest.raises(
        ManifestError,
        match=r"'ucf' is taken by other videos \(ucf-hmdb-full\). Choose another, e.g. my-ucf",
    ):
        refuse_name_clash("mine", {"ucf": [ROW]}, NONE)
    with pytest.raises(ManifestError, match="'ucf101' is taken"):
        refuse_name_clash("mine", {"ucf101": [ROW]}, NONE)
    refuse_name_clash("mine", {"phone": [ROW]}, NONE)


HEADER = b"video,label,class,split,frames\n"
GOOD = b"a,0,x,train,1\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((HEADER + GOOD).decode().encode("utf-16"), r"d.csv is in UTF-16. Save it as CSV in UTF-8"),
        ((HEADER + GOOD).decode().encode("utf-16-le"), r"line 1: there is a NUL byte, .* UTF-16"),
        (
            HEADER + GOOD + b"caf\xe9,0,x,train,1\n",
            r"line 3: the byte 0xe9 is not UTF-8; .* Latin-1",
        ),
        (HEADER + GOOD + b"b\0,0,x,train,1\n", r"line 3: there is a NUL byte"),
        (
            HEADER + b"a" * 140_000 + b",0,x,train,1\n",
            r"line 2: .* larger than field limit .* quotation mark",
        ),
        (
            HEADER + GOOD + b'"b,0,x,train,1\n',
            r"line 3: this is no CSV .* a quotation mark missing",
        ),
        (b"", r"is empty: its first line must be video,label,class,split,frames\."),
        (b"video;label;class;split;frames\n", r"columns must be .* got 'video;label"),
    ],
)
def test_a_file_that_is_no_utf8_csv_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(
        b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n") + "é,0,x,train,1\r\n".encode()
    )
    assert [video.id for video in read_manifest(path)] == ["é"]


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    os.mkfifo(path)
    with pytest.raises(ManifestError, match=r"d.csv is not a plain file. Put a CSV in its place"):
        read_manifest(path)
    for other in (Path("/dev/zero"), tmp_path):
        with pytest.raises(ManifestError, match="is not a plain file"):
            read_manifest(other)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(6_000_000_000)  # sparse
    with pytest.raises(ManifestError, match=r"has 6,000,000,000 bytes, and no list of videos has"):
        read_manifest(path)


def own(root: Path, benchmark: str, domain: str, *ids: str, frames: int | None = None) -> Path:
    """A benchmark of two classes below `root / "own"`; returns that folder."""
    rows = [
        Video(id=v, label=n % 2, class_name="xy"[n % 2], split="train", frames=frames)
        for n, v in enumerate(ids)
    ]
    write_manifest(root / "own" / benchmark / f"{domain}.csv", rows)
    return root / "own"


def built_in(root: Path, table: str = "dataset,domain\nlabs,lab\n") -> Path:
    folder = root / "data"
    rows = [Video(id=v, label=0, class_name="x", split="train", frames=9) for v in ("p", "q")]
    write_manifest(folder / "given" / "lab.csv", rows)
    (folder / "datasets.csv").write_text(table)
    return folder


def test_own_and_built_in_benchmarks_are_seen_together(tmp_path: Path) -> None:
    places = (tmp_path / "own", built_in(tmp_path))
    assert benchmarks(*places) == {"given": ("lab",)}  # the own folder need not exist
    own(tmp_path, "mine", "phone", "a", "b")
    own(tmp_path, "mine", "lab", "q", "r")
    assert benchmarks(*places) == {"given": ("lab",), "mine": ("lab", "phone")}
    assert manifest_path("given", "lab", *places) == tmp_path / "data" / "given" / "lab.csv"
    assert manifest_path("mine", "lab", *places) == tmp_path / "own" / "mine" / "lab.csv"
    assert dataset_videos("labs", *places) == {"p": 9, "q": 9, "r": None}
    assert choose_benchmark("lab", "phone", None, *places) == "mine"
    assert benchmarks(places[1], places[1]) == {"given": ("lab",)}  # old runs name data/manifests


def test_what_is_no_benchmark_is_not_listed(tmp_path: Path) -> None:
    root = own(tmp_path, "mine", "phone", "a", "b")
    (root / "mine" / "._phone.csv").write_bytes(b"\0\5\x16\7")  # macOS on a foreign disk
    (root / ".git").mkdir()
    (root / ".git" / "x.csv").touch()
    (root / "notes").mkdir()
    (root / "readme.csv").touch()
    assert benchmarks(root, built_in(tmp_path)) == {"given": ("lab",), "mine": ("phone",)}
    (root / "mine" / "phone (copy).csv").touch()
    with pytest.raises(ManifestError, match=r"phone \(copy\).csv: 'phone \(copy\)' is no name"):
        benchmarks(root, built_in(tmp_path))


def test_a_name_in_both_folders_is_refused(tmp_path: Path) -> None:
    root = own(tmp_path, "given", "phone", "a", "b")
    with pytest.raises(ManifestError, match=r"two benchmarks given: .*data/given, .*own/given"):
        manifest_path("given", "lab", root, built_in(tmp_path))
    root = own(tmp_path / "second", "mine", "labs", "a", "b")
    with pytest.raises(
        ManifestError, match=r"own/mine/labs.csv: labs is the data set of the domain lab \(.*line 2"
    ):
        dataset_of("lab", root, built_in(tmp_path))


def test_own_benchmarks_do_not_land_among_the_built_in_ones(tmp_path: Path) -> None:
    folder = built_in(tmp_path)
    with pytest.raises(ManifestError, match="'given' is taken by a benchmark that is built in"):
        refuse_name_clash("given", {}, tmp_path / "own", folder)
    with pytest.raises(
        ManifestError, match=r"belongs to the built-in benchmarks. Give another --mani"
    ):
        refuse_name_clash("mine", {}, folder, folder)
    with pytest.raises(ManifestError, match=r"data/given belongs to the built-in benchmarks"):
        refuse_name_clash("mine", {}, folder / "given", folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("\ufeffdataset,domain\nlabs,lab\n", None),
        ("dataset,domain\n../x,lab\n", r"datasets.csv, line 2: '../x' is no name"),
        ("dataset,domain\nlabs,/tmp\n", r"datasets.csv, line 2: '/tmp' is no name"),
        ("dataset,domain\n..,lab\n", r"line 2: '..' is no name"),
        ("dataset,domain\nCon,lab\n", r"line 2: 'Con' is no name, because Windows keeps it"),
        ("dataset,domain\nlabs,nul.old\n", r"line 2: 'nul.old' .* Choose another, e.g. my-nul.old"),
        ("name,feeds\nlabs,lab\n", r"the columns must be dataset,domain, got 'name,feeds'"),
        ("dataset,domain\nlabs\n", r"line 2: expected 2 columns, got 1"),
        ("dataset,domain\na,lab\nb,lab\n", r"line 3: b,lab contradicts .*line 2"),
        ("dataset,domain\na,lab\na,other\n", r"line 3: a,other contradicts .*line 2"),
    ],
)
def test_the_table_of_data_sets(tmp_path: Path, table: str, message: str | None) -> None:
    places = (tmp_path / "own", built_in(tmp_path, table))
    if message is None:
        assert dataset_of("lab", *places) == "labs"
    else:
        with pytest.raises(ManifestError, match=message):
            domain_of("labs", *places)


def test_a_data_set_is_never_a_path(tmp_path: Path) -> None:
    for name in ("../x", "/etc", "given/lab", ""):
        with pytest.raises(ManifestError, match="There is no data set"):
            dataset_videos(name, tmp_path / "own", built_in(tmp_path))


def test_benchmarks_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    places = (own(tmp_path, "mine", "lab", "p/1", "r"), built_in(tmp_path))
    with pytest.raises(
        ManifestError, match=r"about labs: the id p of given is the folder of p/1 of mine"
    ):
        dataset_videos("labs", *places)
    own(tmp_path, "mine", "lab", "e\u0301", "r")
    own(tmp_path, "yours", "lab", "\u00e9", "r")
    with pytest.raises(
        ManifestError, match=r"the id 'e\\u0301' of mine differs only by .* '\\xe9' of yours"
    ):
        dataset_videos("labs", *places)
    own(tmp_path, "mine", "lab", "p", "r", frames=8)
    with pytest.raises(ManifestError, match="p of labs has 9 frames in given and 8 in mine"):
        dataset_videos("labs", *places)


def test_the_list_goes_on_beside_a_damaged_manifest(tmp_path: Path, cli) -> None:
    root = own(tmp_path, "mine", "phone", "a", "b")
    (root / "mine" / "cctv.csv").write_bytes(b"\xff\xfe")
    listed = cli("manifest", "list", "--manifests", root)
    assert listed.exit_code == 1
    assert "mine                 phone        phone                  2" in listed.output
    assert "ucf-olympic          ucf          ucf101" in listed.output
    assert "cctv.csv is in UTF-16. Save it as CSV in UTF-8" in listed.output


def test_the_place_that_is_not_there_is_named(tmp_path: Path, cli) -> None:
    result = cli("extract", "--dataset", "phone", "--manifests", tmp_path / "typo")
    assert result.exit_code == 1
    assert f"looked for in {tmp_path / 'typo'}, which is not there" in result.output
