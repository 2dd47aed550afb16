"""Whether a file that was uploaded has arrived as it was sent.

A server's own checksum is compared where it is one of the file's bytes: the Hub's sha256, the MD5 of
Google Cloud, and S3's ETag, which is the MD5 of the file or of the MD5s of its parts. Where there is none
(a disk, SFTP, S3 with keys of a KMS, or parts of another size), the file is read back and its sha256
compared.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from store.errors import StoreError
from store.plain import open_plain
from store.remote import read_range
from store.remote_fsspec import UPLOAD_PART, FsspecRemote

_BLOCK = 8 << 20
_PIECE = 1 << 20


def has_arrived(remote: FsspecRemote, name: str, path: Path, sha256: str) -> bool:
    """Return whether a file elsewhere has the bytes of one that is here.

    Args:
        path: the file here, whose sha256 is `sha256`.

    Raises:
        StoreError: the file cannot be read.
    """
    size = path.stat().st_size
    found = remote.info(name)
    if found is None or found["size"] != size:
        return False
    if _server_agrees(found, path, sha256):
        return True
    digest = hashlib.sha256()
    for begin in range(0, size, _BLOCK):
        digest.update(read_range(remote, name, begin, min(begin + _BLOCK, size), size))
    return digest.hexdigest() == sha256


def _server_agrees(found: dict[str, Any], path: Path, sha256: str) -> bool:
    """Return whether a checksum of the server fits. If not, nothing is known: it may be of another kind."""
    of_hub = found.get("lfs")
    if of_hub:
        return bool(of_hub["sha256"] == sha256)
    if found.get("md5Hash"):
        return base64.b64encode(_md5(path)).decode() == found["md5Hash"]
    etag = str(found.get("ETag", "")).strip('"')
    digest, dash, _ = etag.partition("-")
    if len(digest) != 32:
        return False
    if not dash:
        return _md5(path).hex() == digest
    parts = list(_md5_of_parts(path))
    whole = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return etag == f"{whole}-{len(parts)}"


def _md5(path: Path) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with open_plain(path) as file:
        while block := file.read(_PIECE):
            digest.update(block)
    return digest.digest()


def _md5_of_parts(path: Path) -> Iterator[bytes]:
    with open_plain(path) as file:
        while block := file.read(UPLOAD_PART):
            yield hashlib.md5(block, usedforsecurity=False).digest()


def check_arrival(remote: FsspecRemote, name: str, path: Path, sha256: str) -> None:
    """Make sure that an uploaded file is there as it was sent.

    Raises:
        StoreError: it is not.
    """
    if not has_arrived(remote, name, path, sha256):
        raise StoreError(
            f"{remote.url}: {name} did not arrive as it was sent, so it was not put into the index. Run the "
            "same command again: it is uploaded anew."
        )
