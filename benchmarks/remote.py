"""How fast `store push` and `store pull` are, against the copy that does nothing else.

    python -m benchmarks.remote

A store of random features goes to and from three places, in turn in every round: a folder (against `cp`), an
S3 server on this machine (against boto3, as parallel as we are), and a web server on this machine (against
reading the same ranges). Each is compared with the bare copy, which ends in the memory of the system; with
the same copy synced to the disk, as what is pulled is; and with a synced copy whose sha256 is taken, which
push and pull do as well. The servers are processes of their own. Remembered sha256 are forgotten, and the
disk is synced, before every transfer.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np

from benchmarks.common import working_folder
from store.format import store_folder
from store.machine import keep_freed_memory
from store.pull import pull
from store.push import push, writable
from store.records import VideoRecord
from store.remote import WORKERS, open_remote
from store.remote_fsspec import UPLOAD_PART
from store.remote_stores import stores_at
from store.remote_url import RemoteUrl
from store.tables import write_index
from store.transfer import BLOCK
from store.write import ShardWriter

CONFIG = {"backbone": "random", "weights_sha256": "0" * 64, "stride": 1}
WIDTH = 2048
_WEB = """
import http.server, re, os
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\\d+)-(\\d+)", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        if not asked or not os.path.isfile(path):
            return super().do_GET()
        begin, end, size = int(asked[1]), int(asked[2]), os.path.getsize(path)
        count = min(end + 1, size) - begin
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {begin}-{begin + count - 1}/{size}")
        self.send_header("Content-Length", str(count))
        self.end_headers()
        with open(path, "rb") as file:
            self.wfile.flush()
            os.sendfile(self.connection.fileno(), file.fileno(), begin, count)
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""


