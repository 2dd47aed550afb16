"""`adapt --source a,b`: the videos of several domains as one source."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIG, make_problem, make_store, slow, toy_arguments
from test_unlabelled import done_of, take_labels_away

import adapt
from adapt.bank import FeatureBank, JoinedBank, joined
from store.errors import ManifestError
from store.manifest import read_manifest, write_manifest
from store.read import find_stores

CPU = torch.device("cpu")


def features_in(root: Path, domain: str) -> dict[str, np.ndarray]:
    [store] = find_stores(root / "features", domain).values()
    with store:
        return {video: store.read(video) for video in store.records}


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """left, right and top, which has left's ids with other features; and left and top as one, `joint`."""
    make_problem(tmp_path)
    rows = read_manifest(tmp_path / "manifests" / "toy" / "left.csv")
    random = np.random.default_rng(5)
    lefts = features_in(tmp_path, "left")
    tops = {v: x.astype(np.float32) + random.normal(size=x.shape) for v, x in lefts.items()}
    write_manifest(tmp_path / "manifests" / "toy" / "top.csv", rows)
    make_store(tmp_path / "features", "top", tops)
    both = {**{f"a/{v}": x for v, x in lefts.items()}, **{f"b/{v}": x for v, x in tops.items()}}
    joint = [dataclasses.replace(r, id=f"{name}/{r.id}") for name in "ab" for r in rows]
    targets = read_manifest(tmp_path / "manifests" / "toy" / "right.csv")
    write_manifest(tmp_path / "manifests" / "one" / "joint.csv", joint)
    write_manifest(tmp_path / "manifests" / "one" / "right.csv", targets)
    make_store(tmp_path / "features", "joint", both)
    return tmp_path


def lines(run: Path) -> list[dict]:
    text = (run / "metrics.jsonl").read_text()
    return [{**json.loads(line), "seconds": 0} for line in text.splitlines()]


