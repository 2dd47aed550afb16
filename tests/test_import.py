"""`store import`: every layout, made by the libraries that others use, against the arrays that went in."""

from __future__ import annotations

import csv
import functools
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY

from store.check import CHECKS, verify
from store.errors import ManifestError, StoreError
from store.import_lists import write_own_manifest
from store.importing import Importer
from store.layouts import sources_in
from store.list_files import ListFile, read_class_names, read_list
from store.manifest import Video, classes_of, read_manifest, write_manifest
from store.npy_file import parse_npy
from store.origin import config_of
from store.read import FeatureStore
from store.safe_pickle import load_pickle
from store.shards import crc32_of
from store.source_files import ExchangeStep, Found, Source
from store.torch_file import read_tensor, tensor_bytes

WIDTH = 6
LENGTHS = {"v_a_0": 3, "v_b c_1": 5, "#437_x_2": 4}
"""Ids as they are in this field: with spaces, signs and underscores."""


def features(seed: int = 0, width: int = WIDTH) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {v: random.normal(size=(n, width)).astype(np.float32) for v, n in LENGTHS.items()}


def write_t7(root: Path, videos: dict[str, np.ndarray], *, legacy: bool = True) -> None:
    for video, x_TD in videos.items():
        (root / video).mkdir(parents=True)
        for i, row in enumerate(torch.tensor(x_TD), 1):
            path = root / video / f"img_{i:05}.t7"
            torch.save(row.clone(), path, _use_new_zipfile_serialization=not legacy)


def write_list(
    path: Path, counts: dict[str, int], label: int = 0, prefix: str = "/home/x/"
) -> Path:
    path.write_text("".join(f"{prefix}{v} {n} {label}\n" for v, n in counts.items()))
    return path


def stored(root: Path, dataset: str = "d") -> FeatureStore:
    [folder] = (root / "features" / dataset).iterdir()
    assert not list(verify(folder, CHECKS))
    return FeatureStore(folder)


def failures(root: Path, dataset: str = "d") -> dict[str, str]:
    [path] = (root / "features" / dataset).glob("*/failures.csv")
    with path.open(newline="") as file:
        return {row["video"]: row["error"] for row in csv.DictReader(file)}


