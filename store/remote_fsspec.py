"""A folder elsewhere, read and written through fsspec: S3, Google Cloud, the Hub, SFTP, or a disk.

fsspec finds credentials in the usual places of each service. A web server is read by
`store/remote_http.py`, which has the same methods for reading.
"""

from __future__ import annotations

import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from store.errors import StoreError, UnreachableError
from store.remote import WORKERS, patiently
from store.remote_errors import explaining
from store.remote_url import RemoteUrl

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

UPLOAD_PART = 32 << 20
"""Bytes of a part of a file that is uploaded to S3 in parts; `store/arrival.py` computes with it."""
_OBJECTS = ("s3", "gs", "hf")
"""Protocols whose files appear whole or not at all. Elsewhere a file is renamed when it is complete."""
_PARTIAL = re.compile(
    r"\.(shard-\d{5}\.h5|index\.json|videos\.csv|failures\.csv|SHA256SUMS|README\.md)\.[0-9a-f]{8}\.partial"
)
"""What `_complete` calls its files; `store/locks.py` and `store/transfer.py` name theirs in other ways."""
_READS_IN_PARALLEL = ("file", "hf")
"""Protocols without an asynchronous fsspec class that allow several reads at the same time. (With
paramiko, two threads take each other's answers.)"""


class FsspecRemote:
    """A folder that fsspec reads and writes."""

    def __init__(self, url: RemoteUrl, fs: AbstractFileSystem | None = None) -> None:
        self.url = url
        with explaining(url, "cannot be opened"):
            import fsspec

            if fs is None:
                kind = fsspec.get_filesystem_class(url.protocol)
                options = dict(kind._get_kwargs_from_urls(url.secret))
                for name in options.keys() & {"username", "password"}:
                    options[name] = unquote(options[name])  # fsspec takes them as they are written
                fs = kind(**options)
            self.fs: Any = fs
            self.path = str(fs._strip_protocol(url.secret)).rstrip("/")
        parallel = getattr(fs, "async_impl", False) or url.protocol in _READS_IN_PARALLEL
        self.workers = WORKERS if parallel else 1

    def below(self, name: str) -> FsspecRemote:
        """Return the folder `name` in this one."""
        return FsspecRemote(self.url.below(name), self.fs)

    def at(self, name: str) -> str:
        """Return a file's path as fsspec takes it."""
        return f"{self.path}/{name}"

    def _entries(self) -> list[dict[str, Any]]:
        with explaining(self.url, "cannot be listed"):
            self.fs.invalidate_cache()
            try:
                found: list[dict[str, Any]] = self.fs.ls(self.path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return found

    def folders(self) -> list[str]:
        """Return the names of the folders in this one, sorted; none if it is not there."""
        entries = [entry for entry in self._entries() if entry["type"] == "directory"]
        return sorted(str(e["name"]).rstrip("/").rpartition("/")[2] for e in entries)

    def names(self) -> list[str]:
        """Return the names of the files in this folder, sorted; none if it is not there."""
        entries = [entry for entry in self._entries() if entry["type"] == "file"]
        return sorted(str(entry["name"]).rpartition("/")[2] for entry in entries)

    def info(self, name: str, *, fresh: bool = True) -> dict[str, Any] | None:
        """Return what the backend says of a file; None if there is none.

        Args:
            fresh: whether to forget what it said before.

        Raises:
            StoreError: it is a folder, a link, a pipe or a device.
        """
        with explaining(self.url, f"has no readable {name}"):
            if fresh:
                self.fs.invalidate_cache()
            try:
                found: dict[str, Any] = self.fs.info(self.at(name))
            except FileNotFoundError:
                return None
        linked = found.get("islink") or found["type"] != "file"
        if linked or ("mode" in found and not stat.S_ISREG(found["mode"] or stat.S_IFREG)):
            raise StoreError(
                f"{self.url}: {name} is no plain file and is refused. Put the file itself in its place."
            )
        return found

    def table(self, name: str, limit: int) -> bytes | None:
        """Return a small file's bytes; None if it is not there."""
        found = self.info(name)
        if found is None:
            return None
        if found["size"] > limit:
            raise StoreError(
                f"{self.url}: {name} is larger than {limit / 1e6:,.0f} MB and is refused."
            )
        if not found["size"]:
            return b""

        def whole() -> bytes:
            with explaining(self.url, f"has no readable {name}"):
                return bytes(self.fs.cat_file(self.at(name), start=0, end=found["size"]))

        return patiently(whole, [0])

    def some(self, name: str, begin: int, end: int, size: int) -> bytes:
        """Return some bytes of a file; see `Remote`."""
        if not begin or self.url.protocol == "file":  # to open a pipe on a disk would wait for ever
            found = self.info(name, fresh=False)
            if found is None or found["size"] != size:
                is_there = "absent" if found is None else f"{found['size']:,} bytes long"
                raise StoreError(
                    f"{self.url}: {name} is {is_there}, the index says {size:,} bytes. It was changed or "
                    "cut there; push the store again."
                )
        with explaining(self.url, f"has no readable {name}"):
            data = bytes(self.fs.cat_file(self.at(name), start=begin, end=end))
        if not 0 < len(data) <= end - begin:
            raise UnreachableError(
                f"{self.url} answered with {len(data):,} bytes of {name}, asked for {end - begin:,}."
            )
        return data

    def _make_folder(self) -> None:
        if self.url.protocol not in _OBJECTS:
            self.fs.makedirs(self.path, exist_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file; a reader sees the old or the new one and nothing between.

        A hidden file is written in place: nobody reads it.
        """
        with explaining(self.url, f"cannot be written ({name})"):
            self._make_folder()
            if self.url.protocol in _OBJECTS or name.startswith("."):
                self.fs.pipe_file(self.at(name), data)
                return
            with self._complete(name) as partial:
                self.fs.pipe_file(partial, data)

    @contextmanager
    def _complete(self, name: str) -> Iterator[str]:
        """Yield the path of a hidden file that gets its name at the end, or is removed after an error."""
        partial = self.at(f".{name}.{secrets.token_hex(4)}.partial")
        try:
            yield partial
            self.fs.mv(partial, self.at(name))
        except BaseException:
            with suppress(Exception):  # the error that is on its way says more
                self.fs.rm_file(partial)
            raise

    def remove_partials(self) -> None:
        """Remove the hidden files of `_complete` that a killed process left; nobody may be writing here."""
        for name in self.names() if self.url.protocol not in _OBJECTS else ():
            if _PARTIAL.fullmatch(name):
                self.remove(name)

    def upload(self, path: Path, name: str, callback: Any) -> None:
        """Upload a file under a name; it has that name only when it is complete.

        Args:
            callback: a callback of fsspec that is told of the bytes.
        """
        with explaining(self.url, f"cannot be written ({name})"):
            if self.url.protocol in _OBJECTS:
                more = {"chunksize": UPLOAD_PART} if self.url.protocol == "s3" else {}
                self.fs.put_file(str(path), self.at(name), callback=callback, **more)
                return
            self._make_folder()
            with self._complete(name) as partial:
                self.fs.put_file(str(path), partial, callback=callback)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with explaining(self.url, f"cannot be written ({name})"):
            try:
                self.fs.rm_file(self.at(name))
            except FileNotFoundError:
                return
