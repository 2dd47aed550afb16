"""`store pull` from disks and from web servers that break, lie and change."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIG, REPOSITORY, make_store
from remotes import WIDTH, change_index, contents, make_shards, pulled_from, serving

from store import remote as remote_module
from store import remote_tables, transfer
from store.check import CHECKS, verify
from store.datasets import manifest_path
from store.errors import FormatError, StoreError
from store.format import read_records
from store.index import StoreIndex
from store.manifest import Video, write_manifest
from store.pull import left_behind, pull
from store.read import FeatureStore
from store.records import VideoRecord
from store.remote import open_remote
from store.remote_stores import stores_at
from store.remote_url import RemoteUrl
from store.tables import write_index


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(transfer, "BLOCK", 10_000)
    monkeypatch.setattr(remote_module, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(remote_tables, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write_benchmark(root: Path, name: str, domain: str, videos: list[str]) -> None:
    rows = [
        Video(id=v, label=n % 2, class_name=f"c{n % 2}", split="train", frames=None)
        for n, v in enumerate(videos)
    ]
    write_manifest(root / name / f"{domain}.csv", rows)


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in verify(folder, CHECKS)]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "there")


def test_a_pulled_store_is_the_same_to_the_byte(cli, there: Path, tmp_path: Path) -> None:
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "here" / "mine" / there.name
    assert contents(folder) == contents(there)
    assert problems(folder) == []
    assert "3 shards fetched" in result.output
    assert re.search(rf"pull mine/{there.name}, MB: 1/1, .* MB/s, \d:\d\d left", result.output)


@pytest.mark.parametrize("below", ["", "mine", "mine/{name}"])
def test_a_url_names_all_features_or_a_data_set_or_a_store(
    cli, there: Path, tmp_path: Path, below: str
) -> None:
    place = tmp_path / "there" / below.format(name=there.name)
    assert cli("store", "pull", place, tmp_path / "here").exit_code == 0
    assert contents(tmp_path / "here" / "mine" / there.name) == contents(there)


def test_a_store_in_a_folder_of_another_name_gets_its_own(cli, tmp_path: Path) -> None:
    config = {**CONFIG, "backbone": "timm:vit_tiny.x"}
    folder = make_store(tmp_path / "made", "mine", {"a": np.ones((3, 4))}, config)
    folder.rename(tmp_path / "there")
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here").exit_code == 0
    assert [path.name for path in (tmp_path / "here" / "mine").iterdir()] == [folder.name]


def test_only_what_is_missing_is_fetched(cli, there: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "there") as (server, url):
        assert cli("store", "pull", url, tmp_path / "here").exit_code == 0
        folder = tmp_path / "here" / "mine" / there.name
        (folder / "shard-00001.h5").unlink()
        before, server.log[:] = contents(there), []
        result = cli("store", "pull", url, tmp_path / "here")
    assert "1 shard fetched" in result.output
    assert {p.rpartition("/")[2] for p, asked in server.log if asked} == {"shard-00001.h5"}
    assert contents(folder) == before


def test_a_benchmark_takes_only_its_shards_and_a_second_pull_the_rest(
    cli, there: Path, tmp_path: Path
) -> None:
    manifests = tmp_path / "manifests"
    write_benchmark(manifests, "small", "mine", ["video-0-1", "video-2-0", "elsewhere"])
    assert manifest_path("small", "mine", manifests).exists()
    options = ("--benchmark", "small", "--manifests", manifests)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here", *options)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "here" / "mine" / there.name
    assert {p.name for p in folder.glob("*.h5")} == {"shard-00000.h5", "shard-00002.h5"}
    assert problems(folder) == []
    with FeatureStore(folder) as part, FeatureStore(there) as whole:
        assert set(part.records) == {f"video-{s}-{n}" for s in (0, 2) for n in range(3)}
        assert (part.read("video-2-0") == whole.read("video-2-0")).all()
        assert not part.index["complete"] and part.index["totals"]["pending"] == 3
    assert "was not pulled from" in (folder / "failures.csv").read_text()

    assert cli("store", "pull", tmp_path / "there", tmp_path / "here").exit_code == 0
    assert contents(folder) == contents(there)
    # A benchmark afterwards takes nothing away.
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here", *options).exit_code == 0
    assert contents(folder) == contents(there)


def test_an_unknown_benchmark_is_named(cli, there: Path, tmp_path: Path) -> None:
    result = cli("store", "pull", tmp_path / "there", "--benchmark", "nothing")
    assert result.exit_code == 1 and "There is no benchmark 'nothing'" in result.output


def test_connections_that_break_are_gone_on_with(cli, there: Path, tmp_path: Path) -> None:
    result, server = pulled_from(cli, tmp_path, breaks_after=3_333)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "here" / "mine" / there.name) == contents(there)
    size = sum(path.stat().st_size for path in there.glob("*.h5"))
    assert server.sent == size  # nothing that came was asked for again


def test_a_server_without_ranges_is_read_from_the_beginning(
    cli, there: Path, tmp_path: Path
) -> None:
    result, _ = pulled_from(cli, tmp_path, ranges=False)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "here" / "mine" / there.name) == contents(there)


def test_a_server_without_ranges_that_breaks_gives_no_store(
    cli, there: Path, tmp_path: Path
) -> None:
    result, _ = pulled_from(cli, tmp_path, ranges=False, breaks_after=5_000)
    assert result.exit_code == 1 and "the connection broke within shard-00000.h5" in result.output
    folder = tmp_path / "here" / "mine" / there.name
    assert not list(folder.glob("[!.]*"))


def test_other_bytes_than_asked_for_are_refused(cli, there: Path, tmp_path: Path) -> None:
    result, _ = pulled_from(cli, tmp_path, shift=100)
    assert result.exit_code == 1
    assert re.search(r"sends other bytes of shard-0000\d.h5 than it was asked for", result.output)
    assert not list((tmp_path / "here").rglob("[!.]*.h5"))


def test_more_bytes_than_asked_for_are_not_read(cli, there: Path, tmp_path: Path) -> None:
    result, server = pulled_from(cli, tmp_path, endless=True)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "here" / "mine" / there.name) == contents(there)
    assert server.sent < 10**9


def flip(path: Path, at: int = 5_000) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_shard_that_changed_there_is_never_kept(
    cli, there: Path, tmp_path: Path, ranges: bool
) -> None:
    flip(there / "shard-00001.h5")
    result, _ = pulled_from(cli, tmp_path, ranges=ranges)
    assert result.exit_code == 1
    assert "1 shard of" in result.output and "first: shard-00001.h5" in result.output
    folder = tmp_path / "here" / "mine" / there.name
    assert not (folder / "shard-00001.h5").exists() and not (folder / "index.json").exists()
    assert not list(folder.glob(".shard-00001*"))


@pytest.mark.parametrize("web", [True, False])
def test_a_shard_that_was_cut_there_is_refused(cli, there: Path, tmp_path: Path, web: bool) -> None:
    path = there / "shard-00001.h5"
    path.write_bytes(path.read_bytes()[:-10])
    with serving(tmp_path / "there") as (_, url):
        result = cli("store", "pull", url if web else tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 1 and "the index says" in result.output
    assert not list((tmp_path / "here").rglob("index.json"))


def test_an_index_that_is_older_than_its_rows_is_waited_for_then_refused(
    cli, there: Path, tmp_path: Path
) -> None:
    rows = (there / "videos.csv").read_text()
    (there / "videos.csv").write_text(rows.replace("video-0-0", "video-0-9"))
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 1 and "are not of one state" in result.output
    assert not (tmp_path / "here").exists()


def test_a_damaged_part_file_is_fetched_anew(cli, there: Path, tmp_path: Path) -> None:
    entry = json.loads((there / "index.json").read_text())["shards"][0]
    folder = tmp_path / "here" / "mine" / there.name
    folder.mkdir(parents=True)
    part = transfer.part_of(folder, entry)
    part.write_bytes(b"x" * 12_345)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 0, result.output
    assert contents(folder) == contents(there)


def test_a_kill_in_the_middle_of_a_shard_is_gone_on_with(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = make_shards(tmp_path / "there", shards=(0, 1), frames=2_000)
    size = (there / "shard-00000.h5").stat().st_size
    with serving(tmp_path / "there") as (server, url):
        server.trickle = 0.001
        code = (
            "import sys; sys.path.insert(0, '.'); from store import transfer; transfer.BLOCK = 20000; "
            f"import cli; cli.main(['store', 'pull', {url!r}, {str(tmp_path / 'here')!r}])"
        )
        killed = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)
        folder = tmp_path / "here" / "mine" / there.name
        entry = json.loads((there / "index.json").read_text())["shards"][0]
        part = transfer.part_of(folder, entry)
        while not (part.exists() and part.stat().st_size > size // 4):
            assert killed.poll() is None
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        kept = part.stat().st_size
        assert size // 4 < kept < size
        server.trickle, server.log[:] = None, []
        assert not (folder / "index.json").exists()
        result = cli("store", "pull", url, tmp_path / "here")
    assert result.exit_code == 0, result.output
    asked = [r for p, r in server.log if p.endswith("shard-00000.h5")]
    assert asked and min(int(r.removeprefix("bytes=").split("-")[0]) for r in asked) == kept
    assert contents(folder) == contents(there)
    assert problems(folder) == []


def test_what_is_here_and_not_there_is_not_lost(cli, there: Path, tmp_path: Path) -> None:
    mine = make_shards(tmp_path / "here", shards=(0, 3), seed=1)
    before = contents(mine)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 1
    assert "has 2 shards that" in result.output and "(first: shard-00000.h5)" in result.output
    assert contents(mine) == before
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here", "--replace")
    assert result.exit_code == 0, result.output
    assert contents(mine) == contents(there)


def test_what_failed_here_alone_is_not_forgotten(cli, tmp_path: Path) -> None:
    """Of three videos that failed here: one is stored there, one pending, one is not even listed there."""
    there = make_shards(tmp_path / "there", shards=(0,), listed=2)
    mine = make_shards(tmp_path / "here", shards=())
    reasons = {name: f"{name} is cut" for name in ("video-0-0", "video-1-1", "video-9-9")}
    rows = [VideoRecord(video=v, status="failed", error=text) for v, text in reasons.items()]
    write_index(mine, dataset="mine", config=CONFIG, width=WIDTH, records=rows, run={})
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here").exit_code == 0
    found = {row.video: row.error for row in read_records(mine / "failures.csv")}
    assert found["video-1-1"] == "video-1-1 is cut" and found["video-9-9"] == "video-9-9 is cut"
    assert set(found) == {"video-1-0", "video-1-1", "video-1-2", "video-9-9"}
    with FeatureStore(mine) as store, FeatureStore(there) as theirs:
        assert set(store.records) == set(theirs.records) == {f"video-0-{n}" for n in range(3)}
        totals = store.index["totals"]
        assert (totals["listed"], totals["failed"], totals["pending"]) == (7, 2, 2)
    assert problems(mine) == []
    before = contents(mine)
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here").exit_code == 0
    assert contents(mine) == before
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here", "--replace").exit_code == 0
    assert contents(mine) == contents(there)


def test_an_index_of_another_format_here_is_not_written_over(
    cli, there: Path, tmp_path: Path
) -> None:
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here").exit_code == 0
    folder = tmp_path / "here" / "mine" / there.name
    change_index(folder, format=3)
    before = contents(folder)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here", "--replace")
    text = " ".join(result.output.split())
    assert (
        result.exit_code == 1 and "has format 3, this version reads 2. Update this program" in text
    )
    with pytest.raises(FormatError):
        StoreIndex(folder, "mine", CONFIG, WIDTH)  # as extract, import and merge begin
    with pytest.raises(FormatError):
        write_index(folder, dataset="mine", config=CONFIG, width=WIDTH, records=[], run={})
    assert contents(folder) == before


def test_a_shard_that_a_killed_replacement_left_is_fetched_again(
    cli, there: Path, tmp_path: Path
) -> None:
    """The index here lists the right shard, and another of the same size lies in its place."""
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here").exit_code == 0
    folder = tmp_path / "here" / "mine" / there.name
    before = (folder / "index.json").stat().st_mtime_ns
    flip(folder / "shard-00001.h5")
    os.utime(folder / "shard-00001.h5", ns=(before + 10**9, before + 10**9))
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 0 and "1 shard fetched" in result.output, result.output
    assert contents(folder) == contents(there)


def test_a_video_that_is_named_twice_is_said(cli, there: Path, tmp_path: Path) -> None:
    """In the place of another one of its shard, so that the counts are right."""
    rows = (there / "videos.csv").read_text().splitlines(keepends=True)
    (there / "videos.csv").write_text("".join([*rows[:-1], rows[-2]]))
    index = json.loads((there / "index.json").read_text())
    digest = hashlib.sha256((there / "videos.csv").read_bytes()).hexdigest()
    change_index(there, tables={**index["tables"], "videos.csv": digest})
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 1
    assert "videos.csv names 1 video twice (first: video-2-1)" in " ".join(result.output.split())


def test_a_damaged_shard_that_no_benchmark_needs_is_fetched_again(
    cli, there: Path, tmp_path: Path
) -> None:
    """Else it would lie there in no index, and the next pull would take it for one of somebody else."""
    manifests = tmp_path / "manifests"
    write_benchmark(manifests, "small", "mine", ["video-0-1"])
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here").exit_code == 0
    folder = tmp_path / "here" / "mine" / there.name
    (folder / "shard-00001.h5").write_bytes(b"cut")
    options = ("--benchmark", "small", "--manifests", manifests)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here", *options)
    assert result.exit_code == 0 and "1 shard fetched" in result.output, result.output
    assert contents(folder) == contents(there)


def test_what_is_no_index_elsewhere_is_said_with_its_url(cli, there: Path, tmp_path: Path) -> None:
    """As a web server that has a page for every address answers."""
    (tmp_path / "there" / "index.json").write_text("<html>Not found")
    with serving(tmp_path / "there") as (_, url):
        result = cli("store", "pull", url, tmp_path / "here")
    text = " ".join(result.output.split())
    assert result.exit_code == 1 and f"{url}/index.json is damaged" in text
    assert "Check that the URL is that of a store" in text and "run extract" not in text


def test_an_unfinished_extraction_is_left_alone(cli, there: Path, tmp_path: Path) -> None:
    """Its shards stand in no index yet."""
    mine = make_shards(tmp_path / "here", shards=(7,), seed=1)
    for name in ("index.json", "videos.csv", "failures.csv", "SHA256SUMS"):
        (mine / name).unlink()
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 1 and "(first: shard-00007.h5)" in result.output
    assert [path.name for path in mine.iterdir()] == ["shard-00007.h5"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "../../up"}, "names the data set '../../up'"),
        ({"dataset": "/absolute"}, "names the data set '/absolute'"),
        ({"width": -1}, "is damaged (no valid width)"),
        ({"format": 3}, "has format 3"),
        ({"config": {"backbone": "../../up"}}, "config_sha256 is not that of its config"),
    ],
)
@pytest.mark.parametrize("web", [True, False])
def test_a_hostile_index_is_refused(
    cli, there: Path, tmp_path: Path, changes: dict, said: str, web: bool
) -> None:
    change_index(there, **changes)
    with serving(tmp_path / "there") as (_, url):
        result = cli("store", "pull", url if web else tmp_path / "there", tmp_path / "a" / "here")
    assert result.exit_code == 1 and said in " ".join(result.output.split()), result.output
    assert not (tmp_path / "a").exists() and not (tmp_path / "up").exists()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("file", "../shard-00000.h5", "names 1 file among its shards that cannot be one"),
        ("file", "/etc/passwd", "names 1 file among its shards that cannot be one"),
        ("file", "shard-00001.h5", "lists 1 shard twice"),
        ("bytes", 10**15, "has"),
        ("bytes", 2**63, "is damaged"),
        ("sha256", 5, "is damaged"),
        ("sha256", "a\0b", "is damaged (no valid sha256)"),
        ("sha256", "/../../up", "is damaged (no valid sha256)"),
        ("sha256", "A" * 64, "is damaged (no valid sha256)"),
        ("videos", 4, "contradict each other in 1 shard (first: shard-00000.h5)"),
    ],
)
def test_a_hostile_shard_entry_is_refused(
    cli, there: Path, tmp_path: Path, field: str, value: object, said: str
) -> None:
    index = json.loads((there / "index.json").read_text())
    index["shards"][0][field] = value
    change_index(there, **index)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 1 and said in " ".join(result.output.split()), result.output
    assert not list((tmp_path / "here").rglob("*.h5")) and not list(tmp_path.glob("shard-*"))
    if value == 10**15:
        assert "1,000,000.00 GB are to be written" in " ".join(result.output.split())
        assert not list((tmp_path / "here").rglob("*.partial"))


@pytest.mark.parametrize("target", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", ["index.json", "shard-00000.h5"])
def test_links_and_pipes_there_are_refused(
    cli, there: Path, tmp_path: Path, target: str, name: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((there / name).read_bytes())
    (there / name).unlink()
    if target == "link":
        (there / name).symlink_to(secret)
    elif target == "pipe":
        os.mkfifo(there / name)
    else:
        (there / name).mkdir()
    result = cli("store", "pull", there, tmp_path / "here")
    assert result.exit_code == 1 and f"{name} is no plain file and is refused" in result.output
    here = tmp_path / "here" / "mine" / there.name
    assert not (here / name).exists() and not (here / "index.json").exists()


class Held:
    """A place elsewhere whose first shard is answered only when it is let go."""

    def __init__(self, there: Path) -> None:
        self.remote = open_remote(RemoteUrl.of(str(there)))
        self.url, self.workers = self.remote.url, 11  # one is left when 2 shards of 5 ranges wait
        self.go, self.waited = threading.Event(), threading.Event()

    def some(self, name: str, begin: int, end: int, size: int) -> bytes:
        if name == "shard-00000.h5":
            self.waited.set()
            assert self.go.wait(60)
        assert self.waited.wait(60)
        return self.remote.some(name, begin, end, size)


def test_a_shard_that_is_slow_to_come_does_not_hold_up_the_others(
    there: Path, tmp_path: Path
) -> None:
    held, done = Held(there), 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if done == sum(entry["bytes"] for entry in entries[1:]):
            held.go.set()

    entries = json.loads((there / "index.json").read_text())["shards"]
    transfer.download(held, tmp_path, entries, tick)
    assert len(entries) == 3 and done == sum(entry["bytes"] for entry in entries)
    for entry in entries:
        assert (tmp_path / entry["file"]).read_bytes() == (there / entry["file"]).read_bytes()


def test_one_error_ends_all_without_waiting_for_the_server(there: Path, tmp_path: Path) -> None:
    held = Held(there)
    entries = json.loads((there / "index.json").read_text())["shards"]
    (there / "shard-00001.h5").unlink()
    try:
        with pytest.raises(StoreError, match="is absent, the index says"):
            transfer.download(held, tmp_path, entries, lambda count: None)
        assert not held.go.is_set()
    finally:
        held.go.set()
    threads = [thread.name for thread in threading.enumerate()]
    assert not [name for name in threads if name.startswith("shard")]  # nobody holds a part file


def test_ctrl_c_does_not_wait_for_a_server_that_stalls(there: Path, tmp_path: Path) -> None:
    """Its answers come after ten minutes; who stops the pull waits for none of them."""
    code = (
        "import os, sys, time; sys.path.insert(0, '.'); from store import transfer; "
        "transfer.read_range = lambda *_: os.write(1, b'waiting\\n') and time.sleep(600); "
        f"import cli; cli.main(['store', 'pull', {str(there)!r}, {str(tmp_path / 'here')!r}])"
    )
    stopped = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert stopped.stdout is not None
    try:
        assert stopped.stdout.readline() == b"waiting\n"
        stopped.send_signal(signal.SIGINT)
        assert stopped.wait(timeout=60) == 130
    finally:
        stopped.kill()
        stopped.wait()
        stopped.stdout.close()


def test_no_range_of_a_pipe_is_opened(there: Path) -> None:
    """Ranges are read side by side, so the first one's check comes too late for the others."""
    name = "shard-00000.h5"
    size = (there / name).stat().st_size
    (there / name).unlink()
    os.mkfifo(there / name)
    found = open_remote(RemoteUrl.of(str(there)))
    with ThreadPoolExecutor(1) as reader:
        jobs = [reader.submit(found.some, name, begin, begin + 10, size) for begin in (0, 10)]
        try:
            for job in jobs:
                with pytest.raises(StoreError, match="no plain file and is refused"):
                    job.result(timeout=10)
        finally:  # whoever waits at the pipe is let go
            os.close(os.open(there / name, os.O_RDWR | os.O_NONBLOCK))