@pytest.fixture
def imported(cli, tmp_path, monkeypatch):
    """Import with given options, into stores and manifests below `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(layout: str, folder: Path, *more: object, dataset: str = "d"):
        return cli("store", "import", "--format", layout, folder, "--dataset", dataset, *more)

    return run


def check_all(root: Path, videos: dict[str, np.ndarray], dtype=np.float16) -> None:
    with stored(root) as store:
        assert store.records.keys() == videos.keys()
        for video, x_TD in videos.items():
            assert store.read(video).tobytes() == x_TD.astype(dtype).tobytes(), video


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("legacy", [True, False])
def test_frames_of_ta3n(imported, tmp_path, legacy, dtype) -> None:
    write_t7(tmp_path / "RGB-feature", features(), legacy=legacy)
    result = imported("t7", tmp_path / "RGB-feature", "--dtype", dtype)
    assert result.exit_code == 0, result.output
    check_all(tmp_path, features(), dtype)
    assert ("the largest error of a value" in result.output) is (dtype == "float16")
    with stored(tmp_path) as store:
        assert store.config["origin"] == "RGB-feature" and store.config["layer"] == "unknown"


def test_the_largest_error_is_the_one_that_was_made(imported, tmp_path) -> None:
    write_t7(tmp_path / "x", features())
    shown = imported("t7", tmp_path / "x").output
    expected = max(
        float(np.abs(x.astype(np.float16).astype(np.float32) - x).max())
        for x in features().values()
    )
    assert f"the largest error of a value is {expected:.3g};" in " ".join(shown.split())


def write_layout(name: str, root: Path) -> tuple[object, ...]:
    """Write `features()` in a layout; return the options of its import."""
    root.mkdir()
    block = np.stack([x[:3] for x in features().values()])
    ids = list(LENGTHS)
    if name == "npy":
        for video, x_TD in features().items():
            np.save(root / f"{video}.npy", x_TD.astype(np.float64))
    elif name == "csv":
        for video, x_TD in features().items():
            rows = [[f"f{i}" for i in range(WIDTH)], *x_TD.tolist()]
            (root / f"{video}.csv").write_text("\n".join(",".join(map(str, r)) for r in rows))
    elif name == "video-features":
        for video, x_TD in features().items():
            np.save(root / f"{video}_resnet.npy", x_TD)
            np.save(root / f"{video}_fps.npy", np.array(25.0))
            np.save(root / f"{video}_timestamps_ms.npy", np.arange(len(x_TD)) * 40.0)
    elif name == "npz":
        np.savez_compressed(root / "all.npz", **features())
    elif name == "npz block":
        np.savez(root / "all.npz", features=block, label=[0, 1, 0], video=np.array(ids))
    elif name == "npz with offsets":
        rows, ends = np.concatenate(list(features().values())), np.cumsum([0, *LENGTHS.values()])
        np.savez(root / "all.npz", features=rows, offsets=ends, video=np.array(ids))
    elif name == "npz of objects":
        np.savez(root / "all.npz", features=block, video=np.array(ids, dtype=object))
    else:
        protocol = int(name.rpartition(" ")[2])
        parts = {"RGB": block, "Flow": block + 1}
        for names in (ids, np.array(ids)):
            content = {"features": parts, "narration_ids": names}
            (root / "train.pkl").write_bytes(pickle.dumps(content, protocol))
        if protocol == 2:
            return ("--modality", "Flow,RGB")
    return ()


@pytest.mark.parametrize(
    "name",
    [
        *("npy", "csv", "video-features", "npz", "npz block", "npz of objects"),
        "npz with offsets",
        *("epic 2", "epic 4", "epic 5"),
    ],
)
def test_the_other_layouts(imported, tmp_path, name) -> None:
    options = write_layout(name, tmp_path / "x")
    result = imported(name.split()[0], tmp_path / "x", *options, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    expected = features()
    if name.startswith(("npz block", "npz of", "epic")):
        expected = {v: x[:3] for v, x in expected.items()}
    if name == "epic 2":
        expected = {v: np.concatenate([x + 1, x], axis=1) for v, x in expected.items()}
    check_all(tmp_path, expected, np.float32)
    with stored(tmp_path) as store:
        fps = {record.fps for record in store.records.values()}
    assert fps == ({25.0} if name == "video-features" else {0.0})


def test_lists_of_ta3n_become_a_manifest(imported, tmp_path) -> None:
    write_t7(tmp_path / "RGB-feature", features())
    first, *rest = LENGTHS
    train = write_list(tmp_path / "list_d_train.txt", {v: LENGTHS[v] for v in rest}, 1)
    held_out = write_list(tmp_path / "list_d_val.txt", {first: LENGTHS[first]}, prefix="C:\\x\\")
    (tmp_path / "classInd.txt").write_text("1 climb \n2 fence  \n")
    result = imported(
        *("t7", tmp_path / "RGB-feature", "--benchmark", "toy"),
        *("--list", train, "--list", held_out, "--classes", tmp_path / "classInd.txt"),
    )
    assert result.exit_code == 0, result.output
    rows = read_manifest(tmp_path / "manifests" / "toy" / "d.csv")
    found = {(v.id, v.label, v.class_name, v.split, v.frames) for v in rows}
    assert found == {
        (first, 0, "climb", "eval", LENGTHS[first]),
        *((v, 1, "fence", "train", LENGTHS[v]) for v in rest),
    }
    again = imported(
        *("t7", tmp_path / "RGB-feature", "--benchmark", "toy"),
        *("--list", f"eval={train}", "--list", held_out),
    )
    assert again.exit_code == 1 and "lists other videos, labels or frames" in again.output


def rows_with(
    labels: list[int], names: dict[int, str] | None = None, start: int = 0
) -> list[Video]:
    """A video of each label; without names, the classes are called as lists without names call them."""
    return [
        Video(
            id=f"v{start + n}",
            label=label,
            class_name=names[label] if names else str(label),
            split="train",
            frames=None,
        )
        for n, label in enumerate(labels)
    ]


def test_lists_with_some_of_many_classes_share_their_numbers(tmp_path: Path) -> None:
    """Verbs 0, 2 and 5 in one domain and 7, 2 and 0 in the other: a class has one label in both."""
    root = tmp_path / "manifests"
    first, second = rows_with([0, 5, 2, 5]), rows_with([7, 2, 0], start=10)
    path, new = write_own_manifest(first, "verbs", "p01", root)
    assert new and [(v.label, v.class_name) for v in read_manifest(path)] == [
        *((0, "0"), (2, "5"), (1, "2"), (2, "5"))
    ]
    other, _ = write_own_manifest(second, "verbs", "p02", root)
    assert [(v.label, v.class_name) for v in read_manifest(other)] == [(3, "7"), (1, "2"), (0, "0")]
    assert write_own_manifest(first, "verbs", "p01", root) == (path, False)
    path.unlink()  # and imported again, beside the other one
    assert write_own_manifest(first, "verbs", "p01", root) == (path, True)
    assert classes_of(read_manifest(path), read_manifest(other)) == ("0", "2", "5", "7")


def test_names_decide_where_there_are_some(tmp_path: Path) -> None:
    root, names = tmp_path / "manifests", {0: "run", 2: "walk", 3: "sit"}
    path, _ = write_own_manifest(rows_with([3, 0], names), "mine", "one", root)
    assert [(v.label, v.class_name) for v in read_manifest(path)] == [(1, "sit"), (0, "run")]
    with pytest.raises(ManifestError, match="Label 1 is"):  # numbers without names may mean others
        write_own_manifest(rows_with([0, 1], start=5), "mine", "two", root)
    with pytest.raises(ManifestError, match="The labels of 3 classes must be 0 to 2, got 0, 1, 7"):
        write_own_manifest(rows_with([7], start=5), "mine", "two", root)
    again, _ = write_own_manifest(rows_with([2, 3], names, start=5), "mine", "two", root)
    assert [(v.label, v.class_name) for v in read_manifest(again)] == [(2, "walk"), (1, "sit")]


def test_a_class_folder_in_the_list_is_found_and_a_longer_path_never_left(
    tmp_path, imported
) -> None:
    write_t7(tmp_path / "x" / "walk", {"001": features()["v_a_0"]})
    write_t7(tmp_path / "x" / "run", {"001": features(1)["v_a_0"]})
    (tmp_path / "train.txt").write_text("/data/../x/walk/001 3 0\n/data/run/001 3 1\n")
    result = imported(
        *("t7", tmp_path / "x", "--benchmark", "toy", "--list", tmp_path / "train.txt")
    )
    assert result.exit_code == 0, result.output
    check_all(tmp_path, {"walk/001": features()["v_a_0"], "run/001": features(1)["v_a_0"]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/x/.. 3 0\n", "line 1: '..' is no video id"),
        ("a 3 0\n\n/y/a 3 0\n", "train.txt, line 3: the video 'a' stands in"),
        ("a 3\n", "expected a folder, a number of frames and a label"),
        ("a 3 -1\n", "expected a folder"),
        ("a 3 \u0663\n", "expected a folder"),
        ("/x/b\x01c 3 0\n", "is no video id"),
        ("", "lists no videos"),
        ("a\0 3 0\n", "NUL byte"),
    ],
)
def test_hostile_lists(imported, tmp_path, text, message) -> None:
    write_t7(tmp_path / "x", {"a": features()["v_a_0"]})
    (tmp_path / "train.txt").write_text(text)
    result = imported("t7", tmp_path / "x", "--benchmark", "b", "--list", tmp_path / "train.txt")
    assert result.exit_code == 1 and message in " ".join(result.output.split()), result.output
    assert not (tmp_path / "features").exists() and not (tmp_path / "manifests").exists()


def test_an_absolute_path_outside_is_only_a_name(imported, tmp_path) -> None:
    write_t7(tmp_path / "x", {"a": features()["v_a_0"]})
    write_t7(tmp_path / "secret", {"b": features()["v_a_0"]})
    (tmp_path / "train.txt").write_text(f"{tmp_path}/secret/b 3 0\n../secret/b2 3 0\na 3 0\n")
    result = imported("t7", tmp_path / "x", "--benchmark", "b", "--list", tmp_path / "train.txt")
    assert result.exit_code == 3, result.output
    assert failures(tmp_path) == dict.fromkeys(("b", "b2"), "there are no features of this name")


def test_splits_are_never_guessed(tmp_path) -> None:
    assert ListFile.parse("list_ucf101_val_hmdb_ucf-feature.txt").split == "eval"
    assert ListFile.parse("train=x/test.txt").split == "train"
    for name in ("ucf.txt", "trainval.txt", "train_test.txt"):
        with pytest.raises(ManifestError, match="does not say whether"):
            ListFile.parse(name)
    with pytest.raises(ManifestError, match="There is no file"):
        read_list(tmp_path / "train.txt")
    (tmp_path / "c.txt").write_text("0 a\n2 b\n")
    with pytest.raises(ManifestError, match="expected '1 NAME'"):
        read_class_names(tmp_path / "c.txt")


def break_gap(folder: Path) -> str:
    (folder / "img_00002.t7").unlink()
    return "1 of 5 files is missing (first: 2)"


def break_end(folder: Path) -> str:
    (folder / "img_00005.t7").unlink()
    return "the list has 5 frames, the files 4"


def break_cut(folder: Path) -> str:
    path = folder / "img_00003.t7"
    path.write_bytes(path.read_bytes()[:-5])
    return "1 file is unreadable: img_00003.t7"


def break_zero(folder: Path) -> str:
    (folder / "img_00001.t7").write_bytes(b"")
    return "img_00001.t7 is empty (0 bytes)"


@pytest.mark.parametrize("damage", [break_gap, break_end, break_cut, break_zero])
def test_an_incomplete_video_is_never_short_in_silence(imported, tmp_path, damage) -> None:
    write_t7(tmp_path / "x", features())
    reason = damage(tmp_path / "x" / "v_b c_1")
    options = ("--benchmark", "b", "--list", write_list(tmp_path / "train.txt", LENGTHS))
    result = imported("t7", tmp_path / "x", *options)
    assert result.exit_code == 3, result.output
    assert reason in failures(tmp_path)["v_b c_1"]
    with stored(tmp_path) as store:
        assert store.records.keys() == LENGTHS.keys() - {"v_b c_1"}
    kept = imported("t7", tmp_path / "x", *options, "--keep-damaged")
    assert kept.exit_code == 0 and "1 video is incomplete" in kept.output, kept.output
    with stored(tmp_path) as store:
        record = store.records["v_b c_1"]
        assert (record.status, record.frames, record.missing_frames) == ("damaged", 4, 1)


def test_what_cannot_be_features_is_named(imported, tmp_path) -> None:
    root = tmp_path / "x"
    root.mkdir()
    good = features()["v_a_0"]
    for number in range(6):
        np.save(root / f"good{number}.npy", good)
    nan = good.copy()
    nan[1, 2] = np.nan
    bad = {
        "nan": (nan, "1 value is not finite"),
        "wide": (good[:, :4], f"its shape is (3, 4), the others are (frames, {WIDTH})"),
        "flat": (good[0], "its shape is (6,)"),
        "none": (good[:0], "it has no frames"),
        "large": (good * 1e6, "which float16 cannot hold. Import with --dtype float32"),
        "whole": (np.ones((3, 6), int), "its values are of type int64"),
        "text": (np.array([["a"] * 6]), "its values are of type <U1"),
    }
    for name, (values, _) in bad.items():
        np.save(root / f"{name}.npy", values)
    (root / "cut.npy").write_bytes((root / "good0.npy").read_bytes()[:-1])
    (root / "zero.npy").write_bytes(b"")
    os.mkfifo(root / "pipe.npy")
    result = imported("npy", root)
    assert result.exit_code == 3, result.output
    found = failures(tmp_path)
    for name, (_, reason) in bad.items():
        assert reason in found[name], found[name]
    assert "cut off or damaged" in found["cut"] and "is empty" in found["zero"]
    assert "pipe.npy is no plain file" in found["pipe"]
    with stored(tmp_path) as store:
        assert len(store.records) == 6


@pytest.mark.parametrize(
    "offsets",
    [[0, 3, 2, 5], [1, 2, 3, 5], [0, 1, 2, 6], [0.0, 1, 2, 5], [0, 5], []],
)
def test_offsets_that_do_not_fit_are_refused(imported, tmp_path, offsets) -> None:
    np.savez(tmp_path / "x.npz", features=np.ones((5, 2)), offsets=offsets, video=["a", "b", "c"])
    result = imported("npz", tmp_path / "x.npz")
    shown = " ".join(result.output.split())
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    assert "do not cut its 5 rows" in shown or "1 video and 3 names" in shown


def test_two_videos_of_one_id_are_none(imported, tmp_path) -> None:
    block = np.stack([features()["v_a_0"]] * 3)
    (tmp_path / "x").mkdir()
    for name, ids in (("a", ["one", "two", "two"]), ("b", ["three", "four", "one"])):
        content = {"features": {"RGB": block}, "narration_ids": ids}
        (tmp_path / "x" / f"{name}.pkl").write_bytes(pickle.dumps(content))
    result = imported("epic", tmp_path / "x")
    assert result.exit_code == 3, result.output
    assert failures(tmp_path) == {
        "one": "2 places have this name: a.pkl: one, b.pkl: one",
        "two": "2 places have this name: a.pkl: two, a.pkl: two",
    }


class Bomb:
    """Unpickled by Python's own reader, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("layout", ["epic", "npy", "npz", "npz ids", "t7", "t7 archive"])
