"""Where stores lie elsewhere: a URL, and how it is shown without the secrets in it.

This is the only place that decides which URLs are taken. A URL names a folder, below which files are
found by name, so it has neither a query nor a fragment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from store.errors import ConfigError, printable

PROTOCOLS = ("file", "s3", "gs", "hf", "ssh", "sftp", "http", "https")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{0,2}")
_USER = re.compile(r"(?<=://)(?:[^/\s]*@|[^/\s:@\[]+:(?!\d*(?:[/\s]|$))\S*@)")
"""Up to the last `@` of the server's part, or of all where what follows a colon there is no port."""
_QUERY = re.compile(r"(://[^\s'\"?#]*)[?#][^\s'\"]*")
_REPOSITORY = re.compile(r"hf://datasets/[^/@]+/[^/@]+(@(refs/(pr|convert)/)?[^/]+)?")
_WITH_USER = ("ssh", "sftp", "http", "https")
"""Protocols whose URLs may hold a user and a password; the others find theirs where their tools do."""


def is_repository(url: RemoteUrl) -> bool:
    """Return whether a URL is the root of a repository of data sets on the Hub, perhaps at a revision."""
    return _REPOSITORY.fullmatch(url.secret) is not None


def is_url(text: str) -> bool:
    """Return whether a text is meant as a URL and not as a path: `s3://bucket/features`, but not `features`.

    `https:/host` is: as a path it would be a folder, whose name may hold a password.
    """
    return "://" in text or text.partition(":/")[0].lower() in PROTOCOLS


def redacted(text: object) -> str:
    """Return a text with the users, passwords and queries of all URLs in it replaced by `***`."""
    return _QUERY.sub(r"\1?***", _USER.sub("***@", str(text)))


def redacted_url(url: str) -> str:
    """Return a text that is one URL, redacted even where its password has spaces or slashes."""
    scheme = _SCHEME.match(url)
    start = scheme.end() if scheme else 0
    user, rest = _split(url[start:])
    cut = re.split("[?#]", rest, maxsplit=1)
    return url[:start] + "***@" * bool(user) + cut[0] + "?***" * (len(cut) > 1)


def _split(rest: str) -> tuple[str, str]:
    """Return user and password with the `@` (or nothing), and the server and path, of what follows `://`.

    A password with a slash in it, which a URL cannot have, is recognised by its colon.
    """
    server = rest.partition("/")[0]
    end = server.rfind("@")
    if end < 0 and not _port(server).isdecimal():
        end = rest.rfind("@")
    return rest[: end + 1], rest[end + 1 :]


def _port(server: str) -> str:
    """Return what follows the colon of `host:port` or `[::1]:port`; `0` if there is no colon."""
    return server.rpartition("]")[2].partition(":")[2] or "0"


@dataclass(frozen=True, repr=False)
class RemoteUrl:
    """The URL of a folder. As a text it is redacted; only `secret` has what it was made of."""

    secret: str
    """The URL without a slash at its end, with whatever password stands in it."""

    @staticmethod
    def of(text: str) -> RemoteUrl:
        """Make one of what a user gave: a URL, or the path of a folder on this machine.

        Raises:
            ConfigError: the protocol is unknown, or the URL has a query, a fragment, a port that is none, or
                a password that its protocol does not read or that is not percent-encoded.
        """
        if not is_url(text):
            return RemoteUrl(f"file://{Path(text).absolute().as_posix()}")
        shown = redacted_url(text)
        protocol, slashes, rest = text.partition("://")
        if not slashes:
            raise ConfigError(f"{shown} has one slash after the colon, and a URL has two. Add it.")
        protocol = protocol.lower()
        if protocol not in PROTOCOLS:
            raise ConfigError(
                f"{shown} begins with {protocol}://, which is not supported. There are: "
                f"{', '.join(f'{name}://' for name in PROTOCOLS)}, and paths."
            )
        if any(mark in text for mark in "?#\\") or not text.isprintable():
            raise ConfigError(
                f"{printable(shown)} is no URL of a folder: it must not contain '?', '#', '\\' or control "
                "characters. Give the URL of the folder in which the stores lie."
            )
        user, place = _split(rest)
        _check_user(user, protocol, shown)
        host = place.partition("/")[0]
        if protocol != "file" and not host:
            raise ConfigError(f"{shown} names no server, bucket or repository.")
        port = _port(host) if protocol in _WITH_USER else "0"
        if not (port.isdecimal() and int(port[:6]) < 2**16):
            raise ConfigError(f"{shown} names the port {port}, and a port is a number below 65536.")
        return RemoteUrl(f"{protocol}://{rest.rstrip('/')}")

    @property
    def protocol(self) -> str:
        """`s3`, `https` and so on."""
        return self.secret.partition("://")[0]

    @property
    def name(self) -> str:
        """The last part of the path; empty if there is no path."""
        return self.secret.partition("://")[2].partition("/")[2].rpartition("/")[2]

    def below(self, name: str) -> RemoteUrl:
        """Return the URL of a folder in this one."""
        return RemoteUrl(f"{self.secret}/{name}")

    def __str__(self) -> str:
        return redacted_url(self.secret)

    __repr__ = __str__


def _check_user(user: str, protocol: str, shown: str) -> None:
    """Refuse a user or a password that the protocol does not read, or that could not be told from the rest.

    Raises:
        ConfigError: there is such a one.
    """
    if user and protocol not in _WITH_USER:
        raise ConfigError(
            f"{shown} holds a user or a password, which {protocol}:// does not read from a "
            "URL. Leave it out, and give the credentials as the tools of that service expect them "
            "(docs/moving.md)."
        )
    if any(c.isspace() or c == "/" for c in user):
        raise ConfigError(
            f"{shown} has a space or a slash in its user or password. Write %20 for a space and %2F for a "
            "slash there."
        )