@pytest.mark.parametrize("bank", ["device", slow("mapped")])
def test_it_is_the_run_on_one_domain_of_all_their_videos(cli, three: Path, bank: str) -> None:
    more = ("--bank", bank, "--score-every", 1)
    first = cli(*toy_arguments(three, "a", "--source", "left,top", *more))
    assert first.exit_code == 0, first.output
    assert "left,top -> right (toy)" in first.output
    assert cli(*toy_arguments(three, "b", "--source", "joint", *more)).exit_code == 0
    assert (three / "a" / "predictions.csv").read_text() == (
        three / "b" / "predictions.csv"
    ).read_text()
    assert lines(three / "a") == lines(three / "b")
    assert "source-val" in lines(three / "a")[-1]["scores"]
    record = json.loads((three / "a" / "config.json").read_text())
    assert record["config"]["source"] == "left,top"
    assert record["data"]["videos"].startswith("24 left train, 24 top train, 24 right train, 12 r")
    again = cli("evaluate", three / "a", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output
    resumed = cli(*toy_arguments(three, "a", "--source", "left,top", *more, "--resume"))
    assert resumed.exit_code == 0
    turned = cli(*toy_arguments(three, "a", "--source", "top,left", *more, "--resume"))
    assert turned.exit_code == 1 and "holds a run with other options, source: " in turned.output


def test_one_id_in_two_domains_is_two_videos(three: Path) -> None:
    """The same ids in the same order, of which one is left's or top's: two different runs."""
    places = {"features": three / "features", "manifests": three / "manifests"}
    config = adapt.configure("left,top", "right", manifests=places["manifests"])
    *rows, last = read_manifest(three / "manifests" / "toy" / "left.csv")
    hashes = set()
    for left, top in (([*rows, last], rows), (rows, [last, *rows])):
        for domain, videos in (("left", left), ("top", top)):
            write_manifest(three / "manifests" / "toy" / f"{domain}.csv", videos)
        hashes.add(adapt.load(config, **places).record.videos.split("sha256 ")[1])
    assert len(hashes) == 2


def test_a_joined_bank_gives_what_its_parts_give() -> None:
    random = np.random.default_rng(0)
    parts = [
        [random.normal(size=(count, 4)).astype(np.float16) for count in counts]
        for counts in ((3, 5), (4,), (2, 6, 7))
    ]
    whole = FeatureBank([x for part in parts for x in part], CPU)
    bank = joined([FeatureBank(part, CPU) for part in parts])
    assert isinstance(bank, JoinedBank) and len(bank) == 6 and bank.width == 4
    assert bank.counts_V.tolist() == [3, 5, 4, 2, 6, 7]
    for videos in ([0, 1, 2, 3, 4, 5], [5, 0, 2, 2, 1, 0], [2], [4, 3]):
        videos_B = torch.tensor(videos)
        frames_BT = torch.stack([torch.tensor([0, 1]) for _ in videos])
        assert torch.equal(bank.gather(videos_B, frames_BT), whole.gather(videos_B, frames_BT))
    alone = FeatureBank(parts[0], CPU)
    assert joined([alone]) is alone


def test_run_folders_name_both(cli, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(three)
    arguments = toy_arguments(three, "a", "--source", "left,top")
    at = arguments.index("--run")
    assert cli(*arguments[:at], *arguments[at + 2 :]).exit_code == 0
    [made] = (three / "runs").iterdir()
    assert made.name == "left+top-right"


def test_sources_that_do_not_fit_together(cli, three: Path) -> None:
    path = three / "manifests" / "toy" / "top.csv"
    for source, message in (
        ("left,left", "--source left,left names a domain twice."),
        ("left,right", "'right' is the target and one of the sources 'left,right'."),
        ("left,", "No benchmark has both 'left,' and 'right'."),
        ("left,down", "No benchmark has both 'left,down' and 'right'."),
        ("left, top", "No benchmark has both 'left, top' and 'right'."),
    ):
        refused = cli(*toy_arguments(three, "run", "--source", source))
        assert refused.exit_code in (1, 2) and message in refused.output, refused.output
    rows = read_manifest(path)
    write_manifest(path, [r for r in rows if r.class_name != "c2"])
    refused = cli(*toy_arguments(three, "run", "--source", "left,top"))
    assert refused.exit_code == 1
    assert (
        "left and top do not have the same classes, 1 class is in one of them alone (first: c2)"
        in (refused.output)
    )
    chosen = cli(*toy_arguments(three, "chosen", "--source", "left,top", "--classes", "c0,c1"))
    assert chosen.exit_code == 0, chosen.output
    turned = [dataclasses.replace(r, label=2 - r.label) for r in rows]
    write_manifest(path, turned)
    refused = cli(*toy_arguments(three, "run", "--source", "left,top"))
    assert refused.exit_code == 1 and "in one domain and" in refused.output
    assert not (three / "run").exists()


def test_stores_must_agree(cli, three: Path) -> None:
    for old in (three / "features" / "top").glob("*/*"):
        old.unlink()
    for folder in (three / "features" / "top").iterdir():
        folder.rmdir()
    missing = cli(*toy_arguments(three, "run", "--source", "left,top"))
    assert missing.exit_code == 1
    assert "36 of 36 top videos have no features" in missing.output
    videos = {r.id: np.ones((3, 16)) for r in read_manifest(three / "manifests/toy/top.csv")}
    make_store(three / "features", "top", videos, {**CONFIG, "stride": 2})
    refused = cli(*toy_arguments(three, "run", "--source", "left,top"))
    assert refused.exit_code == 1
    assert "were made differently and cannot be mixed" in refused.output
    assert "differ in stride: 1 or 2." in refused.output
    named = cli(*toy_arguments(three, "run", "--source", "left,top", "--store", "fake"))
    assert named.exit_code == 1 and "No store begins with 'fake'. All domains have: none." in (
        named.output
    )


def test_with_a_target_without_labels(cli, three: Path) -> None:
    take_labels_away(three)
    assert cli(*toy_arguments(three, "run", "--source", "left,top")).exit_code == 0
    assert done_of(three / "run")["target_eval"] is None
    config = adapt.configure("left,right", "top", manifests=three / "manifests")
    with pytest.raises(ManifestError, match="right of toy is a domain without labels"):
        adapt.load(config, features=three / "features", manifests=three / "manifests")