def test_a_pickle_that_runs_code_runs_none(imported, tmp_path, layout) -> None:
    root, mark = tmp_path / "x", tmp_path / "mark"
    root.mkdir()
    bomb = np.array([Bomb(mark)], dtype=object)
    if layout == "epic":
        content = {"features": {"RGB": bomb}, "narration_ids": ["a"]}
        (root / "a.pkl").write_bytes(pickle.dumps(content))
    elif layout == "npy":
        np.save(root / "a.npy", bomb, allow_pickle=True)
    elif layout == "npz":
        np.savez(root / "a.npz", a=bomb)
    elif layout == "npz ids":
        np.savez(root / "a.npz", features=np.ones((1, 2, 3)), video=bomb)
    else:
        (root / "a").mkdir()
        for i in (1, 2):
            torch.save(
                [Bomb(mark)],
                root / "a" / f"img_{i:05}.t7",
                _use_new_zipfile_serialization="archive" in layout,
            )
    result = imported(layout.split()[0], root)
    assert result.exit_code == 1 and not mark.exists()
    assert "posix.mkdir" in result.output or "width of the features" in result.output


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nndarray\n(I3\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(I0\ntS'b'\ntR.",
        b"\x80\x02\x82\x01.",
        b"(lp0\ng0\na.",
        b"",
        b"\x80\x05\x8c",
        b"(" * 100_000,
    ],
)
def test_hostile_pickles_end_in_a_sentence_or_plain_values(code) -> None:
    try:
        found = load_pickle(code, "x.pkl")
    except StoreError as error:
        assert "x.pkl cannot be read as a pickle" in str(error)
    else:
        assert isinstance(found, list)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(7.0),
        torch.rand(3, 7)[1],
        torch.rand(5, 4)[:, 2],
        torch.rand(1, 4).double(),
        torch.rand(4).half(),
        torch.nn.Parameter(torch.rand(3)),
        torch.rand(0),
    ],
)
def test_tensors_are_read_as_torch_reads_them(tensor, legacy) -> None:
    file = io.BytesIO()
    torch.save(tensor, file, _use_new_zipfile_serialization=not legacy)
    expected = torch.load(io.BytesIO(file.getvalue()), weights_only=True).detach().numpy()
    found = read_tensor(file.getvalue(), "x.t7")
    assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize("legacy", [True, False])
