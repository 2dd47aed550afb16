"""One request to a web server: what of a URL is sent, and how far a password goes when it is sent on."""

from __future__ import annotations

import base64
import functools
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from store.errors import StoreError

TIMEOUT_SECONDS = 60.0
"""How long a server may be silent."""
_IN_A_PATH = "/%:@!$&'()*+,;=~"
"""What is not percent-encoded in the path of a URL; `%` because the path may be encoded already."""


def opened(url: str, headers: Mapping[str, str]) -> Any:
    """Ask for a file; the answer is a context manager.

    Args:
        url: may hold a user and a password, and characters that are not percent-encoded.

    Raises:
        HTTPError: the server answers that it does not send the file.
        OSError, HTTPException: it does not answer.
        StoreError: it sends on to what is no web server.
    """
    parts = urllib.parse.urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    path = urllib.parse.quote(parts.path, safe=_IN_A_PATH)
    request = urllib.request.Request(
        urllib.parse.urlunsplit(parts._replace(netloc=host, path=path)),
        headers={"Accept-Encoding": "identity", "User-Agent": "ma2l-td", **headers},
    )
    if user:
        request.add_unredirected_header("Authorization", _basic(user))
    return _opener().open(request, timeout=TIMEOUT_SECONDS)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends on to; with the password only if that is the same server."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        """Return the request of the new place; see `HTTPRedirectHandler`."""
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is None:
            return None
        if new.type not in ("http", "https"):
            fp.close()
            raise StoreError(
                f"The server sends on to {new.type}://, which is not read. Give the URL of another place."
            )
        known = req.unredirected_hdrs.get("Authorization")
        if known and (new.type, new.host) == (req.type, req.host):
            new.add_unredirected_header("Authorization", known)
        return new


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _basic(user: str) -> str:
    """Return the header of `user:password`, which are percent-encoded as in a URL."""
    plain = ":".join(urllib.parse.unquote(part) for part in user.partition(":")[::2])
    return "Basic " + base64.b64encode(plain.encode()).decode()