def make_store(features: Path, shards: int, megabytes: int) -> Path:
    """Write a store of random features."""
    folder = store_folder(features, "random", CONFIG)
    folder.mkdir(parents=True)
    random, records = np.random.default_rng(0), []
    for shard in range(shards):
        with ShardWriter(folder, shard, CONFIG) as writer:
            for n in range(megabytes // 4):
                values = random.integers(0, 1 << 14, (1024, WIDTH)).astype(np.uint16)
                video = VideoRecord(video=f"video-{shard}-{n}")
                records.append(writer.add(video, values.view(np.float16)))
    write_index(
        folder,
        **{"dataset": "random", "config": CONFIG, "width": WIDTH},
        records=records,
        run={"weights": "random"},
    )
    return folder


@contextmanager
def running(arguments: list[str], port: int, cwd: Path | None = None) -> Iterator[str]:
    """A server in a process of its own, and its URL."""
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(
        [sys.executable, *arguments], cwd=cwd, stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        for _ in range(300):
            with socket.socket() as found:
                if not found.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def fetch(url: str, to: Path) -> None:
    """`store pull`, into an empty folder."""
    for found in stores_at(open_remote(RemoteUrl.of(url))):
        pull(found, to)


Limits = tuple[str, ...]
"""Names of the bare, the synced and the checked copy of the same; what there is of them."""


def variants(
    root: Path, folder: Path, web: str
) -> dict[str, tuple[Limits, Callable[[int], object]]]:
    """Name -> what it is compared with, and what does it once, in the round of that number."""
    import boto3
    from boto3.s3.transfer import TransferConfig

    client = boto3.client("s3")
    client.create_bucket(Bucket="features")
    config = TransferConfig(multipart_chunksize=UPLOAD_PART, max_concurrency=WORKERS)
    shards = sorted(folder.glob("*.h5"))
    sizes = {path.name: path.stat().st_size for path in shards}
    key = f"random/{folder.name}"

    def copy(n: int) -> None:
        subprocess.run(["cp", "-r", str(folder), str(root / f"copy-{n}")], check=True)

    def side_by_side(one: Callable[[Path], object]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, shards))

    def upload(n: int) -> None:
        side_by_side(
            lambda p: client.upload_file(str(p), "features", f"raw-{n}/{p.name}", Config=config)
        )

    def download(n: int) -> None:
        to = root / f"raw-{n}"
        to.mkdir(exist_ok=True)
        side_by_side(
            lambda p: client.download_file(
                "features", f"f-{n}/{key}/{p.name}", str(to / p.name), Config=config
            )
        )

    def read(n: int, keep: bool = False) -> None:
        to = root / f"r-{n}"
        to.mkdir(exist_ok=True)

        def one(part: tuple[str, int]) -> None:
            name, begin = part
            end = min(begin + BLOCK, sizes[name]) - 1
            asked = urllib.request.Request(
                f"{web}/{key}/{name}", headers={"Range": f"bytes={begin}-{end}"}
            )
            with urllib.request.urlopen(asked) as answer, (to / name).open("r+b") as file:
                file.seek(begin)
                while data := answer.read(1 << 16):
                    if keep:
                        file.write(data)

        for name in sizes:
            (to / name).touch()
        with ThreadPoolExecutor(WORKERS) as pool:
            list(
                pool.map(one, [(n, b) for n, size in sizes.items() for b in range(0, size, BLOCK)])
            )

    def synced(run: Callable[[int], object]) -> Callable[[int], None]:
        """The same, on the disk."""

        def both(n: int) -> None:
            run(n)
            subprocess.run(["sync", "-f", str(root)], check=True)

        return both

    def checked(run: Callable[[int], object], place: str) -> Callable[[int], None]:
        """The same, and what any careful person does: the sha256 of the copy, or of what is sent."""

        def both(n: int) -> None:
            synced(run)(n)
            lines = (folder / "SHA256SUMS").read_text().splitlines()
            sums = "\n".join(line for line in lines if line.endswith(".h5"))
            command = ["sha256sum", "--quiet", "-c", "-"]
            to = place.format(n=n) if place else folder
            subprocess.run(command, cwd=root / to, check=True, input=sums, text=True)

        return both

    def to(place: str) -> Callable[[int], object]:
        return lambda n: push(folder, writable(RemoteUrl.of(place.format(n=n))))

    here, features = str(root / "f-{n}"), str(folder.parent.parent)

    def keep(n: int) -> None:
        read(n, True)

    copies = ("cp", "cp, sync", "cp, sync, sha256sum")
    downloads = ("boto3 download", "boto3 download, sync", "boto3 download, sync, sha256sum")
    ranges = ("ranges dropped", "ranges kept, sync", "ranges kept, sync, sha256sum")
    uploads = ("boto3 upload", "", "boto3 upload, sha256sum")
    runs: dict[str, tuple[Limits, Callable[[int], object]]] = {
        "push to a folder": (copies, to(here)),
        "pull from a folder": (copies, lambda n: fetch(features, root / f"p-{n}")),
        "push to S3": (uploads, to("s3://features/f-{n}")),
        "pull from S3": (downloads, lambda n: fetch(f"s3://features/f-{n}", root / f"s-{n}")),
        "pull from the web": (ranges, lambda n: fetch(web, root / f"w-{n}")),
    }
    bare: dict[str, Callable[[int], object]] = {
        "cp": copy,
        "cp, sync": synced(copy),
        "cp, sync, sha256sum": checked(copy, "copy-{n}"),
        "boto3 upload": upload,
        "boto3 upload, sha256sum": checked(upload, ""),
        "boto3 download": download,
        "boto3 download, sync": synced(download),
        "boto3 download, sync, sha256sum": checked(download, "raw-{n}"),
        "ranges dropped": read,
        "ranges kept, sync": synced(keep),
        "ranges kept, sync, sha256sum": checked(keep, "r-{n}"),
    }
    return {**runs, **{name: ((), run) for name, run in bare.items()}}


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work; a temporary one.")
@click.option("--shards", default=4, show_default=True)
@click.option("--megabytes", default=64, show_default=True, help="Of each shard.")
@click.option("--rounds", default=3, show_default=True)
def main(folder: Path | None, shards: int, megabytes: int, rounds: int) -> None:
    """Time push and pull, and print a table; the shares are those of medians."""
    keep_freed_memory()  # as the commands do
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    seconds: dict[str, list[float]] = defaultdict(list)
    s3, web = free_port(), free_port()
    with (
        working_folder(folder) as root,
        running(["-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3)], s3) as s3_url,
    ):
        os.environ["AWS_ENDPOINT_URL"] = s3_url
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        store = make_store(root / "features", shards, megabytes)
        size = sum(path.stat().st_size for path in store.glob("*.h5"))
        code = _WEB.replace("PORT", str(web))
        with running(["-c", code], web, cwd=root / "features") as url:
            timed = variants(root, store, url)
            for number in range(rounds):
                for name, (_, run) in timed.items():
                    shutil.rmtree(root / "cache", ignore_errors=True)
                    os.sync()  # nobody pays for what another one left to be written
                    begin = time.perf_counter()
                    run(number)
                    seconds[name].append(time.perf_counter() - begin)
                    for path in root.glob(f"[!f]*-{number}"):  # what was pushed is pulled later
                        shutil.rmtree(path)
                shutil.rmtree(root / f"f-{number}")
    print(f"\n{size / 1e6:,.0f} MB in {shards} shards, {rounds} rounds\n")
    print("| | MB/s, median | least and most | of the bare copy | of it, synced | of it, checked |")
    print("|---|---|---|---|---|---|")
    middle = {n: statistics.median(size / 1e6 / s for s in found) for n, found in seconds.items()}
    for name, (limits, _) in timed.items():
        rates = [size / 1e6 / s for s in seconds[name]]
        shares = [f"{middle[name] / middle[limit]:.2f}" if limit else "" for limit in limits]
        cells = [f"{middle[name]:,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}"]
        print(f"| {name} | {' | '.join([*cells, *(shares or [''] * 3)])} |")


if __name__ == "__main__":
    main()
