"""`adapt --features URL`: what it needs is pulled into the cache, and the next run needs no server."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_problem, metrics, toy_arguments
from remotes import serving

from adapt.environment import environment
from store import remote
from store.read import FeatureStore
from store.records import VideoRecord
from store.remote_cache import cache_of
from store.remote_url import RemoteUrl
from store.tables import write_index
from store.write import ShardWriter


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def from_url(root: Path, run: str, url: str, *more: object) -> list[object]:
    arguments = toy_arguments(root, run, "--method", "infomax", *more)
    arguments[arguments.index("--features") + 1] = url
    return arguments


def test_one_command_trains_and_the_next_works_without_the_server(cli, problem: Path) -> None:
    with serving(problem / "features") as (server, url):
        url = url.replace("http://", "http://me:s3cr3t@")
        first = cli(*from_url(problem, "first", url))
        assert first.exit_code == 0, first.output
        server.log.clear()
        again = cli(*from_url(problem, "again", url))
        assert again.exit_code == 0, again.output
        assert not [path for path, _ in server.log if path.endswith(".h5")]
    offline = cli(*from_url(problem, "offline", url))
    assert offline.exit_code == 0, offline.output
    assert cli(*toy_arguments(problem, "here", "--method", "infomax")).exit_code == 0
    here = metrics(problem / "here")
    assert all(metrics(problem / run) == here for run in ("first", "again", "offline"))
    shutil.rmtree(problem / "features")
    repeated = cli("evaluate", problem / "offline", "--device", "cpu")
    assert repeated.exit_code == 0, repeated.output
    written = [path for path in problem.rglob("*") if path.is_file()]
    assert not any(b"s3cr3t" in path.read_bytes() for path in written)
    assert "s3cr3t" not in first.output + again.output + offline.output
    features = json.loads((problem / "offline" / "config.json").read_text())
    assert str(cache_of(RemoteUrl.of(url))) in json.dumps(features)


def test_without_server_and_cache_it_is_said(cli, problem: Path) -> None:
    with serving(problem / "features") as (_, url):
        pass
    result = cli(*from_url(problem, "run", url))
    assert result.exit_code == 1 and "the server does not answer" in result.output
    assert not (problem / "run").exists()


def test_what_changed_there_is_taken(cli, tmp_path: Path) -> None:
    make_problem(tmp_path)
    with serving(tmp_path / "features") as (_, url):
        assert cli(*from_url(tmp_path, "old", url)).exit_code == 0
        shutil.rmtree(tmp_path / "features")
        make_problem(tmp_path, seed=7)
        assert cli(*from_url(tmp_path, "new", url)).exit_code == 0
    assert cli(*toy_arguments(tmp_path, "here", "--method", "infomax")).exit_code == 0
    assert metrics(tmp_path / "new") == metrics(tmp_path / "here") != metrics(tmp_path / "old")


def test_a_used_run_folder_is_refused_before_anything_is_pulled(cli, problem: Path) -> None:
    with serving(problem / "features") as (server, url):
        assert cli(*from_url(problem, "run", url)).exit_code == 0
        server.log.clear()
        result = cli(*from_url(problem, "run", url))
    assert result.exit_code != 0 and not server.log


def test_several_stores_are_a_choice_before_shards_are_pulled(cli, tmp_path: Path) -> None:
    from conftest import CONFIG, make_store

    make_problem(tmp_path)
    import numpy as np

    for domain in ("left", "right"):
        videos = {f"{domain}_0_{n}": np.ones((3, 16)) for n in range(3)}
        make_store(tmp_path / "features", domain, videos, {**CONFIG, "stride": 2})
    names = sorted(path.name for path in (tmp_path / "features" / "left").iterdir())
    with serving(tmp_path / "features") as (server, url):
        result = cli(*from_url(tmp_path, "run", url))
        assert result.exit_code == 1 and "Several stores fit" in result.output
        assert all(f"--store {name}" in result.output for name in names)
        assert not [path for path, _ in server.log if path.endswith(".h5")]
        full = next(
            n
            for n in names
            if "36 of 36"
            in cli("store", "list", "--features", tmp_path / "features" / "left" / n).output
        )
        result = cli(*from_url(tmp_path, "run", url, "--store", full))
        assert result.exit_code == 0, result.output


def test_a_store_that_is_only_in_the_cache_is_no_choice(cli, problem: Path) -> None:
    """It was removed there; --store names the beginning that both have."""
    with serving(problem / "features") as (_, url):
        assert cli(*from_url(problem, "first", url)).exit_code == 0
        for folder in cache_of(RemoteUrl.of(url)).glob("*/fake-*"):
            shutil.copytree(folder, folder.with_name("fake-old"))
        result = cli(*from_url(problem, "second", url, "--store", "fake"))
    assert result.exit_code == 0, result.output


def test_no_such_data_set_is_said(cli, problem: Path) -> None:
    with serving(problem / "features") as (_, url):
        result = cli(*from_url(problem, "run", f"{url}/left"))
    assert result.exit_code == 1 and "does not list its folders" in result.output
    arguments = from_url(problem, "run", f"file://{problem / 'features' / 'left'}")
    result = cli(*arguments)
    assert result.exit_code == 1 and "There is no store of left in" in result.output


def in_two_shards(folder: Path, first: str) -> None:
    """Write a store again, with the videos whose ids begin with `first` in a shard of their own."""
    with FeatureStore(folder) as store:
        rows = {video: store.read(video) for video in store}
        config, dataset, width = store.config, store.index["dataset"], store.width
    shutil.rmtree(folder)
    folder.mkdir()
    records = []
    for number, there in enumerate((True, False)):
        with ShardWriter(folder, number, config) as writer:
            for video, x_TD in rows.items():
                if video.startswith(first) is there:
                    records.append(writer.add(VideoRecord(video=video), x_TD))
    write_index(folder, dataset=dataset, config=config, width=width, records=records, run={})


def small_benchmark(root: Path, first: str) -> None:
    """A benchmark of the target, and of the source's videos whose ids begin with `first`."""
    (root / "manifests" / "small").mkdir()
    shutil.copy(root / "manifests" / "toy" / "right.csv", root / "manifests" / "small")
    head, *lines = (root / "manifests" / "toy" / "left.csv").read_text().splitlines()
    kept = [line for line in lines if line.startswith(first)]
    (root / "manifests" / "small" / "left.csv").write_text("\n".join([head, *kept, ""]))


