"""Stores of several shards, an S3 server on this machine, and web servers that misbehave."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from conftest import CONFIG

from store.format import store_folder
from store.records import VideoRecord
from store.tables import write_index
from store.write import ShardWriter

WIDTH = 64


def make_shards(
    features: Path,
    dataset: str = "mine",
    shards: Sequence[int] = (0, 1, 2),
    *,
    listed: int | None = None,
    frames: int = 100,
    seed: int = 0,
) -> Path:
    """A store with these shards, three videos `video-SHARD-N` in each, of `listed` shards (all) in all."""
    folder = store_folder(features, dataset, CONFIG)
    folder.mkdir(parents=True, exist_ok=True)
    records = {
        f"video-{shard}-{n}": VideoRecord(video=f"video-{shard}-{n}", status="pending")
        for shard in (shards if listed is None else range(listed))
        for n in range(3)
    }
    for shard in shards:
        with ShardWriter(folder, shard, CONFIG) as writer:
            for n in range(3):
                video = f"video-{shard}-{n}"
                random = np.random.default_rng([seed, shard, n])
                values = random.normal(size=(frames, WIDTH)).astype(np.float16)
                records[video] = writer.add(VideoRecord(video=video), values)
    write_index(
        folder,
        dataset=dataset,
        config=CONFIG,
        width=WIDTH,
        records=records.values(),
        run={"weights": "none"},
    )
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file, but for the card."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "README.md"
    }


def change_index(folder: Path, **changes: Any) -> None:
    """Write other values into an index, as somebody could who means harm."""
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class WebServer:
    """Serves a folder; `misbehave` says how, and `log` has the path and the range of every request."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: list[tuple[str, str]] = []
        self.breaks_after: int | None = None
        """Bytes of a shard's answer after which the connection is closed."""
        self.ranges = True
        self.dotted = False
        """Whether links of a folder's page begin with `./`, as Caddy's do."""
        self.shift = 0
        """By how much the answered range begins too late."""
        self.trickle: float | None = None
        """Seconds to wait between pieces of a shard."""
        self.endless = False
        """Send more than was asked for, for as long as somebody reads."""
        self.password: str | None = None
        self.page_breaks = False
        """Send a folder's page in chunks and close the connection before the last one."""
        self.moved: dict[str, str] = {}
        """The path of a request -> where the server sends on to."""
        self.authorised: list[str | None] = []
        """The header Authorization of every request."""
        self.sent = 0
        """Bytes of shards that were sent."""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a GET."""
        asked = handler.headers.get("Range", "")
        self.log.append((handler.path, asked))
        self.authorised.append(handler.headers.get("Authorization"))
        path = self.root / urllib.parse.unquote(handler.path).lstrip("/")
        if handler.path in self.moved:
            return self._head(handler, 302, 0, {"Location": self.moved[handler.path]})
        if self.password and handler.headers.get("Authorization") != self.password:
            return self._head(handler, 401, 0)
        if path.is_dir():
            dot = "./" * self.dotted
            links = "".join(f'<a href="{dot}{p.name}/">{p.name}</a>' for p in path.iterdir())
            data = f"<a href='../'>up</a><a href='/x/'>x</a>{links}".encode()
            if self.page_breaks:
                handler.protocol_version = "HTTP/1.1"
                handler.send_response(200)
                handler.send_header("Transfer-Encoding", "chunked")
                handler.end_headers()
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                handler.close_connection = True
                return None
            self._head(handler, 200, len(data))
            handler.wfile.write(data)
            return None
        if not path.is_file():
            return self._head(handler, 404, 0)
        data = path.read_bytes()
        size, status, more = len(data), 200, {}
        if asked and self.ranges:
            begin, end = (int(n) for n in asked.removeprefix("bytes=").split("-"))
            data, status = data[begin + self.shift : end + 1 + self.shift], 206
            begin += self.shift
            more = {"Content-Range": f"bytes {begin}-{begin + len(data) - 1}/{size}"}
        self._head(handler, status, len(data), more)
        self._body(handler, data, path.name.startswith("shard-"))
        return None

    def _head(self, handler: Any, status: int, size: int, more: Any = {}) -> None:  # noqa: B006
        handler.send_response(status)
        for name, value in {"Content-Length": str(size), **more}.items():
            if not (self.endless and name == "Content-Length" and status == 206):
                handler.send_header(name, value)
        handler.end_headers()

    def _body(self, handler: Any, data: bytes, is_shard: bool) -> None:
        if not is_shard:
            handler.wfile.write(data)
            return
        data = data[: self.breaks_after]
        for at in range(0, len(data), 1000):
            handler.wfile.write(data[at : at + 1000])
            self.sent += len(data[at : at + 1000])
            if self.trickle:
                handler.wfile.flush()
                threading.Event().wait(self.trickle)
        while self.endless and self.sent < 10**9:
            handler.wfile.write(b"x" * 10_000)
            self.sent += 10_000


@contextmanager
def serving(root: Path) -> Iterator[tuple[WebServer, str]]:
    """A web server of a folder and its URL."""
    server = WebServer(root)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                server.answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


def pulled_from(cli: Any, root: Path, **behaviour: Any) -> tuple[Any, WebServer]:
    """Pull what lies in `root`/there into `root`/here, from a web server that behaves so."""
    with serving(root / "there") as (server, url):
        for name, value in behaviour.items():
            assert hasattr(server, name), name
            setattr(server, name, value)
        return cli("store", "pull", url, root / "here"), server
