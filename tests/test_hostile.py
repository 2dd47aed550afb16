"""Stores made by somebody who means harm: a sentence for each, never a traceback, a hang or full memory.

Above 250 lines: one test per attack.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import CONFIG, edited_json, make_store, toy_arguments
from test_check import matrix, seal

from commands.text import shown, shown_lines
from store import format as layout
from store.check import CHECKS, verify
from store.errors import StoreError
from store.format import config_sha256, read_index, read_records
from store.index import StoreIndex
from store.read import FeatureStore, find_stores
from store.records import VideoRecord, parse_records, records_text
from store.rewrite import drop_videos
from store.shards import open_shard, records_in
from store.tables import write_index
from store.write import ShardWriter

TABLES = ("index.json", "videos.csv", "failures.csv", "SHA256SUMS")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_store(tmp_path, "toy", {"a": matrix(0, 3), "b": matrix(1, 4)})


def link_out(path: Path) -> None:
    other = path.parent.parent / "secret"
    other.write_bytes(b"secret")
    path.symlink_to(other)


def bind(path: Path) -> None:
    where = os.open(path.parent, os.O_RDONLY)  # a socket's path may have 108 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{where}/{path.name}")
    os.close(where)


NO_FILES: dict[str, Callable[[Path], None]] = {
    "is a pipe; files of a store are plain files": os.mkfifo,
    "is a folder; files of a store are plain files": os.mkdir,
    "is a link to another folder": lambda path: path.symlink_to("/dev/zero"),
    "is a link to another folder;": link_out,
    "Too many levels of symbolic links": lambda path: path.symlink_to(path.name),
    "cannot be opened": bind,
}


@pytest.mark.parametrize("text", NO_FILES)
@pytest.mark.parametrize("name", [*TABLES, "shard-00000.h5"])
def test_only_plain_files_are_opened(folder: Path, cli, name: str, text: str) -> None:
    (folder / name).unlink()
    NO_FILES[text](folder / name)
    assert any(p.where == name for p in verify(folder, CHECKS))
    assert cli("store", "verify", folder).exit_code == 1
    assert cli("store", "list", "--features", folder.parent.parent).exit_code == 0
    if name == "shard-00000.h5":
        with pytest.raises(StoreError, match=text):
            open_shard(folder / name)
        with pytest.raises(StoreError, match=text):
            StoreIndex(folder, "toy", CONFIG, 6)
    elif name in ("index.json", "videos.csv"):
        with pytest.raises(StoreError, match=text):
            FeatureStore(folder)


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_a_largest_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    monkeypatch.setitem(layout.LARGEST, name, 1_000_000)
    assert any("is larger than 1 MB and is refused" in p.found for p in verify(folder, CHECKS))


def edit_index(folder: Path, edit: Callable[[dict], object]) -> None:
    with edited_json(folder / "index.json") as index:
        edit(index)
        index["config_sha256"] = config_sha256(index["config"])


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


HOSTILE_INDEX: dict[str, Callable[[dict], object]] = {
    "nested more than 32 levels deep": lambda i: i["config"].update(x=deep(100)),
    "nested more than 32 levels": lambda i: i["run"].update(x=deep(500)),
    "surrogates not allowed": lambda i: i["run"].update(weights="\ud800"),
    "surrogates not": lambda i: i["run"].update({"\udc00\ud800": 1}),
    "NaN is no number": lambda i: i["run"].update(x=float("nan")),
    "-Infinity is no number": lambda i: i["config"].update(x=-float("inf")),
    "no valid width": lambda i: i.update(width=10**30),
    "no valid bytes": lambda i: i["shards"][0].update(bytes=-1),
    "no valid totals": lambda i: i.update(totals=[]),
    "no valid frames": lambda i: i["totals"].update(frames=True),
    "no valid videos.csv": lambda i: i.update(tables={}),
    "no valid file": lambda i: i["shards"].insert(0, "shard-00000.h5"),
    "among its shards that cannot be one": lambda i: i["shards"][0].update(
        file="shard-\u0661\u0661111.h5"
    ),
    "no valid format": lambda i: i.update(format=True),
}


@pytest.mark.parametrize("text", HOSTILE_INDEX)
def test_the_index(folder: Path, cli, text: str) -> None:
    edit_index(folder, HOSTILE_INDEX[text])
    with pytest.raises(StoreError, match=text):
        read_index(folder)
    for command in (("verify", folder), ("list", "--features", folder.parent.parent)):
        result = cli("store", *command)
        assert result.exit_code == (command[0] == "verify"), result.output
        assert text in result.output


@pytest.mark.parametrize(
    ("dataset", "backbone", "text"),
    [
        ("../../elsewhere", "fake", "a data set that is refused: '../../elsewhere' is no name"),
        ("toy", "../../elsewhere", "a backbone that is refused: '../../elsewhere-"),
        ("toy", None, "a backbone that is refused: '-"),
    ],
)
@pytest.mark.parametrize("command", ["subset", "merge"])
def test_names_in_an_index_lead_no_new_store_out_of_its_folder(
    tmp_path: Path, cli, command: str, dataset: str, backbone: str | None, text: str
) -> None:
    config = {k: v for k, v in {**CONFIG, "backbone": backbone}.items() if v is not None}
    folders = [tmp_path / "theirs" / name for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        with ShardWriter(folder, 0, config) as writer:
            rows = [writer.add(VideoRecord(video=folder.name), matrix(0, 3))]
        write_index(folder, dataset=dataset, config=config, width=6, records=rows, run={})
    (tmp_path / "list.txt").write_text("a\n")
    before = sorted(tmp_path.rglob("*"))
    options = (*folders[:1], "--videos", tmp_path / "list.txt") if command == "subset" else folders
    refused = cli("store", command, *options, "--out", tmp_path / "new" / "features")
    assert refused.exit_code == 1 and text in refused.output, refused.output
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", ["1e999", "9" * 5000, '{"a":' * 90_000, '"\\ud800'])
def test_json_that_breaks_parsers(folder: Path, text: str) -> None:
    clean = (folder / "index.json").read_text()
    (folder / "index.json").write_text(clean.replace('"width": 6', f'"width": {text}'))
    with pytest.raises(StoreError, match=r"index\.json is damaged"):
        read_index(folder)


CELLS = {
    "no valid frames": ("frames", "-1"),
    "no valid source_bytes": ("source_bytes", "9" * 30),
    "no valid fps": ("fps", "nan"),
    "no valid seconds": ("seconds", "inf"),
    "could not convert string to float": ("fps", ""),
    "invalid literal for int": ("frames", "3.5"),
    "Exceeds the limit": ("frames", "9" * 5000),
    "field larger than field limit": ("error", "x" * 200_000),
    "no video": ("video", ""),
}


@pytest.mark.parametrize("text", CELLS)
def test_the_tables(folder: Path, text: str) -> None:
    path = folder / "videos.csv"
    field, value = CELLS[text]
    good = dataclasses.asdict(VideoRecord(video="a"))
    cells = {**good, field: value}.values()
    path.write_text(",".join(good) + "\n" + ",".join(map(str, cells)) + "\n")
    with pytest.raises(StoreError, match=rf"videos\.csv is damaged \(.*{text}"):
        read_records(path)


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """File names may be anything but NUL, and an error text may come from anywhere."""
    records = [
        VideoRecord(video="a", source='x\ry\n"z",\udcff\u2028.avi', error="bad\r\nthing\x1b[2J"),
        VideoRecord(video="b", error="x" * 500_000, source_mtime_ns=-5),
    ]
    data = records_text(records).encode("utf-8", "surrogateescape")
    read = parse_records(data, tmp_path)
    assert read[0] == records[0]
    assert read[1] == dataclasses.replace(records[1], error="x" * 2000)


def record(**changed: object) -> Callable[[h5py.Dataset], None]:
    def edit(dataset: h5py.Dataset) -> None:
        old = json.loads(dataset.attrs["record"])
        dataset.attrs["record"] = json.dumps({**old, **changed})

    return edit


def attribute(value: object, dtype: object = None) -> Callable[[h5py.Dataset], None]:
    return lambda dataset: dataset.attrs.create("record", value, dtype=dtype)


HOSTILE_RECORDS: dict[str, Callable[[h5py.Dataset], None]] = {
    "no valid frames": record(frames="3"),
    "no valid width": record(width=10**40),
    "no valid source ": record(source=["x"]),
    "no valid fps": record(fps=None),
    "no valid extra": record(extra=1),
    "surrogates not allowed": record(error="\ud800"),
    "it says pending": record(status="pending"),
    "it is that of b in": record(video="b"),
    "it is that of a in ../x.h5": record(shard="../x.h5"),
    "nested too deeply|nested more than": attribute("[" * 60_000),
    "record is longer than 65,536 letters": attribute("x" * 70_000, h5py.string_dtype()),
    "record is no text": attribute(np.zeros(4)),
    "record is no text ": attribute(3.0),
    "NaN is no number": attribute('{"video": NaN}'),
    "it is no JSON object": attribute("[]"),
}


@pytest.mark.parametrize("text", HOSTILE_RECORDS)
def test_the_records(folder: Path, cli, text: str) -> None:
    shard = folder / "shard-00000.h5"
    with h5py.File(shard, "a") as file:
        HOSTILE_RECORDS[text](file["a"])
    seal(folder)
    with pytest.raises(StoreError, match=rf"a has no valid record \(.*({text.strip()})"):
        records_in(shard, CONFIG)
    result = cli("store", "verify", folder)
    assert result.exit_code == 1 and "a cannot be read" in result.output
    with pytest.raises(StoreError, match="has no valid record"):
        drop_videos(folder, ["b"])


def contiguous(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    """A dataset that is allocated and never written."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_layout(h5py.h5d.CONTIGUOUS)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F16LE, space, made)


