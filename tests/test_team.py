"""Two people extract halves with folders of their own, and merge: the commands of docs/store.md."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_reshape import plain, statuses

from extract.synthetic import make_collection
from store import plan
from store.check import CHECKS, verify


@pytest.fixture
def extract(tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch):
    """The command, on ten videos of one data set in shards of at most three; returns the store's folder."""
    monkeypatch.setattr(plan, "SHARD_VIDEOS", 3)
    make_collection(tmp_path / "videos", "day", per_action=2)
    (tmp_path / "m/own").mkdir(parents=True)
    ids = sorted(path.stem for path in (tmp_path / "videos").rglob("*.mp4"))
    rows = "".join(f"{video},0,c,train,\n" for video in ids)
    (tmp_path / "m/own/toy.csv").write_text("video,label,class,split,frames\n" + rows)

    def run(features: str, *more: object, code: int = 0, videos: str = "videos") -> Path:
        done = cli(
            *("extract", "--dataset", "toy", "--videos", tmp_path / videos),
            *("--features", tmp_path / features, "--manifests", tmp_path / "m", "--workers", 1),
            *("--backbone", "mobilenet_v3_small", "--weights", "random:0"),
            *("--device", "cpu", "--precision", "float32", *more),
        )
        assert done.exit_code == code, done.output
        [folder] = (tmp_path / features / "toy").iterdir()
        return folder

    return run


def test_halves_by_rank(tmp_path: Path, extract, cli) -> None:
    whole = plain(extract("whole"))
    halves = [
        extract(name, "--rank", rank, "--world", 2)
        for rank, name in enumerate(("half-a", "half-b"))
    ]
    parts = [plain(folder) for folder in halves]
    assert 0 < len(parts[0]) < len(whole) and not parts[0].keys() & parts[1].keys()
    merged = cli("store", "merge", *halves, "--out", tmp_path / "features")
    assert merged.exit_code == 0, merged.output
    [folder] = (tmp_path / "features/toy").iterdir()
    assert folder.name == halves[0].name and plain(folder) == whole
    assert set(statuses(folder).values()) == {"ok"} and list(verify(folder, CHECKS)) == []
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    extract("features")  # goes on with the merged store: there is nothing left to do
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")} == before


@pytest.mark.slow
def test_halves_by_what_each_has(tmp_path: Path, extract, cli) -> None:
    whole = plain(extract("whole"))
    paths = sorted((tmp_path / "videos").rglob("*.mp4"))
    for name, part in (("ann", paths[:6]), ("bob", paths[5:-1])):
        (tmp_path / name).mkdir()
        for path in part:
            shutil.copy(path, tmp_path / name)
    halves = [extract(f"half-{name}", code=3, videos=name) for name in ("ann", "bob")]
    merged = cli("store", "merge", *halves, "--out", tmp_path / "half-ann")
    assert f"{len(whole) - 1} of {len(whole)} listed videos are stored" in merged.output
    assert ", 1 of them in more than one store" in merged.output and "  1 missing" in merged.output
    last = paths[-1].stem
    assert plain(halves[0]) == {video: x for video, x in whole.items() if video != last}
    assert statuses(halves[0])[last] == "missing" and list(verify(halves[0], CHECKS)) == []
    extract("half-ann")  # with all videos at hand, the rest is made
    assert plain(halves[0]) == whole