def test_no_beginning_of_a_tensor_file_is_read_as_one(legacy) -> None:
    file = io.BytesIO()
    torch.save(torch.rand(5), file, _use_new_zipfile_serialization=not legacy)
    data = file.getvalue()
    for end in range(len(data)):
        with pytest.raises(StoreError, match=r"is no tensor of torch\.save|is empty"):
            read_tensor(data[:end], "x.t7")


def test_a_flipped_bit_in_torchs_archive_is_found() -> None:
    tensor, file = torch.rand(300), io.BytesIO()
    torch.save(tensor, file)
    data = bytearray(file.getvalue())
    data[data.index(tensor.numpy().tobytes()) + 600] ^= 1
    with pytest.raises(StoreError, match="its bytes are not those that were written"):
        read_tensor(bytes(data), "x.t7")


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused() -> None:
    """As a crafted file could: (shape, strides) over memory that is not the file's."""
    row = np.arange(4, dtype=np.float32)
    data = tensor_bytes(row)
    for old, new in (
        (b"QK\0J\x04\0\0\0\x85", b"QK\0J\x05\0\0\0\x85"),
        (b"QK\0J\x04", b"QK\1J\x04"),
        (b"\x85K\x01\x85", b"\x85K\x02\x85"),
        (b"QK\0J\x04\0\0\0\x85K\x01", b"QK\0J\xff\xff\xff\x7f\x85K\0"),
        (b"QK\0J\x04\0\0\0", b"QK\0J\xff\xff\xff\xff"),
    ):
        assert data.count(old) == 1
        with pytest.raises(StoreError, match="shape"):
            read_tensor(data.replace(old, new), "x.t7")