def test_a_link_in_the_place_of_a_part_file_is_not_followed(
    cli, there: Path, tmp_path: Path
) -> None:
    entry = json.loads((there / "index.json").read_text())["shards"][0]
    folder = tmp_path / "here" / "mine" / there.name
    folder.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    transfer.part_of(folder, entry).symlink_to(victim)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 1 and "Cannot write" in result.output
    assert victim.read_text() == "mine"


def test_a_linked_shard_here_is_replaced_and_its_target_is_not(
    cli, there: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here" / "mine" / there.name
    folder.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / "shard-00000.h5").symlink_to(victim)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here", "--replace")
    assert result.exit_code == 0, result.output
    assert victim.read_text() == "mine" and not (folder / "shard-00000.h5").is_symlink()


def test_a_full_disk_is_explained(
    cli, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer._Part, "append", full)
    result = cli("store", "pull", tmp_path / "there", tmp_path / "here")
    assert result.exit_code == 1
    assert "No space left on device. Make room, then run the same command" in result.output


def test_passwords_are_sent_and_never_shown(cli, there: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "there") as (server, url):
        host = url.removeprefix("http://")
        server.password = "Basic dXNlcjpzM2NyM3Q="  # user:s3cr3t
        wrong = cli("store", "pull", f"http://user:n0t@{host}", tmp_path / "here")
        right = cli("store", "pull", f"http://user:s3cr3t@{host}", tmp_path / "here")
    assert wrong.exit_code == 1 and "no permission (HTTP 401" in wrong.output
    assert "n0t" not in wrong.output and f"http://***@{host}" in wrong.output
    assert right.exit_code == 0, right.output
    folder = tmp_path / "here" / "mine" / there.name
    everything = [p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()]
    assert "s3cr3t" not in right.output and not any(b"s3cr3t" in data for data in everything)
    assert contents(folder) == contents(there)


