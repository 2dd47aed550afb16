from __future__ import annotations

import json
import subprocess
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import pytest
from conftest import CONFIG, edited_json, make_store

from adapt.choose import choose_stores
from extract.videos import VideoFolder
from store.check import CHECKS, verify
from store.errors import StoreError
from store.files import explained, replacing
from store.format import config_sha256, store_folder
from store.index import StoreIndex
from store.read import FeatureStore, find_stores
from store.records import VideoRecord
from store.write import ShardWriter

RANDOM = np.random.default_rng(0)
ODD_IDS = ["#1 [x] (y) & z!", "-7Y7_0", "walk/001", "walk/002", "naïve+"]


@pytest.fixture
def features() -> dict[str, np.ndarray]:
    return {v: RANDOM.normal(size=(5 + i, 8)).astype(np.float32) for i, v in enumerate(ODD_IDS)}


@pytest.fixture
def folder(tmp_path: Path, features: dict[str, np.ndarray]) -> Path:
    return make_store(tmp_path, "toy", features)


def test_what_is_written_is_read(folder: Path, features: dict[str, np.ndarray]) -> None:
    with FeatureStore(folder) as store:
        assert set(store.records) == set(features)
        for video, expected in features.items():
            assert store.read(video).dtype == np.float16
            np.testing.assert_array_equal(store.read(video), expected.astype(np.float16))
        assert store.index["complete"] is True
        assert store.index["totals"]["frames"] == sum(map(len, features.values()))
        assert "walk" not in store
        with pytest.raises(StoreError, match="has no features of other"):
            store.read("other")


def test_layout_is_the_documented_one(folder: Path) -> None:
    assert folder.name == f"fake-{config_sha256(CONFIG)[:8]}"
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0
    with h5py.File(folder / "shard-00000.h5") as file:
        dataset = file["-7Y7_0"]
        assert dataset.chunks is None and dataset.compression is None
        assert dataset.id.get_offset() is not None  # contiguous: can be mapped
        assert json.loads(file.attrs["config"]) == CONFIG


def test_the_shards_alone_rebuild_the_records(folder: Path) -> None:
    with FeatureStore(folder) as store:
        assert StoreIndex(folder, "toy", CONFIG, 8).stored == store.records
    with pytest.raises(StoreError, match="made with another config"):
        StoreIndex(folder, "toy", {**CONFIG, "stride": 2}, 8)


def test_same_input_gives_the_same_bytes(tmp_path: Path, features: dict[str, np.ndarray]) -> None:
    shards = [make_store(tmp_path / n, "toy", features) / "shard-00000.h5" for n in "ab"]
    assert shards[0].read_bytes() == shards[1].read_bytes()


@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "nan"), (np.inf, "inf"), (7e4, "70000"), (-7e4, "70000")]
)
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, value: float, text: str) -> None:
    bad = np.zeros((2, 3))
    bad[1, 2] = value
    with ShardWriter(tmp_path, 0, CONFIG) as writer:
        with pytest.raises(StoreError, match=f"largest feature is {text}"):
            writer.add(VideoRecord(video="a"), bad)
        with pytest.raises(StoreError, match=r"shape \(0, 3\)"):
            writer.add(VideoRecord(video="a"), np.zeros((0, 3)))


def test_an_interrupted_shard_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, 0, CONFIG) as writer:
        writer.add(VideoRecord(video="a"), np.zeros((2, 3)))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), replacing(tmp_path / "x") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_byte_of_features_is_found(
    folder: Path, features: dict[str, np.ndarray]
) -> None:
    path = folder / "shard-00000.h5"
    clean = path.read_bytes()
    with h5py.File(path) as file:
        spans = {v: (file[v].id.get_offset(), file[v].id.get_storage_size()) for v in features}
    for video, (offset, size) in spans.items():
        for position in RANDOM.integers(offset, offset + size, 5):
            damaged = bytearray(clean)
            damaged[position] ^= 1 << int(RANDOM.integers(8))
            path.write_bytes(damaged)
            with FeatureStore(folder) as store, pytest.raises(StoreError, match="were damaged"):
                store.read(video)
    path.write_bytes(clean[:-1])
    with FeatureStore(folder) as store, pytest.raises(StoreError, match="the index says"):
        store.read("naïve+")


