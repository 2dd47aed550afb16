"""Features on the device, on the host and mapped: the same numbers, and memory that stays small."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_store

from adapt import bank as banks
from adapt.bank import MappedBank, choose_bank, load_bank, needed_bytes, sample
from adapt.schedule import generator
from benchmarks.scale import peak_memory, write_stores
from store import checksums, machine
from store.errors import ConfigError, StoreError
from store.manifest import Video
from store.read import FeatureStore

CPU = torch.device("cpu")
GB = 1_000_000_000


def make(tmp_path: Path, counts: tuple[int, ...] = (1, 30, 7)) -> tuple[FeatureStore, list[Video]]:
    draws = np.random.default_rng(0)
    features = {f"dir/v {i}": draws.normal(size=(n, 12)) for i, n in enumerate(counts)}
    videos = [Video(id=v, label=0, class_name="a", split="train", frames=None) for v in features]
    return FeatureStore(make_store(tmp_path, "toy", features)), videos


@pytest.mark.parametrize("kind", ["device", "host", "mapped"])
def test_every_bank_gives_the_stored_rows(tmp_path: Path, kind: str, device: torch.device) -> None:
    store, videos = make(tmp_path)
    with store:
        bank = load_bank(store, videos, device, kind)
        stored = [store.read(video.id) for video in videos]
    assert len(bank) == 3 and bank.width == 12 and bank.counts_V.tolist() == [1, 30, 7]
    videos_B = torch.tensor([1, 0, 2, 1])
    frames_BT = sample(bank, videos_B, 9, generator(0, "test"))
    x_BTD = bank.gather(videos_B, frames_BT)
    assert x_BTD.dtype == torch.float32 and x_BTD.device.type == device.type
    for video, frames_T, x_TD in zip(videos_B.tolist(), frames_BT.tolist(), x_BTD.cpu().numpy()):
        for frame, x_D in zip(frames_T, x_TD):
            assert np.array_equal(x_D, stored[video][frame].astype(np.float32))


def test_pages_are_given_back_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banks, "_RELEASE_BYTES", 100)
    store, videos = make(tmp_path)
    with store:
        bank = MappedBank(store, videos, CPU)
        expected = torch.from_numpy(store.read(videos[1].id)[:9]).float()
    for _ in range(3):
        assert torch.equal(bank.gather(torch.tensor([1]), torch.arange(9)[None])[0], expected)


def test_mapping_checks_what_it_can(tmp_path: Path) -> None:
    store, videos = make(tmp_path)
    with store, pytest.raises(StoreError, match="has no features of other"):
        store.location("other")
    with store, pytest.raises(StoreError, match="has no features of other"):
        store.check_shards(["other"])
    with pytest.raises(StoreError, match="bytes long, the index says"):
        shard = next(store.folder.glob("shard-*.h5"))
        with shard.open("r+b") as file:  # cut: mapping it would crash the process later
            file.truncate(shard.stat().st_size - 1)
        MappedBank(store, videos, CPU)


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which shards are hashed, with a cache of the test's own."""
    seen: list[Path] = []
    original = checksums.hash_plain

    def noted(path: Path):
        seen.append(path)
        return original(path)

    monkeypatch.setattr(checksums, "hash_plain", noted)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return seen


def test_a_damaged_shard_is_never_mapped(tmp_path: Path, hashed: list[Path]) -> None:
    """Wherever the byte: in the features, or in the metadata on which HDF5 may crash."""
    store, videos = make(tmp_path)
    shard = store.folder / "shard-00000.h5"
    clean = shard.read_bytes()
    with store:
        start = store.location(videos[1].id)[1]
    positions = [start, start + 100, *np.random.default_rng(1).integers(len(clean), size=20)]
    for position in map(int, positions):
        damaged = bytearray(clean)
        damaged[position] ^= 4
        shard.write_bytes(damaged)
        with FeatureStore(store.folder) as opened, pytest.raises(StoreError) as caught:
            load_bank(opened, videos, CPU, "mapped")
        assert f"{shard} is damaged: its sha256 is " in str(caught.value)
        assert "Delete it and run extract again, or what else made the store" in str(caught.value)
    shard.write_bytes(clean)
    with FeatureStore(store.folder) as opened:
        load_bank(opened, videos, CPU, "mapped")


