"""`adapt --features URL`: what it needs is pulled into the cache, and the next run needs no server."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_problem, metrics, toy_arguments
from remotes import serving

from adapt.environment import environment
from store import remote
from store.remote_cache import cache_of
from store.remote_url import RemoteUrl


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


def test_no_such_data_set_is_said(cli, problem: Path) -> None:
    with serving(problem / "features") as (_, url):
        result = cli(*from_url(problem, "run", f"{url}/left"))
    assert result.exit_code == 1 and "does not list its folders" in result.output
    arguments = from_url(problem, "run", f"file://{problem / 'features' / 'left'}")
    result = cli(*arguments)
    assert result.exit_code == 1 and "There is no store of left in" in result.output


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