def replace_dataset(folder: Path, name: str, make) -> None:
    """Exchange a dataset and keep the index true to the file's new size: only the link is wrong."""
    path = folder / "shard-00000.h5"
    with h5py.File(path, "a") as file:
        del file[name]
        make(file)
    with edited_json(folder / "index.json") as index:
        index["shards"][0]["bytes"] = path.stat().st_size


def test_links_inside_a_shard_are_refused(tmp_path: Path, features: dict[str, np.ndarray]) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = features["naïve+"].astype(np.float16)
    layout = h5py.VirtualLayout((9, 8), np.float16)
    layout[:] = h5py.VirtualSource(secret, "x", (9, 8))
    attempts = {
        "is a link": lambda f: f.__setitem__("naïve+", h5py.SoftLink("/walk/001")),
        "is a link and is refused:": lambda f: f.__setitem__(
            "naïve+", h5py.ExternalLink(str(secret), "x")
        ),
        "is not a plain dataset": lambda f: f.create_virtual_dataset("naïve+", layout),
        "not a plain dataset": lambda f: f.create_dataset(
            "naïve+", (9, 8), np.float16, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
        ),
        "has type float64": lambda f: f.create_dataset("naïve+", data=np.zeros((9, 8))),
        "does not contain": lambda f: None,
    }
    for number, (message, make) in enumerate(attempts.items()):
        folder = make_store(tmp_path / str(number), "toy", features)
        replace_dataset(folder, "naïve+", make)
        with FeatureStore(folder) as store, pytest.raises(StoreError, match=message):
            store.read("naïve+")


