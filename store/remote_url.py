"""Where stores lie elsewhere: a URL, and how it is shown without the secrets in it.

This is the only place that decides which URLs are taken. A URL names a folder, below which files are
found by name, so it has neither a query nor a fragment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from store.errors import ConfigError

PROTOCOLS = ("file", "s3", "gs", "hf", "ssh", "sftp", "http", "https")
_USER = re.compile(r"(?<=://)[^/\s'\"]*@")
_QUERY = re.compile(r"(://[^\s'\"?#]*)[?#][^\s'\"]*")
_REPOSITORY = re.compile(r"hf://datasets/[^/@]+/[^/@]+(@(refs/(pr|convert)/)?[^/]+)?")
_WITH_USER = ("ssh", "sftp", "http", "https")
"""Protocols whose URLs may hold a user and a password; the others find theirs where their tools do."""


def is_repository(url: RemoteUrl) -> bool:
    """Return whether a URL is the root of a repository of data sets on the Hub, perhaps at a revision."""
    return _REPOSITORY.fullmatch(url.secret) is not None


def is_url(text: str) -> bool:
    """Return whether a text is a URL and not a path: `s3://bucket/features`, but not `features`."""
    return "://" in text


def redacted(text: object) -> str:
    """Return a text with the users, passwords and queries of all URLs in it replaced by `***`."""
    return _QUERY.sub(r"\1?***", _USER.sub("***@", str(text)))


@dataclass(frozen=True, repr=False)
class RemoteUrl:
    """The URL of a folder. As a text it is redacted; only `secret` has what it was made of."""

    secret: str
    """The URL without a slash at its end, with whatever password stands in it."""

    @staticmethod
    def of(text: str) -> RemoteUrl:
        """Make one of what a user gave: a URL, or the path of a folder on this machine.

        Raises:
            ConfigError: the protocol is unknown, or the URL has a query, a fragment or a password that
                its protocol does not read.
        """
        if not is_url(text):
            return RemoteUrl(f"file://{Path(text).absolute().as_posix()}")
        protocol = text.partition("://")[0].lower()
        if protocol not in PROTOCOLS:
            raise ConfigError(
                f"{redacted(text)} begins with {protocol}://, which is not supported. There are: "
                f"{', '.join(f'{name}://' for name in PROTOCOLS)}, and paths."
            )
        if any(mark in text for mark in "?#\n\r\\"):
            raise ConfigError(
                f"{redacted(text)} is no URL of a folder: it must not contain '?', '#' or '\\'. "
                "Give the URL of the folder in which the stores lie."
            )
        host = text.partition("://")[2].partition("/")[0]
        if "@" in host and protocol not in _WITH_USER:
            raise ConfigError(
                f"{redacted(text)} holds a user or a password, which {protocol}:// does not read from a "
                "URL. Leave it out, and give the credentials as the tools of that service expect them "
                "(docs/moving.md)."
            )
        if protocol != "file" and not host:
            raise ConfigError(f"{redacted(text)} names no server, bucket or repository.")
        return RemoteUrl(f"{protocol}://{text.partition('://')[2].rstrip('/')}")

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
        return redacted(self.secret)

    __repr__ = __str__