def test_other_contents_of_torch_files_are_refused() -> None:
    for value in ([torch.ones(2)], {"a": torch.ones(2)}, torch.ones(2).long(), 3, None):
        for archive in (True, False):
            file = io.BytesIO()
            torch.save(value, file, _use_new_zipfile_serialization=archive)
            with pytest.raises(StoreError, match=r"is no tensor of torch\.save"):
                read_tensor(file.getvalue(), "x.t7")


def test_written_tensors_are_torchs_own() -> None:
    row = np.random.default_rng(0).normal(size=2048).astype(np.float32)
    read = torch.load(io.BytesIO(tensor_bytes(row)), weights_only=True)
    assert read.dtype == torch.float32 and read.numpy().tobytes() == row.tobytes()
    file = io.BytesIO()
    torch.save(torch.tensor(row), file, _use_new_zipfile_serialization=False)
    assert abs(len(tensor_bytes(row)) - len(file.getvalue())) < 100


def test_an_array_header_that_promises_more_takes_no_memory() -> None:
    file = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 2048)}
    np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(StoreError, match="is cut off or damaged"):
        parse_npy(file.getvalue() + b"1234", "x.npy")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': (",
        "{1: 2, 'a': 3}",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (5,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
    ],
)
def test_a_damaged_array_header_fails_its_own_video_alone(imported, tmp_path, header) -> None:
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "good.npy", features()["v_a_0"])
    bytes_ = b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n"
    (tmp_path / "x" / "bad.npy").write_bytes(bytes_ + b"1234" * ("<f4" in header))
    assert imported("npy", tmp_path / "x").exit_code == 3
    assert failures(tmp_path) == {
        "bad": "bad.npy: bad.npy is no .npy file, or its header is damaged."
    }


def test_a_damaged_shard_is_made_again_as_the_message_says(imported, tmp_path) -> None:
    write_t7(tmp_path / "x", features())
    assert imported("t7", tmp_path / "x").exit_code == 0
    with stored(tmp_path) as store:
        path = store.folder / "shard-00000.h5"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(StoreError, match=r"Delete what is left of it and .*\(store import,"):
            store["v_a_0"]
    path.unlink()
    assert imported("t7", tmp_path / "x").exit_code == 0
    check_all(tmp_path, features())