def test_a_shard_is_hashed_once_until_it_changes(
    tmp_path: Path,
    hashed: list[Path],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checksums, "_SAY_BYTES", 0)
    store, videos = make(tmp_path)
    shard = store.folder / "shard-00000.h5"
    cache = tmp_path / "cache" / "ma2l-td" / "sha256.json"

    def load() -> int:
        hashed.clear()
        with FeatureStore(store.folder) as opened:
            load_bank(opened, videos, CPU, "mapped")
        return len(hashed)

    with caplog.at_level("INFO"):
        assert load() == 1
    assert f"Checking the sha256 of 1 shard (0.0 GB) in {store.folder}" in caplog.text
    assert load() == 0
    shard.write_bytes(shard.read_bytes())  # the same bytes, but who knows
    assert [load(), load()] == [1, 0]
    copied = shard.with_suffix(".copy")
    copied.write_bytes(shard.read_bytes())
    os.utime(copied, ns=(shard.stat().st_atime_ns, shard.stat().st_mtime_ns))
    copied.replace(shard)
    assert [load(), load()] == [1, 0]
    for text in ("", "[]", "{", "[" * 100_000, "\udcff"):
        cache.write_bytes(text.encode("utf-8", "surrogateescape"))
        assert [load(), load()] == [1, 0]
    cache.unlink()
    cache.mkdir()
    with caplog.at_level("INFO"):
        assert [load(), load()] == [1, 1]  # slower, and no error
    assert "The checked shards cannot be remembered" in caplog.text


def test_the_bank_is_chosen_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(banks, "available_memory", lambda: 10 * GB)
    assert choose_bank("auto", 5 * GB, CPU) == "device"
    assert choose_bank("auto", 5 * GB + 1, CPU) == "mapped"
    assert choose_bank("host", 9 * GB, CPU) == "host"
    assert choose_bank("mapped", 900 * GB, CPU) == "mapped"
    with pytest.raises(ConfigError) as caught:
        choose_bank("host", 51 * GB, CPU)
    assert str(caught.value) == (
        "--bank host needs 51.0 GB for the features, 10.0 GB are free. Use --bank mapped."
    )
    monkeypatch.setattr(banks, "world", lambda: 2)  # two processes have half of it each
    assert choose_bank("auto", 2 * GB, CPU) == "device"
    assert choose_bank("auto", 3 * GB, CPU) == "mapped"
    store, videos = make(tmp_path)
    with store:
        assert needed_bytes(store, videos) == 38 * 12 * 2


def test_available_memory_is_plausible() -> None:
    assert 50_000_000 < machine.available_memory() < 1 << 50


@pytest.mark.parametrize("version", [1, 2])
def test_a_limit_of_slurm_or_a_container_is_memory_that_is_not_there(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of both versions of control groups, as Linux's documentation describes them."""
    free = 10 * GB
    groups, own = tmp_path / "groups", tmp_path / "own"
    root = groups / "memory" if version == 1 else groups
    limit, used, unused = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    for group, most, now, of_files in (
        ("job", str(3 * GB), 2 * GB, GB // 2),
        ("job/step", {1: str(2**63 - 4096), 2: "max"}[version], GB, 0),
        ("other", str(GB), GB, 0),
    ):
        (root / group).mkdir(parents=True)
        (root / group / limit).write_text(f"{most}\n")
        (root / group / used).write_text(f"{now}\n")
        (root / group / "memory.stat").write_text(f"anon 1\n{unused} {of_files}\n")
    monkeypatch.setattr(machine, "_GROUPS", groups)
    monkeypatch.setattr(machine, "_OWN_GROUPS", own)
    line = (
        "0::{0}\n"
        if version == 2
        else "5:cpu,cpuacct:/other\n4:memory:{0}\n1:name=systemd:/other\n"
    )
    for path, left in (("/job/step", [3 * GB // 2]), ("/", []), ("/gone", []), ("/other", [0])):
        own.write_text(line.format(path))
        found = [least for least in machine._left_in_groups() if least < free]
        assert found == left
    own.unlink()
    assert machine._left_in_groups() == []


@pytest.mark.slow
def test_kinetics_gameplay_trains_within_8_gb(tmp_path: Path) -> None:
    """Stores of the benchmark's shape (12.5 M frames, 51 GB apparent size), one epoch, peak memory."""
    frames = write_stores(tmp_path / "features")
    assert 12_000_000 < frames < 13_000_000
    options = ["--epochs", "1", "--checkpoint-every", "1"]
    peak = peak_memory(tmp_path / "features", tmp_path / "run", options)
    print(f"\n{frames:,} frames, peak memory {peak / GB:.2f} GB")
    assert peak < 8 * GB