def test_a_server_that_is_not_there_is_said(cli, tmp_path: Path) -> None:
    with serving(tmp_path) as (_, url):
        pass
    result = cli("store", "pull", url, tmp_path / "here")
    assert result.exit_code == 1 and "the server does not answer" in result.output


def test_a_page_without_a_store_is_said(cli, tmp_path: Path) -> None:
    with serving(tmp_path) as (_, url):
        result = cli("store", "pull", f"{url}/nothing", tmp_path / "here")
    assert result.exit_code == 1
    assert (
        "the server does not list its folders. Give store pull the URL of the store"
        in result.output
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/x", "ftp://, which is not supported"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x holds a user or a password"),
        ("https://host/x?token=secret", "is no URL of a folder"),
        ("simplecache::s3://bucket/x", "simplecache::s3://bucket/x"),
        ("s3://", "names no server, bucket or repository"),
    ],
)
def test_urls_that_are_not_taken(cli, tmp_path: Path, url: str, said: str) -> None:
    result = cli("store", "pull", url, tmp_path / "here")
    text = " ".join(result.output.split())
    assert result.exit_code in (1, 2) and said in text and "secret" not in text


def test_a_command_that_takes_a_path_refuses_a_url(cli) -> None:
    result = cli("store", "list", "--features", "s3://user:pw@bucket/features")
    assert result.exit_code == 2 and "is a URL, and this takes a path" in result.output
    assert "pw" not in result.output


