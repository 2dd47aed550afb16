"""docs/store.md against the program: its code runs as it stands, and it names every field."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import REPOSITORY, make_store, slow
from test_check import matrix

from extract.backbone import Backbone
from extract.config import ExtractConfig
from store.datasets import manifest_path
from store.format import read_index, read_records
from store.manifest import read_manifest
from store.plan import SHARD_FRAMES, SHARD_VIDEOS
from store.records import RECORD_FIELDS, STATUSES
from store.rewrite import repack

PAGE = (REPOSITORY / "docs" / "store.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """features/ucf101 with one video for each row of the benchmark that the page reads."""
    rows = read_manifest(manifest_path("ucf-hmdb-full", "ucf"))
    videos = {row.id: matrix(i, 1 + i % 3) for i, row in enumerate(rows)}
    videos["v_Archery_g01_c01"] = matrix(0, 5)
    config = {"backbone": "resnet101", "stride": 1, "note": "äh"}
    return make_store(tmp_path / "features", "ucf101", videos, config)


@pytest.mark.parametrize("number", [0, 1, slow(2)])
def test_the_code_of_the_page_runs_as_it_stands(tmp_path: Path, folder: Path, number: int) -> None:
    assert len(CODE) == 3
    (tmp_path / "page.py").write_text(CODE[number], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if number == 0:
        assert "(5, 6)" in done.stdout and "False ['v_" in done.stdout
    if number == 1:
        assert len(CODE[1].strip().splitlines()) <= 12
        assert not re.search("store|adapt|extract", CODE[1])


@pytest.mark.slow
def test_the_reader_of_the_page_reads_a_repacked_store(tmp_path: Path, folder: Path) -> None:
    """Its code, with a record of what it reads, after all videos have moved to other shards."""
    count = len(read_records(folder / "videos.csv"))
    assert count > SHARD_VIDEOS and repack(folder).moved == count
    code = (
        CODE[1].replace('Path("features', f'Path("{tmp_path}/features')
        + "    read[row['video']] = features\n"
    )
    read: dict[str, np.ndarray] = {}
    exec(compile(code, "docs/store.md", "exec"), {"read": read})
    assert len(read) == count
    for row in read_records(folder / "videos.csv"):
        assert row.crc32 == f"{zlib.crc32(read[row.video].tobytes()):08x}"
    np.testing.assert_array_equal(read["v_Archery_g01_c01"], matrix(0, 5).astype(np.float16))


def test_every_field_stands_on_the_page(folder: Path) -> None:
    index = read_index(folder)
    backbone = Backbone(
        ExtractConfig(backbone="mobilenet_v3_small", weights="random:0", device="cpu")
    )
    names = {*index, *index["shards"][0], *index["totals"], *RECORD_FIELDS, *STATUSES}
    names |= {*backbone.config, "inference", "merged", "record"}
    assert [name for name in sorted(names) if f"`{name}`" not in PAGE] == []
    assert f"at most {SHARD_VIDEOS} videos or {SHARD_FRAMES:,} frames" in PAGE


def test_the_page_says_how_the_config_is_hashed_and_what_a_shard_holds(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    assert 'json.dumps(config, sort_keys=True, separators=(",", ":"))' in PAGE
    text = json.dumps(index["config"], sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == index["config_sha256"]
    assert folder.name == f"resnet101-{index['config_sha256'][:8]}"
    with h5py.File(folder / "shard-00000.h5") as shard:
        assert shard.attrs["config"] == text
        dataset = shard["v_Archery_g01_c01"]
        assert dataset.dtype == "<f2" and dataset.chunks is None and dataset.compression is None
        assert json.loads(dataset.attrs["record"])["shard"] == "shard-00000.h5"
        offset = dataset.id.get_offset()
    mapped = np.memmap(folder / "shard-00000.h5", "<f2", "r", offset, (5, 6))
    np.testing.assert_array_equal(mapped, matrix(0, 5).astype(np.float16))
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert checked.returncode == 0 and checked.stdout.count(b": OK") == 4
