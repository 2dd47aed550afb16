"""A folder on a web server, read with the standard library.

fsspec reads the whole of an answer into memory, so a server that sends more than was asked for could
fill it. Here every answer is read up to the number of bytes that was asked for and no further. A server
may ignore ranges, close connections early and name wrong lengths: nothing it says is believed, because
every file is compared with its sha256 at the end.
"""

from __future__ import annotations

import html.parser
import http.client
import re
import urllib.error
import urllib.parse
from collections.abc import Iterator
from typing import Any

from store.errors import StoreError, UnreachableError
from store.http_request import opened
from store.remote import WORKERS, patiently
from store.remote_errors import explaining
from store.remote_url import RemoteUrl

_LISTING_BYTES = 10_000_000
_PIECE = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19}|\*)")


class HttpRemote:
    """A folder that a web server offers for reading."""

    def __init__(self, url: RemoteUrl) -> None:
        self.url = url
        self.workers = WORKERS
        self.streams = False
        """Whether the server has been found to ignore ranges."""

    def below(self, name: str) -> HttpRemote:
        """Return the folder `name` in this one."""
        return HttpRemote(self.url.below(urllib.parse.quote(name)))

    def folders(self) -> list[str]:
        """Return the names of the folders that the server's page of this one links to.

        Raises:
            StoreError: the server shows no such page.
        """
        page = self._small("", _LISTING_BYTES)
        if page is None:
            raise StoreError(
                f"{self.url} has no store, and the server does not list its folders. Give store pull the "
                "URL of the store itself, the folder with index.json in it."
            )
        links = _Links()
        links.feed(page.decode("utf-8", "replace"))
        return sorted(links.folders)

    def table(self, name: str, limit: int) -> bytes | None:
        """Return a small file's bytes; None if it is not there."""
        return self._small(name, limit)

    def _small(self, name: str, limit: int) -> bytes | None:
        def whole() -> bytes:
            with explaining(self.url, f"has no readable {name or 'list of its folders'}"):
                with self._open(name, {}) as answer:
                    data = b"".join(_pieces(answer, limit + 1))
                    said = _length(answer)
                if len(data) > limit:
                    raise StoreError(
                        f"{self.url}: {name} is larger than {limit / 1e6:,.0f} MB and is refused."
                    )
                if said is not None and len(data) < said:
                    raise self._broken(f"within {name}")
                return data

        try:
            return patiently(whole, [0])
        except _AbsentError:
            return None

    def some(self, name: str, begin: int, end: int, size: int) -> bytes:
        """Return some bytes of a file; see `Remote`. Sets `streams` if the server ignores ranges."""
        with explaining(self.url, f"has no readable {name}"):
            with self._open(name, {"Range": f"bytes={begin}-{end - 1}"}) as answer:
                if answer.status != 206:
                    self.streams = True
                    raise RangesIgnored(f"{self.url}: the server ignores ranges.")
                self._check_range(answer, name, begin, size)
                data = _some_of(answer, end - begin)
            if not data:
                raise self._broken(f"before {name} came")
            return data

    def stream(self, name: str, size: int) -> Iterator[bytes]:
        """Yield a file from its beginning, up to `size` bytes, for a server that ignores ranges.

        Raises:
            UnreachableError: the connection broke.
            StoreError: the server says that it sends fewer bytes.
        """
        with (
            explaining(self.url, f"has no readable {name}"),
            self._open(name, {}) as answer,
        ):
            said = _length(answer)
            if said is not None and said < size:
                raise self._other_size(name, said, size)
            for data in _pieces(answer, size):
                size -= len(data)
                yield data
            if size:
                raise self._broken(f"within {name}")

    def _broken(self, where: str) -> UnreachableError:
        return UnreachableError(
            f"{self.url}: the connection broke {where}. What was transferred is kept; run the same command "
            "again."
        )

    def _other_size(self, name: str, found: int, size: int) -> StoreError:
        return StoreError(
            f"{self.url}: {name} is {found:,} bytes long, the index says {size:,} bytes. It was "
            "changed or cut there; push the store again."
        )

    def _open(self, name: str, headers: dict[str, str]) -> Any:
        """Ask for a file; the answer is a context manager.

        Raises:
            StoreError: the server refuses, or sends on to what is no web server.
            UnreachableError: it may answer later.
        """
        try:
            return opened(f"{self.url.secret}/{urllib.parse.quote(name)}", headers)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(name, error) from None

    def _refused(self, name: str, error: urllib.error.HTTPError) -> Exception:
        """What an answer means that brings no file."""
        if error.code in (404, 410):
            return _AbsentError(
                f"{self.url}: {name or 'the folder'} is not there (HTTP {error.code}). Check the URL."
            )
        if error.code in (401, 403, 407):
            return PermissionError(f"HTTP {error.code} {error.reason}")
        found = f"{self.url}: the server answers HTTP {error.code} for {name or 'the folder'}."
        if error.code == 416:
            return StoreError(
                f"{found} The file is shorter than the index says: it was changed or cut there. Push the "
                "store again."
            )
        if error.code >= 500 or error.code in (408, 429):
            return UnreachableError(f"{found} What was transferred is kept; try again later.")
        return StoreError(
            f"{found} Check that a browser gets {name or 'the folder'} from this URL."
        )

    def _check_range(self, answer: Any, name: str, begin: int, size: int) -> None:
        said = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if said is None or int(said[1]) != begin:
            raise StoreError(
                f"{self.url}: the server sends other bytes of {name} than it was asked for. Download it in "
                "another way."
            )
        if said[2] != "*" and int(said[2]) != size:
            raise self._other_size(name, int(said[2]), size)


class RangesIgnored(StoreError):
    """The server sends the whole file, whatever part it is asked for."""


class _AbsentError(StoreError):
    """The server says that there is no such file."""


class _Links(html.parser.HTMLParser):
    """Collects the relative links of a page that end with a slash."""

    def __init__(self) -> None:
        super().__init__()
        self.folders: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a link."""
        target = dict(attrs).get("href") or "" if tag == "a" else ""
        name = urllib.parse.unquote(target[:-1].removeprefix("./"))
        if target.endswith("/") and "/" not in name and name not in ("", ".", ".."):
            self.folders.add(name)


def _length(answer: Any) -> int | None:
    """Return how many bytes the server says that it sends, None if it does not say."""
    said = answer.headers.get("Content-Length", "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 19 else None


def _pieces(answer: Any, limit: int) -> Iterator[bytes]:
    """Yield an answer as it comes, up to `limit` bytes.

    Raises:
        OSError, HTTPException: it breaks off.
    """
    while limit:
        part = answer.read1(min(_PIECE, limit))  # what has come, without a copy
        if not part:
            return
        limit -= len(part)
        yield part


def _some_of(answer: Any, limit: int) -> bytes:
    """Return up to `limit` bytes of an answer; fewer if it ends or breaks off after some."""
    parts: list[bytes] = []
    try:
        parts.extend(_pieces(answer, limit))
    except (OSError, http.client.HTTPException):
        if not parts:
            raise
    return b"".join(parts)