def test_the_features_are_those_that_were_written(tmp_path: Path, cli) -> None:
    """By another road than sha256: values, through the reader."""
    there = make_shards(tmp_path / "there", shards=(4,))
    assert cli("store", "pull", tmp_path / "there", tmp_path / "here").exit_code == 0
    with FeatureStore(there) as a, FeatureStore(tmp_path / "here" / "mine" / there.name) as b:
        for video in a.records:
            assert a.read(video).shape == (100, WIDTH)
            assert (a.read(video) == b.read(video)).all()
    with pytest.raises(StoreError, match="has no features of"):
        b.read("other")


def test_two_pulls_at_once_fetch_every_byte_once(there: Path, tmp_path: Path) -> None:
    """As the processes of torchrun do, whose features are at a URL."""
    with serving(tmp_path / "there") as (server, url):
        server.trickle = 0.0005
        [found] = stores_at(open_remote(RemoteUrl.of(url)))
        with ThreadPoolExecutor(2) as pool:
            jobs = [pool.submit(pull, found, tmp_path / "here") for _ in range(2)]
            fetched = sorted(job.result().shards for job in jobs)
    assert fetched == [0, 3]
    assert server.sent == sum(path.stat().st_size for path in there.glob("*.h5"))
    assert contents(tmp_path / "here" / "mine" / there.name) == contents(there)


@pytest.mark.parametrize(
    ("status", "where", "expected"),
    [
        ("pending", "s3://bucket/f/d/x-1", "s3://bucket/f/d/x-1"),
        ("pending", "https://***@host/f", "https://***@host/f"),
        ("pending", "https://me:s3cr3t@host/f", "https://***@host/f"),
        ("pending", "evil://host/f", ""),
        ("pending", "s3://bucket/f\nrm -r x", ""),
        ("pending", "s3://bucket/\x1b[2J", ""),
        ("pending", "here", ""),
        ("failed", "s3://bucket/f", ""),
    ],
)
def test_where_a_video_stayed_is_a_url_or_nothing(status: str, where: str, expected: str) -> None:
    """A stranger's table may say anything, and what it says is proposed as a command."""
    error = f"its shard was not pulled from {where}"
    assert left_behind(VideoRecord(video="v", status=status, error=error)) == expected
    assert left_behind(None) == left_behind(VideoRecord(video="v", status="pending")) == ""
