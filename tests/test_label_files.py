"""Labels in .npz files and pickled pandas frames, by numpy, by pandas, and by hand as older pandas did."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_import import WIDTH, stored

from store.errors import ManifestError, StoreError
from store.label_files import labels_in
from store.manifest import read_manifest

IDS = ["P01_01_0", "P02_107_12", "P30_05_3"]
VERBS, NOUNS = [3, 0, 96], [1, 299, 0]


def frame(*, named: bool = True, texts: Any = None) -> pd.DataFrame:
    """A frame as EPIC-Kitchens has them: several blocks of numbers and texts, in mixed order."""
    columns = {
        **{"participant_id": ["P01", "P02", "P30"], "verb_class": VERBS, "start": [1.5, 2.5, 3.5]},
        **{"narration": ["open", "close", "cut"], "noun_class": NOUNS, "stop": [2.5, 3.5, 4.5]},
    }
    rows = pd.Index(IDS, name="narration_id")
    made = pd.DataFrame(columns, index=rows) if named else pd.DataFrame(columns)
    if texts is not None:
        for name in ("participant_id", "narration"):
            made[name] = made[name].astype(texts)
        made.columns = made.columns.astype(texts)
        made.index = made.index.astype(texts) if named else made.index
    return made


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("texts", [None, object])
def test_frames_of_pandas(tmp_path: Path, protocol: int, texts: Any) -> None:
    path = tmp_path / "train.pkl"
    path.write_bytes(pickle.dumps(frame(texts=texts), protocol))
    assert labels_in(path, "verb_class") == list(zip(IDS, VERBS))
    assert labels_in(path, "noun_class") == list(zip(IDS, NOUNS))
    only = frame(texts=texts).drop(columns="verb_class")
    path.write_bytes(pickle.dumps(only, protocol))
    assert labels_in(path, None) == list(zip(IDS, NOUNS))
    column = frame(named=False, texts=texts).assign(narration_id=IDS)
    if texts is object:
        column["narration_id"] = column["narration_id"].astype(object)
        column.columns = column.columns.astype(object)
    path.write_bytes(pickle.dumps(column, protocol))
    assert labels_in(path, "verb_class") == list(zip(IDS, VERBS))


class Named:
    """An object that a pickle names as one of another module."""

    def __init__(self, module: str, name: str, *given: Any, state: Any = None) -> None:
        self.module, self.name, self.given, self.state = module, name, given, state


class Writer(pickle._Pickler):
    """Writes what pandas would write without having those classes."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, Named):
            super().save(obj, save_persistent_id)
            return
        self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        if obj.given == (None,):  # the class itself
            return
        super().save(obj.given)
        self.write(pickle.REDUCE)
        if obj.state is not None:
            super().save(obj.state)
            self.write(pickle.BUILD)


def index_of(*names: str) -> Named:
    kind = Named("pandas.core.indexes.base", "Index", None)
    content = {"data": np.array(names, dtype=object), "name": None}
    return Named("pandas.core.indexes.base", "_new_Index", kind, content)


def old_frame(key: str) -> bytes:
    """What pandas before 1.3 writes: axes, values, names, and the same again with numbers of columns."""
    axes = [index_of("narration", "verb_class", "noun_class"), index_of(*IDS)]
    numbers = np.array([VERBS, NOUNS])
    texts = np.array([["open", "close", "cut"]], dtype=object)
    blocks = [
        {"values": numbers, "mgr_locs": np.array([1, 2])},
        {"values": texts, "mgr_locs": slice(0, 1, 1)},
    ]
    values = [block["values"] for block in blocks]
    state = (axes, values, [axes[0], axes[0]], {"0.14.1": {"axes": axes, "blocks": blocks}})
    manager = Named("pandas.core.internals.managers", "BlockManager", state=state)
    out = io.BytesIO()
    made = Named("pandas.core.frame", "DataFrame", state={key: manager, "_typ": "dataframe"})
    Writer(out, 2).dump(made)
    return out.getvalue()


@pytest.mark.parametrize("key", ["_mgr", "_data"])
def test_frames_of_older_pandas(tmp_path: Path, key: str) -> None:
    path = tmp_path / "train.pkl"
    path.write_bytes(old_frame(key))
    assert labels_in(path, "verb_class") == list(zip(IDS, VERBS))
    assert labels_in(path, "noun_class") == list(zip(IDS, NOUNS))