def proposed(output: str, command: str) -> list[str]:
    """The words of the one command of that name that a message proposes, after the program's."""
    [line] = [line for line in output.splitlines() if f"python cli.py {command} " in line]
    return shlex.split(line.partition("python cli.py ")[2])


@pytest.mark.parametrize("how", ["pulled", "cached"])
def test_what_stayed_behind_is_pulled_and_not_extracted(cli, problem: Path, how: str) -> None:
    """The command that the message proposes brings the videos, and the same training works then."""
    [left] = (problem / "features" / "left").iterdir()
    in_two_shards(left, "left_0")
    small_benchmark(problem, "left_0")
    with serving(problem / "features") as (_, web):
        url = f"file://{problem / 'features'}"
        if how == "cached":
            url = web.replace("http://", "http://me:s3cr3t@")
            first = cli(*from_url(problem, "first", url, "--benchmark", "small"))
            assert first.exit_code == 0, first.output
            features = cache_of(RemoteUrl.of(url))
        else:
            features = problem / "some features"
            pull = ("store", "pull", url, features, "--benchmark", "small")
            assert cli(*pull, "--manifests", problem / "manifests").exit_code == 0
        arguments = from_url(problem, "run", str(features), "--benchmark", "toy")
        lacking = cli(*arguments)
        assert lacking.exit_code == 1 and "cli.py extract" not in lacking.output
        shown = RemoteUrl.of(f"{url}/left/{left.name}")
        assert f"16 of 16 videos were left in {shown}. Run" in lacking.output, lacking.output
        assert ("place of ***" in lacking.output) is (how == "cached")
        assert "s3cr3t" not in lacking.output
        words = proposed(lacking.output, "store pull")
        assert words[:4] == ["store", "pull", str(shown), str(features)]
        pulled = cli(*(word.replace("***", "me:s3cr3t") for word in words))
        assert pulled.exit_code == 0, pulled.output
        trained = cli(*arguments)
        assert trained.exit_code == 0, trained.output
    assert cli(*toy_arguments(problem, "here", "--method", "infomax")).exit_code == 0
    assert metrics(problem / "run") == metrics(problem / "here")


def test_without_the_server_what_stayed_behind_is_said(cli, problem: Path) -> None:
    """Videos that the store there has not either are extracted, the others are pulled."""
    [left] = (problem / "features" / "left").iterdir()
    in_two_shards(left, "left_0")
    small_benchmark(problem, "left_0")
    with (problem / "manifests/toy/left.csv").open("a") as file:
        file.write("left_9_9,0,c0,train,\n")
    with serving(problem / "features") as (_, url):
        assert cli(*from_url(problem, "first", url, "--benchmark", "small")).exit_code == 0
    offline = cli(*from_url(problem, "run", url, "--benchmark", "toy"))
    assert offline.exit_code == 1 and "16 of 17 videos were left in" in offline.output, (
        offline.output
    )
    assert proposed(offline.output, "store pull")[2] == f"{url}/left/{left.name}"
    assert "For the other 1, run: python cli.py extract" in offline.output
    assert "--allow-missing" in offline.output


@pytest.mark.slow
def test_benchmark_takes_a_url(cli, problem: Path) -> None:
    with serving(problem / "features") as (_, url):
        result = cli(
            *("benchmark", "--benchmark", "toy", "--methods", "infomax", "--seeds", "0"),
            *("--source", "left", "--target", "right", "--features", url, "--epochs", 1),
            *("--manifests", problem / "manifests", "--out", problem / "out", "--device", "cpu"),
        )
    assert result.exit_code == 0, result.output
    assert (problem / "out" / "results.csv").exists()


def test_the_recorded_command_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["cli.py", "adapt", "--features=https://me:p@ss@host/x", "--run", "a@b"]
    monkeypatch.setattr(sys, "argv", given)
    assert environment(torch.device("cpu"))["command"] == [
        "cli.py",
        "adapt",
        "--features=https://***@host/x",
        "--run",
        "a@b",
    ]