def test_tables_of_pandas_are_not_taken_for_more_features(imported, tmp_path) -> None:
    (tmp_path / "x").mkdir()
    for video, x_TD in features().items():  # the first line is 0,1,2,3,4,5
        pd.DataFrame(x_TD).to_csv(tmp_path / "x" / f"{video}.csv", index=False)
    pd.DataFrame(features()["v_a_0"]).to_csv(tmp_path / "x" / "numbered.csv")
    assert imported("csv", tmp_path / "x", "--dtype", "float32").exit_code == 3
    assert list(failures(tmp_path)) == ["numbered"]
    assert "a first column without a name that counts the rows" in failures(tmp_path)["numbered"]
    with stored(tmp_path) as store:
        for video, x_TD in features().items():
            np.testing.assert_array_equal(store[video], x_TD)


def test_ids_that_a_manifest_spells_in_another_unicode_form_are_found(imported, tmp_path) -> None:
    spelled = unicodedata.normalize("NFD", "caf\u00e9")
    write_manifest(
        tmp_path / "manifests" / "toy" / "d.csv",
        [Video(id=spelled, label=0, class_name="a", split="train", frames=None)],
    )
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / f"{spelled}.npy", features()["v_a_0"])
    result = imported("npy", tmp_path / "x")
    assert result.exit_code == 0, result.output
    with stored(tmp_path) as store:
        assert list(store) == [spelled]


def test_a_file_that_names_no_model_is_none_of_video_features(imported, tmp_path) -> None:
    for name in ("a_b/clip.npy", "a_b/clip_resnet.npy"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "x" / name, features()["v_a_0"])
    assert imported("video-features", tmp_path / "x").exit_code == 0
    with stored(tmp_path) as store:
        assert list(store) == ["a_b/clip"]


@pytest.mark.parametrize(
    ("text", "expected"), [("1 a\n2 b\n", None), ("0 unused\n1 a\n2 b\n", ("a", "b"))]
)
def test_class_names_from_one_need_the_label_0(imported, tmp_path, text, expected) -> None:
    write_t7(tmp_path / "x", features())
    first, *rest = LENGTHS
    lists = [
        write_list(tmp_path / "a_train.txt", {v: LENGTHS[v] for v in rest}, 1),
        write_list(tmp_path / "b_val.txt", {first: LENGTHS[first]}, 2),
    ]
    (tmp_path / "names.txt").write_text(text)
    result = imported(
        *("t7", tmp_path / "x", "--benchmark", "toy", "--classes", tmp_path / "names.txt"),
        *("--list", lists[0], "--list", lists[1]),
    )
    if expected is None:
        assert result.exit_code == 1 and "whether label 1 is 'a' or the class after it" in (
            " ".join(result.output.split())
        )
    else:
        assert result.exit_code == 0, result.output
        assert classes_of(read_manifest(tmp_path / "manifests" / "toy" / "d.csv")) == expected