def test_a_dataset_that_claims_more_than_the_file_has(folder: Path) -> None:
    shard = folder / "shard-00000.h5"
    refused = "claims bytes up to|invalid dataset size"  # newer HDF5 sees it by itself
    with h5py.File(shard, "a") as file:
        offset = file["b"].id.get_offset()
    data = shard.read_bytes()
    assert data.count(offset.to_bytes(8, "little")) == 1
    shard.write_bytes(
        data.replace(offset.to_bytes(8, "little"), (len(data) - 8).to_bytes(8, "little"))
    )
    seal(folder)
    with FeatureStore(folder) as store, pytest.raises(StoreError, match=refused):
        store.location("b")
    assert any(re.search(refused, p.found) for p in verify(folder, CHECKS))


def test_a_sparse_dataset_of_6_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified in blocks; read, where memory ends, with a sentence."""
    folder = make_store(tmp_path, "toy", {"a": matrix(0, 3)})
    shard = folder / "shard-00000.h5"
    frames = 100_000_000 if os.environ.get("MA2L_LARGE") else 3_000_000
    with h5py.File(shard, "a") as file:
        contiguous(file, "huge", (frames, 6))
    index = json.loads((folder / "index.json").read_text())
    row = VideoRecord(video="huge", shard=shard.name, frames=frames, crc32="00000000")
    rows = [*read_records(folder / "videos.csv"), row]
    (folder / "videos.csv").write_text(records_text(rows))
    (folder / "index.json").write_text(json.dumps(index))
    seal(folder)
    peak: list[int] = []
    original = np.frombuffer

    def measured(*arguments):
        peak.append(len(arguments[0]))
        return original(*arguments)

    with h5py.File(shard, "a") as file:
        file["huge"].attrs["record"] = json.dumps(dataclasses.asdict(row))
    seal(folder)
    monkeypatch.setattr(np, "frombuffer", measured)
    assert any("huge do not have their crc32" in p.found for p in verify(folder, CHECKS))
    assert max(peak) <= 1 << 24 and len(peak) > 2

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(h5py.Dataset, "__getitem__", full)
    with FeatureStore(folder) as store, pytest.raises(StoreError, match="does not fit into memory"):
        store.read("huge")


ESCAPE = "\x1b]0;owned\x07\x9b2J\u202e"


def test_text_that_steers_a_terminal_is_shown_escaped(tmp_path: Path, cli, problem: Path) -> None:
    assert shown(f"é {ESCAPE}\n\udcff") == r"é \x1b]0;owned\x07\x9b2J\u202e\n\udcff"
    assert shown_lines("a\nb\x1b") == "a\nb\\x1b"
    config = {**CONFIG, "preset": ESCAPE}
    folder = make_store(tmp_path / "f", "toy", {f"v{i}": matrix(i, 3) for i in range(2)}, config)
    (folder / f"x{ESCAPE}").touch()
    outputs = [
        cli("store", "list", "--features", tmp_path / "f"),
        cli("store", "verify", folder),
        cli("store", "compare", folder, make_store(tmp_path / "g", "toy", {"v1": matrix(1, 3)})),
        cli("store", "verify", tmp_path / f"none{ESCAPE}"),
        cli(*toy_arguments(problem, "run", "--store", ESCAPE)),
    ]
    for result in outputs:
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(result.output), result.output
    assert all(r"\x1b]0;owned\x07" in result.output for result in outputs[:2])


def test_what_is_logged_is_escaped_too(problem: Path, cli) -> None:
    [folder] = (problem / "features" / "left").iterdir()
    other = make_store(problem / "features", "left", {"v": matrix(0, 3)}, {**CONFIG, "x": 1})
    edit_index(other, lambda index: index.update(format=ESCAPE))
    named = other.rename(other.with_name(f"x{ESCAPE}"))
    assert list(find_stores(problem / "features", "left")) == [folder.name]
    try:
        result = cli(*toy_arguments(problem, "run"))
    finally:
        logging.basicConfig(force=True)
    assert result.exit_code == 0, result.output
    assert "Left out: " in result.output and "\x1b" not in result.output
    assert shown(named.name) in result.output