def test_what_is_no_such_frame_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.pkl"

    def said(content: Any, column: str | None = "verb_class") -> str:
        path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
        with pytest.raises((ManifestError, StoreError)) as caught:
            labels_in(path, column)
        return str(caught.value)

    assert "Say which has the labels: --label COLUMN" in said(frame(), None)
    assert "has no 'verb'. It has participant_id, " in said(frame(), "verb")
    assert "has no column narration_id, and its rows are numbered" in said(frame(named=False))
    assert "are no whole numbers from 0 on" in said(frame(), "start")
    assert "are no whole numbers from 0 on" in said(frame().assign(verb_class=[0, -1, 2]))
    assert "holds no pandas frame that can be read" in said({"verb_class": [1]})
    assert "holds no pandas frame that can be read" in said(frame()["verb_class"].to_dict())
    assert "cannot be read as a pickle" in said(old_frame("_mgr")[:-40])
    cut = pickle.dumps(frame())
    for end in range(20, len(cut) - 1, 37):
        said(cut[:end])


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("stolen",)


def test_nothing_in_a_frame_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.pkl"
    for evil in (Evil(), frame().assign(x=[Evil(), Evil(), Evil()])):
        path.write_bytes(pickle.dumps(evil, 4))
        with pytest.raises(StoreError, match="mkdir"):
            labels_in(path, "verb_class")
    assert not (tmp_path / "stolen").exists()


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_labels_of_npz_files(tmp_path: Path) -> None:
    arrays = {"video": np.array(IDS), "label": np.array(VERBS), "noun": np.array(NOUNS)}
    path = npz(tmp_path / "train.npz", **arrays)
    assert labels_in(path, None) == list(zip(IDS, VERBS))
    assert labels_in(path, "noun") == list(zip(IDS, NOUNS))
    for more, message in (
        ({"label": np.array([1, 2])}, "has 3 names and 2 labels"),
        ({"label": np.array([0.5, 1, 2])}, "are no whole numbers from 0 on"),
        ({"label": np.array([[0], [1], [2]])}, "are no whole numbers from 0 on"),
        ({"label": np.array([Evil()] * 3, dtype=object)}, "could run code"),
    ):
        with pytest.raises((ManifestError, StoreError), match=message):
            labels_in(npz(tmp_path / "bad.npz", **{**arrays, **more}), None)
    with pytest.raises(ManifestError, match=r"has no 'label'. It has video. --label NAME"):
        labels_in(npz(tmp_path / "bad.npz", video=np.array(IDS)), None)


def test_labels_beside_the_features_become_a_manifest(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both layouts of features, each with its labels; the splits are said, and never guessed."""
    monkeypatch.chdir(tmp_path)
    block = np.random.default_rng(0).normal(size=(3, 4, WIDTH)).astype(np.float32)
    npz(tmp_path / "all.npz", features=block, label=np.array([1, 0, 1]), video=np.array(IDS))
    content = {"features": {"RGB": block}, "narration_ids": IDS}
    (tmp_path / "rgb").mkdir()
    (tmp_path / "rgb" / "train.pkl").write_bytes(pickle.dumps(content))
    labels = pickle.dumps(frame().assign(noun_class=[1, 2, 0]), 4)
    (tmp_path / "EPIC_100_uda_source_train.pkl").write_bytes(labels)
    done = ("store", "import", "--dtype", "float32")
    npz_options = ("--format", "npz", "all.npz", "--dataset", "a", "--benchmark", "n")
    unclear = cli(*done, *npz_options, "--list", "all.npz")
    assert "does not say whether its videos are for training" in unclear.output
    (tmp_path / "names.txt").write_text("0 cut\n1 open\n")
    first = cli(
        *(*done, *npz_options),
        *("--list", "train=all.npz", "--classes", "names.txt"),
    )
    assert first.exit_code == 0, first.output
    rows = read_manifest(tmp_path / "manifests/n/a.csv")
    assert [(row.id, row.label, row.class_name, row.split, row.frames) for row in rows] == [
        (video, label, ("cut", "open")[label], "train", None)
        for video, label in sorted(zip(IDS, [1, 0, 1]))
    ]
    epic = (*done, "--format", "epic", "rgb", "--dataset", "b", "--benchmark", "e")
    assert "--label COLUMN" in cli(*epic, "--list", "EPIC_100_uda_source_train.pkl").output
    second = cli(*epic, "--list", "EPIC_100_uda_source_train.pkl", "--label", "noun_class")
    assert second.exit_code == 0, second.output
    rows = read_manifest(tmp_path / "manifests/e/b.csv")
    assert {(row.id, row.label, row.split) for row in rows} == {
        (video, label, "train") for video, label in zip(IDS, [1, 2, 0])
    }
    for dataset in "ab":
        with stored(tmp_path, dataset) as store:
            for video, x_TD in zip(IDS, block):
                assert store.read(video).tobytes() == x_TD.tobytes()
    (tmp_path / "train.txt").write_text("P01_01_0 4 0\n")
    text = cli(*epic[:-1], "t", "--list", "train.txt", "--label", "verb_class")
    assert "is a text of lines" in " ".join(text.output.split())
    alone = cli(*epic, "--label", "verb_class")
    assert alone.exit_code == 2 and "give them with --list" in alone.output
