"""`store push` to an S3 server on this machine, to disks and to the Hub's class, and back again."""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFIG, REPOSITORY, make_store, slow
from remotes import change_index, contents, make_shards
from test_pull import flip, problems, write_benchmark

from store import arrival, claim, remote, remote_fsspec, remote_tables
from store.errors import StoreError
from store.push import push, writable
from store.remote_url import RemoteUrl

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)  # of moto, botocore and aiohttp


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(remote_tables, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def s3_server() -> Iterator[Any]:
    """An S3 server; its buckets are made through its own client."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    given = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {**given, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patched.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # one of other tests knows other credentials
        yield boto3.client("s3")
        s3fs.S3FileSystem.clear_instance_cache()
        gc.collect()  # sessions that are still open complain here and not in another file's tests
    server.stop()


@pytest.fixture
def bucket(s3_server: Any, request: pytest.FixtureRequest) -> str:
    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]
    s3_server.create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["disk", slow("s3")])
def slow_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As `place`, for tests that take long on a server."""
    return _place(request, tmp_path)


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Somewhere to push to."""
    return _place(request, tmp_path)


def _place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "there")
    return f"s3://{request.getfixturevalue('bucket')}/features"


def pushed(cli: Any, *arguments: object) -> str:
    result = cli("store", "push", *arguments)
    assert result.exit_code == 0, result.output
    return str(result.output)


def pulled(cli: Any, place: object, to: Path, folder: Path) -> Path:
    result = cli("store", "pull", place, to)
    assert result.exit_code == 0, result.output
    return to / "mine" / folder.name


def test_what_a_killed_push_left_on_a_disk_is_removed(cli, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    there = tmp_path / "there" / "mine" / mine.name
    there.mkdir(parents=True)
    left = [there / f".{name}.1a2b3c4d.partial" for name in ("shard-00001.h5", "SHA256SUMS")]
    others = [
        there / ".shard-00001.h5.1a2b3c4d.12.1a2b3c4d.partial",  # of an extraction elsewhere
        there / ".shard-00001.h5.1a2b3c4d1a2b3c4d.partial",  # of a pull
    ]
    for path in (*left, *others):
        path.write_bytes(b"half")
    pushed(cli, tmp_path / "mine", tmp_path / "there")
    assert not any(path.exists() for path in left) and all(path.exists() for path in others)


def test_there_and_back_every_byte_is_the_same(cli, place: str, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    assert "3 of 3 shards sent" in pushed(cli, tmp_path / "mine", place)
    back = pulled(cli, place, tmp_path / "back", mine)
    assert contents(back) == contents(mine) and problems(back) == []
    assert "nothing to send" in pushed(cli, mine, place)


def test_a_pushed_folder_is_a_store_that_verify_accepts(cli, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    pushed(cli, mine, tmp_path / "there")
    there = tmp_path / "there" / "mine" / mine.name
    assert contents(there) == contents(mine) and problems(there) == []
    assert not list(there.glob(".*"))


@pytest.mark.slow
def test_several_parts_of_a_file_are_checked_by_the_etag(
    cli, bucket: str, s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 5 MiB; the file is not read back unless somebody else wrote it in other parts."""
    for module in (arrival, remote_fsspec):
        monkeypatch.setattr(module, "UPLOAD_PART", 5 << 20)
    mine = make_shards(tmp_path / "mine", shards=(0,), frames=40_000)
    url, name = f"s3://{bucket}/features", "shard-00000.h5"
    key = f"features/mine/{mine.name}/{name}"
    assert (mine / name).stat().st_size > 10 << 20
    read: list[str] = []
    real = arrival.read_range
    monkeypatch.setattr(arrival, "read_range", lambda *a: read.append(a[1]) or real(*a))
    pushed(cli, mine, url)
    assert s3_server.head_object(Bucket=bucket, Key=key)["ETag"].strip('"').endswith("-3")
    assert not read
    s3_server.delete_object(Bucket=bucket, Key=f"features/mine/{mine.name}/index.json")
    s3_server.put_object(Bucket=bucket, Key=key, Body=(mine / name).read_bytes())
    assert "1 of 1 shard sent" in pushed(cli, mine, url)
    assert not read  # one MD5 of the whole
    data = (mine / name).read_bytes()
    upload = s3_server.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts = []
    for number, piece in enumerate((data[: 7 << 20], data[7 << 20 :]), 1):
        given = {"Bucket": bucket, "Key": key, "UploadId": upload, "PartNumber": number}
        etag = s3_server.upload_part(**given, Body=piece)["ETag"]
        parts.append({"ETag": etag, "PartNumber": number})
    s3_server.complete_multipart_upload(
        Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
    )
    s3_server.delete_object(Bucket=bucket, Key=f"features/mine/{mine.name}/index.json")
    pushed(cli, mine, url)
    assert set(read) == {name}


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_what_does_not_arrive_as_it_was_sent_is_not_listed(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    upload = remote_fsspec.FsspecRemote.upload

    def damaged(self: remote_fsspec.FsspecRemote, path: Path, name: str, callback: Any) -> None:
        upload(self, path, name, callback)
        there = Path(self.at(name))
        if how == "flipped":
            flip(there)
        else:
            there.write_bytes(there.read_bytes()[:-1])

    mine = make_shards(tmp_path / "mine")
    with monkeypatch.context() as patched:
        patched.setattr(remote_fsspec.FsspecRemote, "upload", damaged)
        result = cli("store", "push", mine, tmp_path / "there")
    assert result.exit_code == 1 and "did not arrive as it was sent" in result.output
    there = tmp_path / "there" / "mine" / mine.name
    assert not (there / "index.json").exists()
    pushed(cli, mine, tmp_path / "there")
    assert contents(there) == contents(mine)


def test_a_damaged_shard_does_not_leave(cli, place: str, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    flip(mine / "shard-00001.h5")
    result = cli("store", "push", mine, place)
    assert result.exit_code == 1 and "shard-00001.h5 is damaged" in result.output
    result = cli("store", "pull", place, tmp_path / "back")
    assert result.exit_code == 1 and "There is no such store" in result.output


def test_shards_of_two_people_are_merged(cli, place: str, tmp_path: Path) -> None:
    whole = make_shards(tmp_path / "whole", shards=(0, 1, 2, 3))
    a = make_shards(tmp_path / "a", shards=(0, 2), listed=4)
    b = make_shards(tmp_path / "b", shards=(1, 3), listed=4)
    pushed(cli, a, place)
    assert "2 of 4 shards sent" in pushed(cli, b, place)
    back = pulled(cli, place, tmp_path / "back", whole)
    assert problems(back) == []
    index = json.loads((back / "index.json").read_text())
    assert index["complete"] and index["totals"]["stored"] == 12
    shards = {p.name: contents(f)[p.name] for f in (a, b) for p in f.glob("*.h5")}
    assert {n: d for n, d in contents(back).items() if n in shards} == shards


def test_two_pushes_at_once_lose_nothing(tmp_path: Path, bucket: str) -> None:
    """Four people, each with a shard of their own, at the same moment; who is refused tries again."""
    folders = [make_shards(tmp_path / f"{n}", shards=(n,), listed=4) for n in range(4)]
    begin = threading.Barrier(4)
    refused: list[str] = []
    failed: list[BaseException] = []

    def one(folder: Path) -> None:
        begin.wait()
        for _ in range(50):
            try:
                push(folder, writable(RemoteUrl.of(f"s3://{bucket}/features")))
                return
            except StoreError as error:
                refused.append(str(error))
            except BaseException as error:
                failed.append(error)
                return
        failed.append(AssertionError("never got in"))

    threads = [threading.Thread(target=one, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all("Somebody else is pushing to" in text for text in refused)
    target = writable(RemoteUrl.of(f"s3://{bucket}/features/mine/{folders[0].name}"))
    found = remote_tables.tables_at(target)
    assert found is not None and set(found.shards) == {f"shard-0000{n}.h5" for n in range(4)}
    assert not [name for name in target.names() if claim.is_claim(name)]


def test_another_push_is_waited_for_then_refused_then_taken_over(
    cli, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "_PAUSE_SECONDS", 0.01)
    mine = make_shards(tmp_path / "mine")
    target = writable(RemoteUrl.of(place)).below("mine").below(mine.name)
    elsewhere = (
        ".push.00000000.77.0123abcd.partial"  # of another machine: nobody knows whether it lives
    )
    target.write(elsewhere, b"x")
    result = cli("store", "push", mine, place)
    assert result.exit_code == 1
    assert f"{elsewhere} is there" in " ".join(result.output.split())
    assert target.names() == [elsewhere]
    pushed(cli, mine, place, "--take-over")
    assert not [name for name in target.names() if claim.is_claim(name)]


KILLED = """
import os, sys
sys.path.insert(0, ".")
from store.remote_fsspec import FsspecRemote
real_write, real_upload = FsspecRemote.write, FsspecRemote.upload
def write(self, name, data):
    if name == "{stop}":
        os.kill(os.getpid(), 9)
    real_write(self, name, data)
def upload(self, path, name, callback):
    if name == "{stop}":
        os.kill(os.getpid(), 9)
    real_upload(self, path, name, callback)
FsspecRemote.write, FsspecRemote.upload = write, upload
import cli
cli.main(["store", "push", {folder!r}, {place!r}])
"""


@pytest.mark.parametrize("stop", ["shard-00002.h5", "videos.csv", "index.json", "SHA256SUMS"])
@pytest.mark.parametrize("before", [False, True])
def test_a_killed_push_is_gone_on_with(
    cli, slow_place: str, tmp_path: Path, stop: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stood there before is still there, and what arrived is not sent again."""
    if before:
        old = make_shards(tmp_path / "old", shards=(3,), listed=4)
        pushed(cli, old, slow_place)
    mine = make_shards(tmp_path / "mine", shards=(0, 1, 2), listed=4)
    code = KILLED.format(stop=stop, folder=str(mine), place=slow_place)
    killed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert killed.returncode == -9
    sent: list[str] = []
    upload = remote_fsspec.FsspecRemote.upload
    monkeypatch.setattr(
        remote_fsspec.FsspecRemote,
        "upload",
        lambda s, p, n, c: sent.append(n) or upload(s, p, n, c),
    )
    pushed(cli, mine, slow_place)
    if not stop.startswith("shard"):
        assert not sent
    assert "shard-00003.h5" not in sent
    back = pulled(cli, slow_place, tmp_path / "back", mine)
    assert problems(back) == []
    names = {path.name for path in back.glob("*.h5")}
    assert names == {f"shard-0000{n}.h5" for n in ((0, 1, 2, 3) if before else (0, 1, 2))}
    target = writable(RemoteUrl.of(slow_place)).below("mine").below(mine.name)
    assert not [name for name in target.names() if claim.is_claim(name)]


@pytest.mark.parametrize("killed_before", ["index.json", "SHA256SUMS"])
def test_a_killed_replacement_is_completed_by_the_next(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_before: str
) -> None:
    """The rows there are of the new shards then, and the index is of the old ones."""
    pushed(cli, make_shards(tmp_path / "old", shards=(0, 1)), tmp_path / "there")
    mine = make_shards(tmp_path / "mine", shards=(0, 2), frames=50, seed=1)
    there = tmp_path / "there" / "mine" / mine.name
    write = remote_fsspec.FsspecRemote.write

    def killed(self: remote_fsspec.FsspecRemote, name: str, data: bytes) -> None:
        if name == killed_before:
            raise KeyboardInterrupt
        write(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(remote_fsspec.FsspecRemote, "write", killed)
        assert cli("store", "push", mine, tmp_path / "there", "--replace").exit_code == 130
    assert contents(there) != contents(mine)
    pushed(cli, mine, tmp_path / "there", "--replace")
    assert contents(there) == contents(mine) and problems(there) == []


def test_a_damaged_index_there_is_replaced_if_that_is_asked_for(cli, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    pushed(cli, mine, tmp_path / "there")
    there = tmp_path / "there" / "mine" / mine.name
    (there / "index.json").write_text("{")
    result = cli("store", "push", mine, tmp_path / "there")
    text = " ".join(result.output.split())
    assert result.exit_code == 1 and "index.json is damaged" in text
    assert "push the store again with --replace" in text
    output = pushed(cli, mine, tmp_path / "there", "--replace")
    assert output.count("What is there is replaced") == 1
    assert contents(there) == contents(mine)


def test_an_index_of_another_format_there_is_never_replaced(cli, tmp_path: Path) -> None:
    """A newer version wrote it: it is whole, though this one cannot read it."""
    mine = make_shards(tmp_path / "mine")
    pushed(cli, mine, tmp_path / "there")
    there = tmp_path / "there" / "mine" / mine.name
    change_index(there, format=3)
    before = contents(there)
    result = cli("store", "push", mine, tmp_path / "there", "--replace")
    text = " ".join(result.output.split())
    assert (
        result.exit_code == 1 and "has format 3, this version reads 2. Update this program" in text
    )
    assert contents(there) == before


def test_a_failed_upload_leaves_nothing_and_says_why(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hidden file may not even have been made."""
    from fsspec.implementations.local import LocalFileSystem

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    mine = make_shards(tmp_path / "mine")
    monkeypatch.setattr(LocalFileSystem, "put_file", full)
    result = cli("store", "push", mine, tmp_path / "there")
    assert result.exit_code == 1 and "No space left on device. Make room" in result.output
    assert not list((tmp_path / "there").rglob("*.*"))


def test_between_two_tables_a_pull_is_refused(cli, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine", shards=(0, 1), listed=2)
    pushed(cli, make_shards(tmp_path / "old", shards=(1,), listed=2), tmp_path / "there")
    shutil.rmtree(tmp_path / "old")
    theirs = tmp_path / "there" / "mine" / mine.name
    shutil.copy(mine / "shard-00000.h5", theirs)
    shutil.copy(mine / "videos.csv", theirs)  # the index is still the old one
    result = cli("store", "pull", tmp_path / "there", tmp_path / "back")
    assert result.exit_code == 1 and "a push was stopped there" in " ".join(result.output.split())


@pytest.mark.parametrize("kind", ["same shard", "same video"])
def test_what_contradicts_is_refused_and_nothing_is_changed(
    cli, slow_place: str, tmp_path: Path, kind: str
) -> None:
    pushed(cli, make_shards(tmp_path / "old", shards=(0, 1)), slow_place)
    mine = make_shards(tmp_path / "mine", shards=(1,), seed=5)
    if kind == "same video":
        (mine / "shard-00001.h5").unlink()
        mine = _moved_to(tmp_path / "mine", 50_000)
    old = pulled(cli, slow_place, tmp_path / "back", mine)
    before = contents(old)
    result = cli("store", "push", mine, slow_place)
    text = " ".join(result.output.split())
    assert result.exit_code == 1 and "are not mixed" in text
    assert ("first: shard-00001.h5" if kind == "same shard" else "first: video-1-0") in text
    again = pulled(cli, slow_place, tmp_path / "again", mine)
    assert contents(again) == before
    pushed(cli, mine, slow_place, "--replace")
    assert contents(pulled(cli, slow_place, tmp_path / "new", mine)) == contents(mine)
    target = writable(RemoteUrl.of(slow_place)).below("mine").below(mine.name)
    assert sorted(n for n in target.names() if n.endswith(".h5")) == sorted(
        path.name for path in mine.glob("*.h5")
    )


def _moved_to(features: Path, number: int) -> Path:
    """The videos of shard 1, in a shard of another number, as after `store prune`."""
    import numpy as np
    from conftest import CONFIG
    from remotes import WIDTH

    from store.format import store_folder
    from store.records import VideoRecord
    from store.tables import write_index
    from store.write import ShardWriter

    folder = store_folder(features, "mine", CONFIG)
    with ShardWriter(folder, number, CONFIG) as writer:
        values = np.ones((5, WIDTH), np.float16)
        records = [writer.add(VideoRecord(video="video-1-0"), values)]
    write_index(
        folder, dataset="mine", config=CONFIG, width=WIDTH, records=records, run={"weights": "none"}
    )
    return folder


def test_a_part_pushed_to_where_it_came_from_changes_nothing(
    cli, place: str, tmp_path: Path
) -> None:
    whole = make_shards(tmp_path / "whole")
    pushed(cli, whole, place)
    write_benchmark(tmp_path / "manifests", "small", "mine", ["video-1-1", "video-1-2"])
    options = ("--benchmark", "small", "--manifests", tmp_path / "manifests")
    assert cli("store", "pull", place, tmp_path / "part", *options).exit_code == 0
    assert "nothing to send" in pushed(cli, tmp_path / "part", place)
    assert contents(pulled(cli, place, tmp_path / "back", whole)) == contents(whole)


def test_a_failure_there_becomes_a_video_and_no_video_becomes_a_failure(
    cli, tmp_path: Path
) -> None:
    pushed(cli, make_shards(tmp_path / "a", shards=(0,), listed=2), tmp_path / "there")
    mine = make_shards(tmp_path / "b", shards=(1,), listed=2)
    pushed(cli, mine, tmp_path / "there")
    pushed(cli, tmp_path / "a", tmp_path / "there")
    index = json.loads((tmp_path / "there" / "mine" / mine.name / "index.json").read_text())
    assert index["totals"] == {
        **{"listed": 6, "stored": 6, "damaged": 0, "missing": 0, "failed": 0, "pending": 0},
        "frames": 600,
    }


def test_the_card_is_the_hubs_and_a_persons_own_text_stays(cli, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    pushed(cli, mine, tmp_path / "there", "--licence", "cc-by-4.0")
    path = tmp_path / "there" / "mine" / mine.name / "README.md"
    text = path.read_text()
    yaml = pytest.importorskip("yaml")
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-4.0" and head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["video-classification"]
    for said in ("| backbone | fake |", "| videos | 9 of 9 listed |", "| frames | 900, 64 float16"):
        assert said in text
    path.write_text("my own words")
    pushed(cli, mine, tmp_path / "there")
    assert path.read_text() == "my own words"
    result = cli("store", "push", mine, tmp_path / "there", "--licence", "a: b\n- c")
    assert result.exit_code == 2 and "is no identifier" in result.output


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_card_says_the_number_type_of_the_store(tmp_path: Path, dtype: str) -> None:
    from store.card import card_of
    from store.remote_tables import tables_here

    config = {**CONFIG, "stored_dtype": dtype}
    folder = make_store(tmp_path, "mine", {"one": np.ones((2, 3), dtype)}, config)
    text = card_of(tables_here(folder), RemoteUrl("s3://a/b/c/d"), "mit", "today")
    other = {"float16": "float32", "float32": "float16"}[dtype]
    assert f"3 {dtype} values each" in text and f"one {dtype} dataset" in text and other not in text


def test_the_card_of_imported_features_says_where_they_are_from(tmp_path: Path) -> None:
    from store.card import card_of
    from store.origin import config_of
    from store.remote_tables import tables_here

    config = config_of("i3d", "RGB|feature", "t7", 3, "float16", "RGB,Flow")
    folder = make_store(tmp_path, "mine", {"one": np.ones((2, 3))}, config)
    text = card_of(tables_here(folder), RemoteUrl("s3://a/b/c/d"), "mit", "today")
    for row in (
        *("| origin | RGB\\|feature |", "| description | imported from the layout t7 |"),
        *("| modality | RGB,Flow |", "| layer | unknown |"),
    ):
        assert f"\n{row}\n" in text
    said = "how they were made (weights, layer, preparation of the frames) is not known"
    assert said in " ".join(text.split())
    made = make_store(tmp_path, "mine", {"one": np.ones((2, 3))}, {**CONFIG, "layer": "avgpool"})
    text = card_of(tables_here(made), RemoteUrl("s3://a/b/c/d"), "mit", "today")
    assert "| layer | avgpool |" in text and "imported" not in text and "origin" not in text


def test_a_card_cannot_be_steered_by_a_store(tmp_path: Path) -> None:
    from store.card import card_of
    from store.remote_tables import Tables, tables_here

    mine = make_shards(tmp_path / "mine")
    tables = tables_here(mine)
    config = {**tables.index["config"], "backbone": 'x"\n---\n# <script> | [y](z)'}
    index = {**tables.index, "config": config}
    text = card_of(Tables(index=index, rows=tables.rows), RemoteUrl("s3://a/b/c/d"), "mit", "today")
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text.split("---\n")[1])["tags"][-1] == config["backbone"]
    assert "<script>" not in text.split("\n---\n", 1)[1]


def test_credentials_that_are_not_there_are_said(bucket: str, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "mine")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AWS_ACCESS")}
    kept |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    kept.pop("AWS_SECRET_ACCESS_KEY", None)
    found = subprocess.run(
        [sys.executable, "cli.py", "store", "push", str(mine), f"s3://{bucket}/features"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env=kept,
    )
    assert found.returncode == 1 and "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in found.stderr


def test_a_bucket_that_is_not_there_is_said(cli, s3_server: Any, tmp_path: Path) -> None:
    result = cli("store", "push", make_shards(tmp_path / "mine"), "s3://nobody/features")
    assert result.exit_code == 1 and "there is no such bucket" in result.output
    result = cli("store", "pull", "s3://nobody/features", tmp_path / "back")
    assert (
        result.exit_code == 1
        and "Check that the bucket, repository and path exist" in result.output
    )


def test_a_package_that_is_not_installed_is_named(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.delitem(registry._registry, "s3", raising=False)
    result = cli("store", "pull", "s3://bucket/x", tmp_path / "back")
    assert result.exit_code == 1 and "pip install 's3fs'" in result.output


def test_a_web_server_is_only_read(cli, tmp_path: Path) -> None:
    result = cli("store", "push", make_shards(tmp_path / "mine"), "https://host/x")
    assert result.exit_code == 2 and "can only be read" in result.output


@pytest.mark.parametrize("wrong", ["renamed", "contradicts"])
def test_a_store_that_is_wrong_is_not_pushed(cli, tmp_path: Path, wrong: str) -> None:
    mine = make_shards(tmp_path / "mine")
    if wrong == "renamed":
        mine = mine.rename(mine.with_name("fake-00000000"))
    else:
        index = json.loads((mine / "index.json").read_text())
        index["shards"][0]["frames"] += 1
        change_index(mine, **index)
    result = cli("store", "push", mine, tmp_path / "there")
    assert result.exit_code == 1 and not (tmp_path / "there").exists(), result.output