def test_an_import_that_was_killed_goes_on(tmp_path) -> None:
    """Killed while it reads: finished shards stay, and the end is that of an import without a kill."""
    random = np.random.default_rng(0)
    root = tmp_path / "x"
    root.mkdir()
    videos = {f"v{i:04}": random.normal(size=(2, WIDTH)).astype(np.float32) for i in range(600)}
    for video, x_TD in videos.items():
        np.save(root / f"{video}.npy", x_TD)
    code = (
        "import sys, time, store.layouts as layouts\n"
        "read = layouts.read_file\n"
        "def slow(path):\n"
        "    if path.name == 'v0400.npy':\n"
        "        time.sleep(60)\n"
        "    return read(path)\n"
        "layouts.read_file = slow\n"
        "from cli import main\n"
        "main(sys.argv[1:])\n"
    )
    command = ["store", "import", "--format", "npy", str(root), "--dataset", "d"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command], cwd=tmp_path, env=environment
    )
    end = time.monotonic() + 60
    while not list(tmp_path.glob("features/d/*/index.json")) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [folder] = (tmp_path / "features" / "d").iterdir()
    with FeatureStore(folder) as store:
        assert len(store.records) == 256
    first = (folder / "shard-00000.h5").read_bytes()
    again = subprocess.run(
        [sys.executable, str(REPOSITORY / "cli.py"), *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert "344 stored" in again.stdout
    assert (folder / "shard-00000.h5").read_bytes() == first
    check_all(tmp_path, videos)


def test_windows_of_clips_train_verify_compare_and_say_what_is_unknown(
    imported, cli, tmp_path
) -> None:
    """I3D: a row per window, fewer than frames; both domains train, and files cannot be predicted."""
    random = np.random.default_rng(0)
    for domain in ("left", "right"):
        rows = {"train": "", "val": ""}
        (tmp_path / "i3d" / domain).mkdir(parents=True)
        for number in range(16):
            video, label = f"{domain}_{number}", number % 2
            x_TD = random.normal(size=(3 + number % 3, 10)) + 4 * label
            np.save(tmp_path / "i3d" / domain / f"{video}.npy", x_TD.astype(np.float32))
            rows["train" if number < 10 else "val"] += f"/w/{video} 90 {label}\n"
        for split, text in rows.items():
            (tmp_path / f"{domain}_{split}.txt").write_text(text)
        result = imported(
            *("npy", tmp_path / "i3d" / domain, "--benchmark", "toy", "--dtype", "float32"),
            *("--list", tmp_path / f"{domain}_train.txt", "--list", tmp_path / f"{domain}_val.txt"),
            *(() if domain == "left" else ("--origin", "left")),
            dataset=domain,
        )
        assert result.exit_code == 0, result.output
    trained = cli(
        *("adapt", "--source", "left", "--target", "right", "--device", "cpu", "--run", "run"),
        *("--method", "infomax", "--epochs", 4, "--batch-size", 8, "--compute", "float32"),
    )
    assert trained.exit_code == 0, trained.output
    assert cli("predict", "run").exit_code == 0
    (tmp_path / "x.mp4").touch()
    refused = cli("predict", "run", tmp_path / "x.mp4")
    assert refused.exit_code == 1
    assert "The features were imported ('left'), and how they were made is not known" in " ".join(
        refused.output.split()
    )
    [left] = (tmp_path / "features" / "left").iterdir()
    assert cli("store", "verify", left).exit_code == 0
    from extract.resample import resample

    with FeatureStore(left) as store, pytest.raises(StoreError, match="how they were made is not"):
        list(resample(store, [tmp_path], 1))
    assert cli("store", "compare", left, left).exit_code == 0
    assert "origin left" in cli("store", "list").output


@pytest.mark.parametrize("layout", ["t7", "npy", "npz"])
def test_other_features_under_known_names_are_not_taken_for_stored(
    imported, tmp_path, monkeypatch, layout
) -> None:
    """Another folder of the same name has another network's features, or one file was made again."""
    reads = []
    old, new = features(0), {**features(0), "v_b c_1": features(1)["v_b c_1"]}
    for place, videos in (("one", old), ("two", new)):
        folder = tmp_path / place / "RGB-feature"
        folder.mkdir(parents=True)
        if layout == "t7":
            write_t7(folder, videos)
        elif layout == "npz":
            np.savez(folder / "all.npz", **videos)
        else:
            for video, x_TD in videos.items():
                np.save(folder / f"{video}.npy", x_TD)
    first = imported(layout, tmp_path / "one" / "RGB-feature")
    assert first.exit_code == 0, first.output
    monkeypatch.setattr("store.importing.crc32_of", lambda x: reads.append(x) or crc32_of(x))
    again = imported(layout, tmp_path / "one" / "RGB-feature")
    assert again.exit_code == 0 and "3 of 3 videos are stored" in again.output and not reads
    for other in ("two", "one"):  # the other folder, then the same one with files of another time
        if other == "one":
            for path in (tmp_path / "one").rglob("*"):
                os.utime(path, (1, 1))
        result = imported(layout, tmp_path / other / "RGB-feature")
        said = (
            "1 video was stored before, and" in result.output
            and "(first: v_b c_1)" in result.output
        )
        assert (result.exit_code, said) == ((3, True) if other == "two" else (0, False))
        assert "0 stored, 0 features" in result.output and reads
    with stored(tmp_path) as store:
        for video, x_TD in old.items():
            assert np.array_equal(store.read(video), x_TD.astype(np.float16))


def test_features_of_unlike_origins_are_not_mixed(imported, cli, tmp_path) -> None:
    for name, dataset in (("RGB-feature", "left"), ("I3D-feature", "right")):
        write_t7(tmp_path / name, features())
        lists = [
            write_list(tmp_path / f"{dataset}_{s}.txt", {v: LENGTHS[v] for v in videos}, label)
            for label, (s, videos) in enumerate(
                (("train", list(LENGTHS)[:2]), ("val", list(LENGTHS)[2:]))
            )
        ]
        options = [part for path in lists for part in ("--list", path)]
        result = imported("t7", tmp_path / name, "--benchmark", "toy", *options, dataset=dataset)
        assert result.exit_code == 0, result.output
    mixed = cli("adapt", "--source", "left", "--target", "right", "--run", "run")
    assert mixed.exit_code == 1
    assert "origin: RGB-feature or I3D-feature" in " ".join(mixed.output.split()), mixed.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dataset", "../x"), "is no name"),
        (("--name", "a/b"), "is no name"),
        (("--name", "aux"), "is no name, because Windows keeps it for a device"),
        (("--list", "train.txt"), "name its benchmark"),
        (("--classes", "c.txt"), "give them with --list"),
        (("--modality", "RGB"), "is read with --format epic or video-features"),
        (("--benchmark", "nothing"), "lists videos of d. Those that do: none. Or give its lists"),
    ],
)
def test_wrong_options_are_refused(cli, tmp_path, monkeypatch, options, message) -> None:
    monkeypatch.chdir(tmp_path)
    write_t7(tmp_path / "x", features())
    result = cli("store", "import", "--format", "t7", "x", "--dataset", "d", *options)
    assert result.exit_code in (1, 2) and message in " ".join(result.output.split())
    empty = cli("store", "import", "--format", "npz", "x", "--dataset", "d")
    assert "There are no features of the layout npz" in empty.output