def test_names_in_an_index_never_leave_the_folder(folder: Path) -> None:
    original = (folder / "index.json").read_text()
    for name in ("../../secret.h5", "/etc/passwd", "shard-1.h5"):
        (folder / "index.json").write_text(original.replace("shard-00000.h5", name))
        with pytest.raises(StoreError, match="among its shards that cannot be one"):
            FeatureStore(folder)
    (folder / "index.json").write_text(original.replace('"stride": 1', '"stride": 2'))
    with pytest.raises(StoreError, match="config_sha256 is not that of its config"):
        FeatureStore(folder)
    (folder / "index.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        FeatureStore(folder)
    (folder / "index.json").unlink()
    assert find_stores(folder.parent.parent, "toy") == {}
    (folder / "index.json").write_text(original)
    (folder / "shard-00000.h5").rename(folder.parent / "elsewhere.h5")
    (folder / "shard-00000.h5").symlink_to(folder.parent / "elsewhere.h5")
    with FeatureStore(folder) as store, pytest.raises(StoreError, match="link to another folder"):
        store.read("walk/001")


def test_lookup_below_a_folder(tmp_path: Path) -> None:
    for name in ("A/x.avi", "A/y.avi", "B/y.mp4", "B/deep/[1].mkv", "B/.x.avi", "B/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "B" / "loop").symlink_to(tmp_path)
    folder = VideoFolder([tmp_path, tmp_path / "A"])
    assert len(folder) == 6
    assert [root / path for root, path in folder.candidates("x")] == [tmp_path / "A/x.avi"]
    assert folder.candidates("[1]") == [(tmp_path, PurePosixPath("B/deep/[1].mkv"))]
    assert len(folder.candidates("y")) == 2
    assert folder.candidates("B/y") == [(tmp_path, PurePosixPath("B/y.mp4"))]
    assert folder.candidates("*") == folder.candidates("../A/x") == []


def test_a_store_that_cannot_be_used_is_left_out(
    folder: Path, features: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    root = folder.parent.parent
    other = make_store(root, "toy", features, {**CONFIG, "stride": 2})
    (other / "index.json").write_text("{")
    with caplog.at_level("WARNING"):
        assert list(find_stores(root, "toy")) == [folder.name]
    assert f"Left out: {other / 'index.json'} is damaged" in caplog.text
    caplog.clear()
    assert list(find_stores(root, "toy", folder.name[:6])) == [folder.name]
    assert list(find_stores(root, "toy", "none so")) == [folder.name]  # the caller lists them
    assert list(find_stores(root, "toy", folder.name)) == [folder.name]
    caplog.clear()
    find_stores(root, "toy", folder.name)
    assert not caplog.text  # what was not asked for is not looked at
    with pytest.raises(StoreError, match="is damaged"):
        find_stores(root, "toy", other.name)
    (folder / "index.json").unlink()
    with pytest.raises(StoreError, match=r"index\.json is damaged"):
        find_stores(root, "toy")
    assert find_stores(root, "nothing") == {}


def test_a_renamed_store_is_left_out_with_the_reason(folder: Path) -> None:
    moved = folder.rename(folder.with_name("fake-01234567"))
    config = config_sha256(CONFIG)[:8]
    with pytest.raises(StoreError) as caught:
        find_stores(folder.parent.parent, "toy")
    assert str(caught.value) == (
        f"{moved}: the folder's name says config 01234567, the index {config}. "
        "Give the folder its name back."
    )


def test_equal_names_with_unlike_configs_are_not_mixed(
    tmp_path: Path, features: dict[str, np.ndarray]
) -> None:
    stores = []
    for domain, config in (("a", CONFIG), ("b", {**CONFIG, "stride": 2})):
        made = make_store(tmp_path, domain, features, config)
        made.rename(made.with_name("mine"))  # a name without a config passes find_stores
        stores.append(find_stores(tmp_path, domain))
    for chosen in (None, "mine"):
        with pytest.raises(StoreError, match=r"stride: 1 or 2|No store begins with 'mine'"):
            choose_stores(*stores, chosen=chosen)
    same = make_store(tmp_path, "c", features)
    same.rename(same.with_name("mine"))
    pair = choose_stores(stores[0], find_stores(tmp_path, "c"), chosen=None)
    assert pair[0].config == pair[1].config


def test_what_the_writer_makes_of_strange_records(tmp_path: Path) -> None:
    """A container may claim any rate, and a file any name."""
    folder = tmp_path / "s"
    folder.mkdir()
    strange = VideoRecord(video="a", fps=float("nan"), seconds=float("inf"), source="\udcff\r.avi")
    with ShardWriter(folder, 0, CONFIG) as writer:
        writer.add(strange, np.zeros((2, 8)))
    failed = VideoRecord(video="b", status="failed", error="x\r" * 200_000)
    StoreIndex(folder, "toy", CONFIG, 8).write(["a", "b"], {"b": failed}, {})
    with FeatureStore(folder) as store:
        assert (store.records["a"].fps, store.records["a"].seconds) == (0.0, 0.0)
        assert store.records["a"].source == "\udcff\r.avi"
    assert list(verify(folder, CHECKS)) == []


def test_a_damaged_video_whose_shard_was_deleted_is_not_stored_any_more(tmp_path: Path) -> None:
    folder = store_folder(tmp_path, "toy", CONFIG)
    folder.mkdir(parents=True)
    for number, (video, status) in enumerate([("a", "ok"), ("b", "damaged")]):
        with ShardWriter(folder, number, CONFIG) as writer:
            writer.add(VideoRecord(video=video, status=status), np.ones((3, 6)))
    StoreIndex(folder, "toy", CONFIG, 6).write(["a", "b"], {}, {})
    (folder / "shard-00001.h5").unlink()  # as a message about a damaged shard advises
    index, _ = StoreIndex(folder, "toy", CONFIG, 6).write(["a", "b"], {}, {})
    assert not index["complete"]
    with FeatureStore(folder) as store:
        assert set(store) == {"a"} and store.absent["b"].status == "pending"


def test_a_long_reason_is_the_same_in_the_table_and_beside_the_features(tmp_path: Path) -> None:
    folder = store_folder(tmp_path, "toy", CONFIG)
    folder.mkdir(parents=True)
    record = VideoRecord(video="a", status="damaged", error="x" * 70_000)
    with ShardWriter(folder, 0, CONFIG) as writer:
        writer.add(record, np.ones((3, 6)))
    StoreIndex(folder, "toy", CONFIG, 6).write(["a"], {}, {})
    assert list(verify(folder, CHECKS)) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "x"), "No space left on device"),
        (OSError("one\ntwo"), "one"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_a_write_that_fails_says_why(error: OSError, reason: str) -> None:
    with (
        pytest.raises(StoreError, match=rf"^Cannot write x: {reason}\. Make room\.$"),
        explained(Path("x"), StoreError, "Make room."),
    ):
        raise error
