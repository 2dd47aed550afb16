"""What the errors of other people's libraries mean to somebody who moves a store.

Each backend raises errors of its own library, so they are told apart by the names of their classes: no
backend is imported here. No message shows a password.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from store.errors import Ma2lError, StoreError, UnreachableError, printable
from store.remote_url import RemoteUrl, redacted

PACKAGES = {
    **{"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "ssh": "paramiko"},
    "sftp": "paramiko",
}
"""The package that a protocol needs beyond fsspec."""
_NO_CREDENTIALS = frozenset(
    [
        *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"),
        *("DefaultCredentialsError", "LocalTokenNotFoundError", "AuthenticationException"),
        *("GatedRepoError", "SSHException", "TokenRetrievalError"),
    ]
)
_UNREACHABLE = frozenset(
    [
        *("ClientConnectionError", "ConnectionError", "ConnectTimeoutError"),
        *("Timeout", "ConnectionClosedError", "EndpointConnectionError"),
        *("HTTPClientError", "IncompleteRead", "IncompleteReadError"),
        *("NetworkError", "RemoteProtocolError", "ResponseStreamingError"),
        *("TimeoutError", "TimeoutException", "URLError"),
        *("gaierror", "NoValidConnectionsError", "HTTPException"),
        *("ClientPayloadError", "FSTimeoutError", "OfflineModeIsEnabled"),
        *("TransportError",),
    ]
)
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
WHERE = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or `aws configure`",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "hf": "HF_TOKEN, or `hf auth login`",
    "ssh": "your SSH agent and ~/.ssh",
    "sftp": "your SSH agent and ~/.ssh",
    "http": "a user and password in the URL",
    "https": "a user and password in the URL",
}
"""Where a protocol's tools look for credentials."""


@contextmanager
def explaining(url: RemoteUrl, doing: str) -> Iterator[None]:
    """Turn whatever a backend raises into a StoreError that says what to do next.

    Args:
        doing: what is tried, as in `cannot be read`.

    Raises:
        UnreachableError: the server does not answer, or the connection broke.
        StoreError: anything else.
    """
    try:
        yield
    except (Ma2lError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _explained(url, doing, error) from error


def _explained(url: RemoteUrl, doing: str, error: Exception) -> StoreError:
    names = {kind.__name__ for kind in type(error).__mro__}
    reason = _reason(error)
    if isinstance(error, ImportError) and url.protocol in PACKAGES:
        return StoreError(
            f"{url.protocol}:// needs a package that is not installed. "
            f"Run: pip install '{PACKAGES[url.protocol]}'"
        )
    if isinstance(error, PermissionError) or names & _NO_CREDENTIALS:
        where = WHERE.get(url.protocol)
        look = f" Credentials are looked for in {where}." if where else ""
        return StoreError(f"{url} {doing}: no permission ({reason}).{look}")
    if isinstance(error, FileNotFoundError) or "RepositoryNotFoundError" in names:
        return StoreError(
            f"{url} {doing}: there is no such bucket, repository or folder ({reason}). Check the URL, and "
            "make the bucket or the repository first if you push."
        )
    if isinstance(error, OSError) and error.errno in _LOCAL:
        return StoreError(f"{url} {doing}: {reason}. Make room, then run the same command again.")
    if names & _UNREACHABLE:
        return UnreachableError(
            f"{url} {doing}: the server does not answer, or the connection broke ({reason}). What was "
            "transferred is kept; run the same command again."
        )
    return StoreError(f"{url} {doing}: {reason}.")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and type(error).__module__ == "builtins":
        return os.strerror(error.errno)
    text = next(iter(str(error).splitlines()), "")
    return printable(redacted(text or type(error).__name__))[:300].rstrip(".")
