"""`hf://` through a stand-in for the Hub's fsspec class, which keeps its files in memory."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec import AbstractFileSystem
from remotes import contents, make_shards

FILES: dict[str, bytes] = {}
COMMITS: list[str] = []
CALLS: set[str] = set()


class Hub(AbstractFileSystem):
    """What the Hub's class does: no renaming, no folders of their own, the server's sha256 in `lfs`."""

    protocol = "hf"

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        CALLS.add("ls")
        inside = {
            n.removeprefix(f"{path}/").split("/")[0] for n in FILES if n.startswith(f"{path}/")
        }
        if not inside:
            raise FileNotFoundError(path)
        return [self.info(f"{path}/{name}") for name in sorted(inside)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        CALLS.add("info")
        if path in FILES:
            digest = hashlib.sha256(FILES[path]).hexdigest()
            lfs = {"sha256": digest} if path.endswith(".h5") else None
            return {"name": path, "size": len(FILES[path]), "type": "file", "lfs": lfs}
        if any(name.startswith(f"{path}/") for name in FILES):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        CALLS.add("cat_file")
        return FILES[path][start:end]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        CALLS.add("pipe_file")
        FILES[path] = value
        COMMITS.append(path.rpartition("/")[2])

    def put_file(self, lpath: str, rpath: str, callback: Any = None, **_: Any) -> None:
        CALLS.add("put_file")
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def rm_file(self, path: str) -> None:
        CALLS.add("rm_file")
        del FILES[path]

    def invalidate_cache(self, path: str | None = None) -> None:
        CALLS.add("invalidate_cache")


@pytest.fixture(autouse=True)
def _hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.setitem(registry._registry, "hf", Hub)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Hub.clear_instance_cache()
    FILES.clear()
    COMMITS.clear()
    yield


URL = "hf://datasets/team/features"


def test_there_and_back(cli, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    result = cli("store", "push", mine, URL, "--licence", "mit")
    assert result.exit_code == 0, result.output
    written = [name for name in COMMITS if not name.startswith(".push.")]
    assert sorted(written[:3]) == [f"shard-0000{n}.h5" for n in range(3)]
    assert written[3:] == ["videos.csv", "failures.csv", "index.json", "SHA256SUMS", "README.md"]
    assert not [name for name in FILES if ".push." in name]
    result = cli("store", "pull", URL, tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "back" / "mine" / mine.name) == contents(mine)


def test_the_servers_sha256_is_believed_when_it_differs(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(self: Hub, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, b"x" * Path(lpath).stat().st_size)

    monkeypatch.setattr(Hub, "put_file", damaged)
    result = cli("store", "push", make_shards(tmp_path / "mine"), URL)
    assert result.exit_code == 1 and "did not arrive as it was sent" in result.output
    assert not [name for name in FILES if name.endswith("index.json")]


def test_a_password_is_not_taken_from_the_url(cli, tmp_path: Path) -> None:
    result = cli("store", "pull", "hf://hf_secret@datasets/team/features", tmp_path / "back")
    assert result.exit_code == 2 and "hf_secret" not in result.output


def test_a_revision_is_no_password(cli, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    assert cli("store", "push", mine, f"{URL}@main").exit_code == 0
    result = cli("store", "pull", f"{URL}@main", tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert {name.split("/")[2] for name in FILES} == {"features@main"}


def test_the_real_class_takes_the_same_calls(tmp_path: Path, cli) -> None:
    real = pytest.importorskip("huggingface_hub").HfFileSystem
    assert cli("store", "push", make_shards(tmp_path / "mine"), URL).exit_code == 0
    assert cli("store", "pull", URL, tmp_path / "back").exit_code == 0
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "ls": (("path",), {"detail": True}),
        "info": (("path",), {}),
        "cat_file": (("path",), {"start": 0, "end": 1}),
        "pipe_file": (("path", b""), {}),
        "put_file": (("here", "there"), {"callback": None}),
        "rm_file": (("path",), {}),
        "invalidate_cache": ((), {}),
    }
    assert arguments.keys() == CALLS
    for name, (given, named) in arguments.items():
        inspect.signature(getattr(real, name)).bind("self", *given, **named)
    assert real._strip_protocol(f"{URL}/x") == f"{URL}/x".removeprefix("hf://")
    assert fsspec.get_filesystem_class("hf") is Hub