def test_features_that_another_domain_lacks_are_to_be_imported(imported, cli, tmp_path) -> None:
    write_t7(tmp_path / "x", features())
    lists = [
        write_list(tmp_path / f"{s}.txt", {v: 3}, label)
        for label, (s, v) in enumerate(zip(("train", "val"), LENGTHS))
    ]
    for dataset in ("left", "right"):
        options = [part for path in lists for part in ("--list", path)]
        imported("t7", tmp_path / "x", "--benchmark", "toy", *options, dataset=dataset)
    for path in (tmp_path / "features" / "right").rglob("*.*"):
        if path.is_file():
            path.unlink()
    result = cli("adapt", "--source", "left", "--target", "right", "--run", "run")
    shown = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "store import --format FORMAT DIR --dataset right --origin x --name imported" in shown


def test_folders_of_lists_beside_the_videos_are_no_videos(imported, tmp_path) -> None:
    write_t7(tmp_path / "x", features())
    (tmp_path / "x" / "lists").mkdir()
    (tmp_path / "x" / "lists" / "train.txt").touch()
    (tmp_path / "x" / ".git").mkdir()
    assert imported("t7", tmp_path / "x").exit_code == 0
    (tmp_path / "x" / "empty").mkdir()
    assert imported("t7", tmp_path / "x").exit_code == 3
    assert failures(tmp_path) == {"empty": "empty: the folder holds no .t7 file"}


def test_a_folder_that_contains_itself_ends(imported, tmp_path) -> None:
    write_t7(tmp_path / "x", features())
    (tmp_path / "x" / "again").symlink_to(tmp_path / "x")
    (tmp_path / "x" / "v_linked").symlink_to(tmp_path / "x" / "v_a_0")
    result = imported("t7", tmp_path / "x")
    assert result.exit_code == 0, result.output
    with stored(tmp_path) as store:
        assert store.records.keys() == {*LENGTHS, "v_linked"}


def test_a_frame_number_beyond_all_files_takes_no_memory(imported, tmp_path) -> None:
    write_t7(tmp_path / "x", features())
    folder = tmp_path / "x" / "v_a_0"
    (folder / "img_00003.t7").rename(folder / "img_999999999.t7")
    assert imported("t7", tmp_path / "x").exit_code == 3
    assert "999,999,996 of 999,999,999 files are missing (first: 3)" in failures(tmp_path)["v_a_0"]


def test_a_stopped_import_keeps_what_is_complete_and_goes_on(tmp_path) -> None:
    """As by Ctrl-C, while the seventh video is read."""
    root = tmp_path / "x"
    root.mkdir()
    videos = {f"v{i:02}": np.full((2, WIDTH), i, np.float32) for i in range(20)}
    for video, x_TD in videos.items():
        np.save(root / f"{video}.npy", x_TD)
    sources = sources_in(root, "npy", "")
    config = config_of("imported", "x", "npy", WIDTH, "float16")
    done: list[int] = []
    listed = dict.fromkeys(videos)
    make = functools.partial(
        Importer, tmp_path / "features", "d", config, listed, sources, {}, exact=False
    )
    begun = make(
        on_progress=lambda step: done.append(step.videos_done), stopped=lambda: len(done) >= 7
    ).run()
    assert begun.stopped and begun.new_videos == 7 and not begun.index["complete"]
    assert begun.index["totals"]["pending"] == 13
    ended = make().run()
    assert not ended.stopped and ended.new_videos == 13 and ended.index["complete"]
    check_all(tmp_path, videos)
    assert make().run().new_videos == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_videos_are_in_memory_than_are_read_ahead(tmp_path, workers) -> None:
    alive, most, lock = [0], [0], threading.Lock()

    def read(number: int) -> Found:
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return Found(features_TD=np.full((2, WIDTH), number, np.float32), bytes=1)

    listed = {f"v{i:02}": None for i in range(40)}
    sources = {
        v: [Source(video=v, path=v, read=functools.partial(read, i))] for i, v in enumerate(listed)
    }
    config = config_of("imported", "x", "npy", WIDTH, "float16")

    def taken(step: ExchangeStep) -> None:
        with lock:
            alive[0] -= 1

    report = Importer(
        *(tmp_path, "d", config, listed, sources, {}),
        exact=False,
        workers=workers,
        on_progress=taken,
    ).run()
    assert report.new_videos == 40 and most[0] <= workers + 2
    with FeatureStore(report.folder) as store:
        assert [store.read(v)[0, 0] for v in listed] == list(range(40))
