"""`store verify` and `store list`: every kind of damage is made, and must be found and named.

Above 250 lines: one test per kind.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CONFIG, REPOSITORY, make_store, slow

from extract.check_sources import sources_in
from store import compare as comparing
from store.check import CHECKS, verify
from store.contents import Kind
from store.format import store_folder
from store.origin import config_of
from store.records import VideoRecord
from store.tables import write_index
from store.write import ShardWriter

WIDTH = 6
IDS = ["#1 [x] (y) & z!", "-7Y7_0", "walk/001", "walk/002", "naïve+"]


def matrix(seed: int, frames: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, width)).astype(np.float32)


def full_store(features: Path, videos: Path) -> Path:
    """Two shards, source files, and one video of every status."""
    folder = store_folder(features, "toy", CONFIG)
    folder.mkdir(parents=True)
    records = [
        VideoRecord(video="gone", status="missing", error="no video file of that name"),
        VideoRecord(video="bad", status="failed", error='cut, "short"\nor worse', source="bad.avi"),
        VideoRecord(video="later", status="pending", error="not extracted yet"),
    ]
    for number, ids in enumerate((IDS[:3], IDS[3:])):
        with ShardWriter(folder, number, CONFIG) as writer:
            for i, video in enumerate(ids):
                path = videos / f"{video}.avi"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(video.encode() * 50)
                record = VideoRecord(
                    video=video,
                    source=f"{video}.avi",
                    fps=29.97,
                    seconds=1.001,
                    source_bytes=path.stat().st_size,
                    source_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                )
                records.append(writer.add(record, matrix(10 * number + i, 3 + i)))
    write_index(
        folder, dataset="toy", config=CONFIG, width=WIDTH, records=records, run={"weights": "none"}
    )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return full_store(tmp_path / "features", tmp_path / "videos")


def seal(folder: Path) -> None:
    """Make all hashes and sizes true again: what is wrong then is only what was edited."""
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:
        data = (folder / shard["file"]).read_bytes()
        shard |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for name in index["tables"]:
        index["tables"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index))
    names = [shard["file"] for shard in index["shards"]]
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in (*names, "index.json", "videos.csv", "failures.csv")
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def found(folder: Path, kind: Kind) -> list[str]:
    """The problems of a store, all of which must be of one kind."""
    problems = list(verify(folder, CHECKS))
    assert {problem.kind for problem in problems} == {kind}
    return [str(problem) for problem in problems]


def test_a_sound_store_has_no_problem(folder: Path, cli) -> None:
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    for place in (folder, folder.parent, folder.parent.parent):
        result = cli("store", "verify", place)
        assert result.exit_code == 0
        assert f"{folder}: no problem found" in result.output
        assert (
            "incomplete: 1 missing, 1 failed, 1 pending; 5 of 8 videos, 19 frames" in result.output
        )


@pytest.mark.parametrize("flips", [36, slow(360)])
def test_every_flipped_byte_is_found(folder: Path, cli, flips: int) -> None:
    random = np.random.default_rng(0)
    files = sorted(folder.iterdir())
    assert len(files) == 6
    metadata = []  # of the shards: what HDF5 itself wrote around the features
    for path in files:
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                datasets = [file[video].id for video in IDS if video in file]
                spans = [(d.get_offset(), d.get_storage_size()) for d in datasets]
            inside = {i for start, size in spans for i in range(start, start + size)}
            metadata += [(path, i) for i in range(path.stat().st_size) if i not in inside]
    picked = [metadata[i] for i in random.integers(len(metadata), size=flips // 3)]
    picked += [
        (p, int(random.integers(p.stat().st_size))) for p in files for _ in range(flips // 9)
    ]
    assert len(picked) == flips
    for path, position in picked:
        clean = path.read_bytes()
        damaged = bytearray(clean)
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        result = cli("store", "verify", folder)
        assert (result.exit_code, type(result.exception)) == (1, SystemExit), (path, position)
        assert path.name in result.output
        cli("store", "list", "--features", folder.parent.parent)
        path.write_bytes(clean)
    assert cli("store", "verify", folder).exit_code == 0


def test_flips_name_the_damaged_file_and_what_to_do(folder: Path, cli) -> None:
    shard = folder / "shard-00001.h5"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    problems = found(folder, Kind.SHARD)
    assert len(problems) == 1 and problems[0].startswith("shard-00001.h5: its sha256 is ")
    result = cli("store", "verify", folder)
    assert "1 x damaged shard. Delete it and run extract again, or what else made" in result.output


def test_cut_and_absent_files(folder: Path) -> None:
    shard = folder / "shard-00001.h5"
    clean = shard.read_bytes()
    shard.write_bytes(clean[:-1])
    assert any("bytes, the index says" in text for text in found(folder, Kind.SHARD))
    shard.unlink()
    assert found(folder, Kind.ABSENT) == ["shard-00001.h5: it is not there, but the index lists it"]
    shard.write_bytes(clean)
    for name in ("index.json", "videos.csv", "failures.csv", "SHA256SUMS"):
        text = (folder / name).read_bytes()
        (folder / name).unlink()
        assert f"{name}: it is not there" in found(folder, Kind.ABSENT)
        (folder / name).write_bytes(text)
    assert list(verify(folder, CHECKS)) == []


def edit_rows(folder: Path, edit: Callable[[list[dict[str, str]]], None], *names: str) -> None:
    for name in names or ("videos.csv",):
        with (folder / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        fields = list(rows[0])
        edit(rows)
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def row(rows: list[dict[str, str]], video: str) -> dict[str, str]:
    return next(r for r in rows if r["video"] == video)


CONTRADICTIONS = {
    "2 rows for walk/001": lambda rows: rows.append(row(rows, "walk/001")),
    "naïve+ has status 'good'": lambda rows: row(rows, "naïve+").update(status="good"),
    "naïve+ is stored with 0 frames": lambda rows: row(rows, "naïve+").update(frames="0"),
    "later is pending, but has a shard": lambda rows: row(rows, "later").update(shard="x"),
    "'../x.h5', which is not in the index": lambda rows: row(rows, "naïve+").update(
        shard="../x.h5"
    ),
    "whose status is not ok": lambda rows: row(rows, "gone").update(error="other"),
    "totals.listed is 8, videos.csv has 7": lambda rows: rows.remove(row(rows, "gone")),
    "totals.missing is 1, videos.csv has 0": lambda rows: row(rows, "gone").update(status="failed"),
    "with 2 videos and 7 frames, videos.csv has 2 and 8": lambda rows: row(rows, "naïve+").update(
        frames="5"
    ),
}


@pytest.mark.parametrize("text", CONTRADICTIONS)
def test_tables_against_each_other(folder: Path, text: str) -> None:
    edit_rows(folder, CONTRADICTIONS[text])
    seal(folder)
    problems = list(verify(folder, CHECKS))
    assert any(p.kind is Kind.CONTRADICTION and text in p.found for p in problems)


def test_index_against_the_folder(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "complete": True}))
    seal(folder)
    assert "complete is True, 5 of 8 rows are stored" in found(folder, Kind.CONTRADICTION)[0]
    (folder / "index.json").write_text(json.dumps(index))
    seal(folder)
    shard = folder / "shard-00000.h5"
    (folder / "shard-00002.h5").write_bytes(shard.read_bytes())
    assert "shard-00002.h5: it is not in the index" in found(folder, Kind.CONTRADICTION)[0]
    (folder / "shard-00002.h5").unlink()
    other = folder.rename(folder.with_name("fake-01234567"))
    assert "the folder's name says config 01234567" in found(other, Kind.CONTRADICTION)[0]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ('"bytes"', '"bytas"', Kind.TABLE),
        ('"width": 6', '"width": "6"', Kind.TABLE),
        ('"format": 2', '"format": 3', Kind.TABLE),
        ('"stride": 1', '"stride": 2', Kind.TABLE),
        ('"shard-00001.h5"', '"../x/secret.h5"', Kind.TABLE),
    ],
)
def test_an_index_that_cannot_be_used(
    folder: Path, tmp_path: Path, cli, old: str, new: str, kind: Kind
) -> None:
    path = folder / "index.json"
    path.write_text(path.read_text().replace(old, new))
    assert path.read_text().count(new) >= 1
    assert {p.where for p in verify(folder, CHECKS) if p.kind is kind} == {"index.json"}
    assert cli("store", "verify", folder).exit_code == 1
    listed = cli("store", "list", "--features", tmp_path / "features")
    assert listed.exit_code == 0 and "damaged: " in listed.output


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", "null", "\0", "\ud800"])
def test_tables_of_garbage(folder: Path, cli, text: str) -> None:
    for name in ("index.json", "videos.csv", "failures.csv", "SHA256SUMS"):
        clean = (folder / name).read_bytes()
        (folder / name).write_bytes(text.encode(errors="surrogatepass"))
        result = cli("store", "verify", folder)
        assert (result.exit_code, type(result.exception)) == (1, SystemExit)
        assert name in result.output
        (folder / name).write_bytes(clean)


def test_sums_in_detail(folder: Path) -> None:
    path = folder / "SHA256SUMS"
    clean = path.read_text()
    lines = clean.splitlines(keepends=True)
    for text, expected in {
        "".join(lines[1:]): "SHA256SUMS: does not list shard-00000.h5",
        clean + "0" * 64 + "  ../x\n": "SHA256SUMS: lists '../x', which is not in the index",
        clean + lines[0]: "SHA256SUMS: a line is malformed or stands there twice",
        clean[:-1]: "SHA256SUMS: a line is malformed",
        clean.replace("  ", " ", 1): "SHA256SUMS: a line is malformed",
    }.items():
        path.write_text(text)
        assert any(p.startswith(expected) for p in found(folder, Kind.SUMS)), expected
    path.write_text(clean.replace(lines[0][:64], "0" * 64))
    assert "SHA256SUMS says 00000000..." in found(folder, Kind.CONTRADICTION)[0]


def rewrite(name: str, values: np.ndarray, **record: object) -> Callable[[h5py.File], None]:
    """Replace features; the record beside them keeps its words, but for those given."""

    def edit(file: h5py.File) -> None:
        old = {**json.loads(file[name].attrs["record"]), **record}
        del file[name]
        file.create_dataset(name, data=values).attrs["record"] = json.dumps(old)

    return edit


def crc(values: np.ndarray) -> str:
    return f"{zlib.crc32(values.tobytes()):08x}"


ZEROS = np.zeros((4, WIDTH), np.float16)
NAN = np.full((4, WIDTH), np.nan, np.float16)
SHARD_DAMAGE: dict[str, Callable[[h5py.File], object]] = {
    "the features of naïve+ do not have their crc32": rewrite("naïve+", ZEROS),
    "the record beside naïve+ is not its row": rewrite("naïve+", ZEROS, crc32=crc(ZEROS)),
    "the features of naïve+ are not finite": rewrite("naïve+", NAN, crc32=crc(NAN)),
    "naïve+ has shape (3, 6), expected (4, 6)": rewrite("naïve+", ZEROS[:3]),
    "naïve+ has shape (4, 5), expected (4, 6)": rewrite("naïve+", ZEROS[:, :5]),
    "expected float16": rewrite("naïve+", ZEROS.astype(np.float32)),
    "naïve+ is not in it, though": lambda f: f.__delitem__("naïve+"),
    "new is in it, though": lambda f: f.move("naïve+", "new"),
    "made with another config": lambda f: f.attrs.__setitem__("config", "{}"),
    "has no valid record": lambda f: f["naïve+"].attrs.__delitem__("record"),
    "extra is a link and is refused": lambda f: f.__setitem__("extra", h5py.SoftLink("/walk/002")),
    "out is a link and is refused": lambda f: f.__setitem__("out", h5py.ExternalLink("/x.h5", "x")),
    "huge is not stored in one piece": lambda f: f.create_dataset(
        "huge", (10**12, WIDTH), np.float16, chunks=(64, WIDTH)
    ),
    "never is not stored in one piece": lambda f: f.create_dataset(
        "never", (10**9, WIDTH), np.float16
    ),
}


@pytest.mark.parametrize("text", SHARD_DAMAGE)
def test_inside_the_shards(folder: Path, cli, text: str) -> None:
    with h5py.File(folder / "shard-00001.h5", "a") as file:
        SHARD_DAMAGE[text](file)
    seal(folder)
    problems = found(folder, Kind.SHARD)
    assert any(problem.startswith("shard-00001.h5: ") and text in problem for problem in problems)
    assert cli("store", "verify", folder).exit_code == 1


def test_a_group_that_contains_itself_ends(folder: Path) -> None:
    with h5py.File(folder / "shard-00001.h5", "a") as file:
        file["walk/again"] = file["walk"]
        file["walk/root"] = file["/"]
    seal(folder)
    assert list(verify(folder, CHECKS)) == []


def test_foreign_files_leftovers_and_links(folder: Path, cli) -> None:
    (folder / ".shard-00002.h5.partial").write_bytes(b"half")
    (folder / ".videos.csv.123.partial").touch()
    (folder / "notes.txt").touch()
    shard, elsewhere = folder / "shard-00001.h5", folder.parent / "elsewhere.h5"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    os.mkfifo(folder / "shard-00009.h5")  # opening it would wait forever
    (folder / "failures.csv").unlink()
    (folder / "failures.csv").mkdir()
    by_kind: dict[Kind, set[str]] = {}
    for problem in verify(folder, CHECKS):
        by_kind.setdefault(problem.kind, set()).add(problem.where)
    assert by_kind == {
        Kind.LEFTOVER: {".shard-00002.h5.partial", ".videos.csv.123.partial"},
        Kind.FOREIGN: {"notes.txt"},
        Kind.LINK: {"shard-00001.h5", "shard-00009.h5", "failures.csv"},
    }
    output = cli("store", "verify", folder).output
    assert (
        "2 x leftover of a killed run. Delete it, unless an extraction is running there now."
        in output
    )
    assert "shard-00001.h5: it is a link" in output


def test_only_the_first_problems_of_a_kind_are_shown(folder: Path, cli) -> None:
    for i in range(5):
        (folder / f"foreign{i}").touch()
    output = cli("store", "verify", folder).output
    assert "5 problems" in output and "5 x foreign file. Move it out of the store." in output
    assert "foreign2" in output and "foreign3" not in output and "and 2 more" in output


def test_where_there_is_no_store(tmp_path: Path, cli) -> None:
    for command in (("verify", tmp_path / "none"), ("list", "--features", tmp_path / "none")):
        result = cli("store", *command)
        assert result.exit_code == 1 and "There is no folder" in result.output
    result = cli("store", "verify", tmp_path)
    assert result.exit_code == 1 and "There is no feature store in" in result.output


def test_source_videos(folder: Path, tmp_path: Path, cli) -> None:
    videos = tmp_path / "videos"
    verify_sources = ("store", "verify", folder, "--videos", videos)
    assert cli(*verify_sources).exit_code == 0
    # In the second of two folders is as good.
    assert cli("store", "verify", folder, "--videos", tmp_path, "--videos", videos).exit_code == 0
    same_size = videos / "walk/001.avi"
    same_size.write_bytes(same_size.read_bytes()[::-1])
    (videos / "naïve+.avi").unlink()
    (videos / "-7Y7_0.avi").write_bytes(b"other")
    result = cli(*verify_sources)
    assert result.exit_code == 1
    assert "3 x source that is not the extracted one" in result.output
    assert "naïve+: there is no naïve+.avi" in result.output
    assert "-7Y7_0.avi has 5 bytes and sha256 " in result.output


@pytest.mark.parametrize("source", ["../secret.avi", "/etc/passwd", "walk/../../secret.avi"])
def test_sources_never_leave_the_folder(folder: Path, tmp_path: Path, source: str) -> None:
    (tmp_path / "secret.avi").write_bytes(b"x")
    edit_rows(folder, lambda rows: row(rows, "naïve+").update(source=source))
    problems = list(verify(folder, [sources_in([tmp_path / "videos"])]))
    assert [p.found for p in problems if p.where == "naïve+"] == [
        f"{source} is not below the folder of videos; it was not opened"
    ]


def test_source_that_was_not_recorded_is_said(folder: Path, tmp_path: Path) -> None:
    edit_rows(folder, lambda rows: row(rows, "naïve+").update(source=""))
    problems = list(verify(folder, [sources_in([tmp_path / "videos"])]))
    assert [str(problem) for problem in problems] == [
        "naïve+: the store does not say which file it was made from"
    ]


def test_a_store_that_records_no_sources_is_said_and_the_rest_is_checked(
    tmp_path: Path, folder: Path, cli
) -> None:
    """Imported features, and those of a program that records none: their videos cannot be compared."""
    videos = {video: matrix(i, 3) for i, video in enumerate(("a", "b"))}
    imported = config_of("rgb", "RGB-feature", "t7", WIDTH, "float16")
    imported_folder = make_store(tmp_path / "i", "toy", videos, imported)
    for path, how in (
        (imported_folder, "its 2 videos were made from (they were imported, from 'RGB-feature')."),
        (make_store(tmp_path / "o", "toy", videos), "its 2 videos were made from."),
    ):
        assert "not checked" not in cli("store", "verify", path).output
        found = cli("store", "verify", path, "--videos", tmp_path / "videos")
        assert found.exit_code == 0 and "no problem found" in found.output
        said = f"Source videos were not checked: the store does not record which files {how}"
        assert said in " ".join(found.output.split()) and Kind.SOURCE.label not in found.output
        sampled = cli("store", "verify", path, "--videos", tmp_path / "videos", "--sample", 1)
        assert sampled.exit_code == 1
        assert "So none can be extracted again for --sample." in " ".join(sampled.output.split())
    shard = imported_folder / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[:-8])
    damaged = cli("store", "verify", imported_folder, "--videos", tmp_path / "videos")
    assert damaged.exit_code == 1 and Kind.SHARD.label in damaged.output
    (tmp_path / "videos" / f"{IDS[0]}.avi").write_bytes(b"other")
    both = cli("store", "verify", folder, "--videos", tmp_path / "videos")
    assert both.exit_code == 1 and "1 x source that is not the extracted one" in both.output
    assert "not checked" not in both.output


def test_source_may_be_a_folder_of_images(folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "videos" / "clip"
    images.mkdir()
    lines = ""
    for name in ("9.jpg", "10.jpg"):  # natural order
        (images / name).write_bytes(name.encode())
        lines += f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n"
    facts = {"source_bytes": "11", "source_sha256": hashlib.sha256(lines.encode()).hexdigest()}
    edit_rows(folder, lambda rows: row(rows, "naïve+").update(source="clip", **facts))
    check = sources_in([tmp_path / "videos"])
    assert list(verify(folder, [check])) == []
    (images / "10.jpg").write_bytes(b"other!")
    assert [problem.where for problem in verify(folder, [check])] == ["naïve+"]


def test_list(folder: Path, tmp_path: Path, cli) -> None:
    features = tmp_path / "features"
    config = {**CONFIG, "preset": "ta3n", "stride": 4, "compute_dtype": "bfloat16"}
    whole = make_store(features, "toy", {"a": matrix(0, 3)}, config)
    (features / "other" / "fake-00000000").mkdir(parents=True)
    damaged = make_store(features, "third", {"a": matrix(0, 3)})
    (damaged / "videos.csv").write_bytes(b"\xff")
    cut = make_store(features, "fourth", {"a": matrix(0, 3)})
    (cut / "shard-00000.h5").write_bytes(b"")
    result = cli("store", "list", "--features", features)
    assert result.exit_code == 0
    size = sum(path.stat().st_size for path in whole.iterdir()) / 1e6
    lines = result.output.splitlines()
    assert f"toy/{whole.name}: complete; 1 of 1 video, 3 frames, {size:.1f} MB" in lines
    assert "  fake, weights none, preset ta3n, stride 4, compute dtype bfloat16" in lines
    assert "other/fake-00000000: unfinished: no index.json yet, 0 finished shards; 0.0 MB" in lines
    assert any(line.startswith(f"third/{damaged.name}: damaged: ") for line in lines)
    assert any(
        line.startswith(f"fourth/{cut.name}: damaged: 1 shard is absent or of another size")
        for line in lines
    )
    assert f"toy/{folder.name}: incomplete: 1 missing, 1 failed, 1 pending" in result.output


def test_numbers_below_zero_are_wrong_usage(folder: Path, tmp_path: Path, cli) -> None:
    result = cli("store", "compare", folder, folder, "--show", -1)
    assert result.exit_code == 2 and "Invalid value for '--show'" in result.output
    result = cli("store", "verify", folder, "--videos", tmp_path, "--sample", -1)
    assert result.exit_code == 2 and "Invalid value for '--sample'" in result.output


def test_a_sample_of_nothing_is_said(tmp_path: Path, cli) -> None:
    folder = store_folder(tmp_path, "toy", CONFIG)
    folder.mkdir(parents=True)
    records = [VideoRecord(video="gone", status="missing")]
    write_index(folder, dataset="toy", config=CONFIG, width=6, records=records, run={})
    result = cli("store", "verify", folder, "--videos", tmp_path, "--sample", 3)
    assert result.exit_code == 1, result.output
    assert f"{folder} has no stored video to extract again." in result.output


@pytest.mark.parametrize(("frames", "noise", "code"), [(4, 0.01, 0), (4, 1.0, 1), (5, 0.0, 1)])
def test_a_sample_that_differs_fails(
    folder: Path, cli, monkeypatch: pytest.MonkeyPatch, frames: int, noise: float, code: int
) -> None:
    from extract import resample

    b = matrix(0, 4)
    a = np.concatenate([b, b])[:frames] + noise * matrix(1, frames)
    pair = comparing.compare_features("v", a.astype(np.float16), b.astype(np.float16))
    monkeypatch.setattr(resample, "resample", lambda *_, **__: [pair])
    videos = folder.parents[2] / "videos"
    result = cli("store", "verify", folder, "--videos", videos, "--sample", 1)
    assert result.exit_code == code, result.output


def test_every_store_command_shows_an_example(cli) -> None:
    for name in ("list", "verify", "compare", "prune"):
        help_text = cli("store", name, "-h").output
        assert f"Example:\n    python cli.py store {name}" in help_text


def test_checking_needs_neither_torch_nor_decord() -> None:
    code = (
        "import sys, store.check, extract.check_sources, store.compare, store.inventory;"
        "sys.exit(bool({'torch', 'torchvision', 'decord'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
