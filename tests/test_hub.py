"""`hf://` through a stand-in for the Hub's fsspec class, which keeps its files in memory."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from conftest import CONFIG, make_store
from fsspec import AbstractFileSystem
from remotes import contents, make_shards

from store.remote_url import RemoteUrl, is_repository

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
ROOT = URL.removeprefix("hf://")


def test_there_and_back(cli, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    result = cli("store", "push", mine, URL, "--licence", "mit")
    assert result.exit_code == 0, result.output
    written = [name for name in COMMITS if not name.startswith(".push.")]
    assert sorted(written[:3]) == [f"shard-0000{n}.h5" for n in range(3)]
    assert written[3:] == ["videos.csv", "failures.csv", "index.json", "SHA256SUMS"] + 2 * [
        "README.md"
    ]
    assert not [name for name in FILES if ".push." in name]
    result = cli("store", "pull", URL, tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "back" / "mine" / mine.name) == contents(mine)


def other_store(root: Path, dataset: str = "other", **config: Any) -> Path:
    """A store of another data set, of one video."""
    values = np.ones((2, 3), np.float16)
    return make_store(root, dataset, {"v": values}, {**CONFIG, "backbone": "resnet18", **config})


def head_of(card: bytes) -> dict[str, Any]:
    """The front matter, as the Hub reads it."""
    begin, head, _ = card.decode().split("---\n", 2)
    assert begin == ""
    return dict(pytest.importorskip("yaml").safe_load(head))


def test_the_repository_has_a_card_of_all_stores(cli, tmp_path: Path) -> None:
    mine, other = make_shards(tmp_path / "a"), other_store(tmp_path / "b", origin="x|y")
    assert cli("store", "push", mine, URL, "--licence", "mit").exit_code == 0
    first = FILES[f"{ROOT}/README.md"]
    head = head_of(first)
    assert head["license"] == "mit" and head["size_categories"] == ["n<1K"]
    assert f"| mine/{mine.name} | fake | weights none, stride 1 | 9 of 9 | " in first.decode()
    assert other.name not in first.decode()
    COMMITS.clear()
    assert cli("store", "push", mine, URL).exit_code == 0  # keeps the licence
    assert not [name for name in COMMITS if not name.startswith(".push.")]
    assert FILES[f"{ROOT}/README.md"] == first
    assert cli("store", "push", other, URL, "--licence", "cc-by-4.0").exit_code == 0
    both = FILES[f"{ROOT}/README.md"]
    head = head_of(both)
    assert head["license"] == ["cc-by-4.0", "mit"] and {"fake", "resnet18"} <= {*head["tags"]}
    rows = [line for line in both.decode().splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0] for row in rows] == [f"| mine/{mine.name}", f"| other/{other.name}"]
    assert "origin x\\|y" in rows[1] and rows[1].endswith("| cc-by-4.0 |")
    assert f"ma2l-td store pull {URL}" in both.decode()
    hub = pytest.importorskip("huggingface_hub")
    assert hub.DatasetCard(both.decode()).data.license == ["cc-by-4.0", "mit"]
    assert cli("store", "pull", URL, tmp_path / "back").exit_code == 0
    assert contents(tmp_path / "back" / "other" / other.name) == contents(other)


@pytest.mark.parametrize("when", ["before", "after"])
def test_two_that_push_two_stores_at_once_are_both_listed(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Another push runs from beginning to end just before, or just after, the card of this one is written."""
    mine, other = make_shards(tmp_path / "a"), other_store(tmp_path / "b")
    pipe, begun = Hub.pipe_file, []

    def meanwhile() -> None:
        begun.append(True)
        assert cli("store", "push", other, URL, "--licence", "mit").exit_code == 0

    def racing(self: Hub, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        now = path == f"{ROOT}/README.md" and not begun
        if now and when == "before":
            meanwhile()
        pipe(self, path, value)
        if now and when == "after":
            meanwhile()

    monkeypatch.setattr(Hub, "pipe_file", racing)
    assert cli("store", "push", mine, URL).exit_code == 0
    card = FILES[f"{ROOT}/README.md"].decode()
    assert begun and f"| mine/{mine.name} |" in card and f"| other/{other.name} |" in card


def test_a_card_that_others_keep_changing_is_said(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Hub.pipe_file

    def changing(self: Hub, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        pipe(self, path, value + b"more" if path == f"{ROOT}/README.md" else value)

    monkeypatch.setattr(Hub, "pipe_file", changing)
    found = cli("store", "push", make_shards(tmp_path / "a"), URL)
    assert found.exit_code == 1 and "others keep changing README.md" in found.output


def test_a_persons_own_card_stays_and_what_it_lacks_is_said(cli, tmp_path: Path) -> None:
    mine, other = make_shards(tmp_path / "a"), other_store(tmp_path / "b")
    own = f"---\nlicense: mit\n---\nSee {mine.parent.name}/{mine.name}.\n".encode()
    FILES[f"{ROOT}/README.md"] = own
    first = cli("store", "push", mine, URL)
    assert first.exit_code == 0 and "was not written by store push" not in first.output
    second = cli("store", "push", other, URL)
    said = f"does not name 1 of 2 stores (first: other/{other.name})"
    assert second.exit_code == 0 and said in second.output
    assert FILES[f"{ROOT}/README.md"] == own


def test_a_damaged_store_in_the_repository_does_not_stop_a_push(cli, tmp_path: Path) -> None:
    mine, other = make_shards(tmp_path / "a"), other_store(tmp_path / "b")
    FILES[f"{ROOT}/third/x-01234567/index.json"] = b"{"
    FILES[f"{ROOT}/..%2f/x-01234567/index.json"] = FILES[f"{ROOT}/third/x-01234567/index.json"]
    FILES[f"{ROOT}/fourth/x-01234567/shard-00000.h5"] = b"a push that has just begun"
    first = cli("store", "push", mine, URL)
    assert first.exit_code == 0
    assert "third/x-01234567 is not listed in the card of the repository" in first.output
    assert cli("store", "push", other, URL).exit_code == 0
    assert FILES[f"{ROOT}/README.md"].decode().count("x-01234567") == 0


@pytest.mark.parametrize("place", [f"{URL}/sub", "hf://team/model"])
def test_elsewhere_no_card_of_all_is_written(cli, tmp_path: Path, place: str) -> None:
    mine = make_shards(tmp_path / "a")
    assert cli("store", "push", mine, place).exit_code == 0
    assert [name for name in FILES if name.endswith("README.md")] == [
        f"{place.removeprefix('hf://')}/mine/{mine.name}/README.md"
    ]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://datasets/a/b", True),
        ("hf://datasets/a/b@main", True),
        ("hf://datasets/a/b@refs/pr/3", True),
        ("hf://datasets/a/b@main/c", False),
        ("hf://datasets/a/b/c", False),
        ("hf://a/b", False),
        ("s3://datasets/a/b", False),
    ],
)
def test_which_urls_are_repositories(url: str, expected: bool) -> None:
    assert is_repository(RemoteUrl.of(url)) is expected


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
