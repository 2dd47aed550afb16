"""`manifest label`: a user's CSV of classes for a target without labels, and what it may look like."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import fill, touch

from store.errors import ManifestError
from store.manifest import Video, read_manifest, write_manifest
from store.video_lists import Row, match

FILES = ("a.mp4", "old/a.mp4", "a b; c.mp4", "x, y.mov", "Q.mp4", "q.mp4", "deep/er/1.MP4")


@pytest.fixture
def piles(tmp_path: Path, cli) -> Path:
    """The benchmark `mine` in `manifests`: studio with run and walk, and phone without labels."""
    studio = fill(tmp_path / "studio", "run", "walk")
    phone = touch(tmp_path / "phone", *FILES)
    made = cli(
        *("manifest", "from-folder", "--benchmark", "mine", "--manifests", tmp_path / "manifests"),
        *(f"--domain=studio={studio}", f"--unlabelled=phone={phone}"),
    )
    assert made.exit_code == 0, made.output
    return tmp_path


def label(cli, piles: Path, text: str | bytes, *more: object):
    path = piles / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    options = {"--benchmark": "mine", "--domain": "phone"}
    options |= dict(zip(more[::2], more[1::2]))
    return cli(
        *("manifest", "label", path, "--manifests", piles / "manifests"),
        *(word for pair in options.items() for word in pair),
    )


def classes(piles: Path) -> dict[str, tuple[int, str]]:
    rows = read_manifest(piles / "manifests" / "mine" / "phone.csv")
    assert {row.split for row in rows} == {"both"} and len(rows) == len(FILES)
    return {r.id: (r.label, r.class_name) for r in rows if r.label is not None}


@pytest.mark.parametrize(
    "text",
    [
        'video,class\na b; c,run\n"x, y",walk\n',
        'video,class\n"a b; c.mp4",run\n"x, y.mov",walk\n',
        'video;class\n"a b; c.mp4";run\nx, y;walk\n',
        "video\tclass\na b; c.mp4\trun\nx, y.mov\twalk\n",
        '\ufeffvideo;class\r\n"a b; c";run\r\n\r\nx, y.mov;walk\r\n',
        'video,class\n./a b; c.mp4,run\n"x, y.MOV",walk\n',
        'video,class\n"a b; c",run\n"x, y",walk\n,\n,\n',
    ],
)
def test_what_spreadsheets_write_is_read(cli, piles: Path, text: str) -> None:
    done = label(cli, piles, text)
    assert done.exit_code == 0, done.output
    assert "2 of 7 videos have a label now (2 new, 0 changed)" in done.output
    assert "transductive" in done.output
    assert classes(piles) == {"a b; c": (0, "run"), "x, y": (1, "walk")}


def test_paths_and_names_that_differ_in_case(cli, piles: Path) -> None:
    text = "video,class\nold\\a.mp4,run\nQ,walk\nq.mp4,run\ndeep/er/1.mp4,run\n"
    assert label(cli, piles, text).exit_code == 0
    expected = {"old/a": (0, "run"), "Q": (1, "walk"), "q": (0, "run"), "deep/er/1": (0, "run")}
    assert classes(piles) == expected


def test_labels_are_added_to_those_that_are_there(cli, piles: Path) -> None:
    assert label(cli, piles, "video,class\na,run\nq,run\n").exit_code == 0
    again = label(cli, piles, "video,class\nq,walk\nQ,walk\na,run\n")
    assert "3 of 7 videos have a label now (1 new, 1 changed)" in again.output
    assert classes(piles) == {"a": (0, "run"), "q": (1, "walk"), "Q": (1, "walk")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "video,class\nnone.mp4,run\na,run\nold/b,walk\n",
            "2 of 3 rows of {path} name no video of phone (first: 'none.mp4' in line 2). A video is named by "
            "its id",
        ),
        (
            "video,class\nA,run\n",
            "1 of 1 row of {path} names no video of phone (first: 'A' in line 2; is 'a' meant?).",
        ),
        (
            "video,class\nphone/1.mp4,run\n",
            "(first: 'phone/1.mp4' in line 2; is 'deep/er/1' meant?).",
        ),
        ("video,class\nphone/a.mp4,run\n", "(first: 'phone/a.mp4' in line 2). A video is named"),
        (
            "video,class\na,Run\nq,sit\n",
            "2 of 2 rows of {path} have a class that the benchmark has not (first: 'Run' in line 2; is 'run' "
            "meant?). The classes are run, walk.",
        ),
        ("video,class\na,\n", "has not (first: '' in line 2). The classes are run, walk."),
        (
            "video,class\na,run\nq,walk\na.mp4,run\nq,walk\n",
            "2 videos stand there twice (first: 'a.mp4', in {path}, line 2 and in {path}, line 4).",
        ),
        ("video,class\n", "{path} lists no videos."),
        ("clip,class\na,run\n", "{path}: the columns must be video,class, got 'clip,class'."),
        ("video,class\na;b,run,walk\n", "{path}, line 2: expected 2 columns, got 3."),
        ("video,class\ncaf\u00e9,run\n".encode("latin-1"), "line 2: the byte 0xe9 is not UTF-8"),
    ],
)
def test_a_list_with_a_mistake_changes_nothing(
    cli, piles: Path, text: str | bytes, message: str
) -> None:
    assert label(cli, piles, "video,class\nold/a,walk\n").exit_code == 0
    refused = label(cli, piles, text)
    assert refused.exit_code == 1
    assert message.format(path=piles / "labels.csv") in refused.output
    assert classes(piles) == {"old/a": (1, "walk")}


def test_labels_go_to_a_domain_without_labels_alone(cli, piles: Path) -> None:
    before = (piles / "manifests" / "mine" / "studio.csv").read_bytes()
    refused = label(cli, piles, "video,class\nrun/000,walk\n", "--domain", "studio")
    assert refused.exit_code == 1
    assert "The videos of studio have their labels from its folders" in refused.output
    assert (piles / "manifests" / "mine" / "studio.csv").read_bytes() == before
    for more, message in (
        (("--domain", "cctv"), "no domain cctv of the benchmark mine, which has phone, studio."),
        (("--benchmark", "his"), "no domain phone of the benchmark his, which is not there."),
    ):
        refused = label(cli, piles, "video,class\na,run\n", *more)
        assert refused.exit_code == 1 and message in refused.output
    (piles / "labels.csv").unlink()
    places = ("--benchmark=mine", "--domain=phone", "--manifests", piles / "manifests")
    absent = cli("manifest", "label", piles / "labels.csv", *places)
    assert absent.exit_code == 1 and "There is no file" in absent.output


def test_a_name_that_could_mean_two_videos_is_refused() -> None:
    ids = ("clip", "clip.mp4")  # of the files clip.mp4 and clip.mp4.mp4
    found = match([Row("x", "clip", "1"), Row("x", "clip.mp4.mp4", "2")], ids, {".mp4"})
    assert {video: row.value for video, row in found.rows.items()} == {"clip": "1", "clip.mp4": "2"}
    with pytest.raises(ManifestError, match=r"x: 'clip.mp4' could mean clip or clip.mp4. Write"):
        match([Row("x", "clip.mp4", "1")], ids, {".mp4"})
    dotted = match([Row("x", "take.1", "1")], ("take", "take.1"), {".mp4"})
    assert list(dotted.rows) == ["take.1"]


def test_accents_are_compared_as_one_character(cli, piles: Path) -> None:
    path = piles / "manifests" / "mine" / "phone.csv"
    rows = [*read_manifest(path)]
    rows[0] = Video(id="cafe\u0301", label=None, class_name=None, split="both", frames=None)
    write_manifest(path, rows)
    assert label(cli, piles, "video,class\ncaf\u00e9,run\n").exit_code == 0
    assert classes(piles) == {"cafe\u0301": (0, "run")}


def test_the_list_of_benchmarks_says_what_has_labels(cli, piles: Path) -> None:
    listed = ["manifest", "list", "--manifests", piles / "manifests"]
    line = "mine                 phone        phone                  7 "
    assert f"{line}      no labels\n" in cli(*listed).output
    assert label(cli, piles, "video,class\na,run\nq,run\n").exit_code == 0
    assert f"{line}     2        1\n" in cli(*listed).output
