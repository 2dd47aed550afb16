"""What is inside a shard: plain HDF5 datasets with a record each, and nothing that leads elsewhere."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store.errors import StoreError
from store.format import canonical
from store.plain import open_plain
from store.records import VideoRecord, load_json, record_from

_BLOCK = 1 << 24
"""Bytes read in one go, so that a dataset that claims to be huge does not fill the memory."""
_RECORD_BYTES = 1 << 16

UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError)
"""What h5py raises on a file that is damaged, or larger than the memory."""


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, or what kind it is."""
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """HDF5 names damaged metadata in many ways; here they are one StoreError."""
    try:
        yield
    except UNREADABLE as error:
        raise StoreError(
            f"{path} is damaged ({reason_of(error)}). Delete it and run extract again."
        ) from error


def crc32_of(features: np.ndarray) -> str:
    """crc32 of an array's bytes, eight hex digits."""
    return f"{zlib.crc32(np.ascontiguousarray(features).data):08x}"


def open_shard(path: Path) -> h5py.File:
    """A shard for reading.

    Raises:
        StoreError: absent, unreadable, not a plain file, or a link to another folder.
    """
    try:
        open_plain(path).close()
        # Shards never change, so no lock is needed, and NFS without locks works.
        return h5py.File(path, "r", locking=False)
    except UNREADABLE as error:
        raise StoreError(
            f"{path} is no readable shard ({reason_of(error)}). Delete it and run extract again."
        ) from error


def has_config(file: h5py.File, config: Mapping[str, Any]) -> bool:
    """Whether a shard was made with this config."""
    return bool(_text(file.attrs, "config") == canonical(config))


def names_in(file: h5py.File) -> Iterator[str]:
    """Every name in a shard that is no group: data sets, and links, which `plain_dataset` refuses."""
    groups: list[tuple[str, h5py.Group]] = [("", file)]
    seen = {file["/"]}  # a group may contain itself
    while groups:
        prefix, group = groups.pop()
        for name in group:
            inner = isinstance(group.get(name, getlink=True), h5py.HardLink)
            if inner and group.get(name, getclass=True) is h5py.Group:
                if group[name] not in seen:
                    seen.add(group[name])
                    groups.append((f"{prefix}{name}/", group[name]))
            else:
                yield prefix + name


def plain_dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The contiguous float16 matrix `name`.

    Raises:
        StoreError: not there, of another type, anything by which HDF5 can reach outside the file, or
            larger than the file.
    """
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:end]), getlink=True)
        if link is None:
            raise StoreError(f"{path} does not contain {name}, which the index places there.")
        if not isinstance(link, h5py.HardLink):
            raise StoreError(
                f"{path}: {name} is a link, refused: features must lie in the shard itself."
            )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise StoreError(f"{path}: {name} is not a plain dataset, refused.")
    if dataset.dtype != np.float16:
        raise StoreError(f"{path}: {name} has type {dataset.dtype}, expected float16.")
    # A chunked or never written dataset can claim any size: a few bytes could fill the memory.
    offset = dataset.id.get_offset()
    if offset is None:
        raise StoreError(f"{path}: {name} is not stored in one piece, refused.")
    if len(dataset.shape) != 2:
        raise StoreError(f"{path}: {name} has shape {dataset.shape}, expected frames x width.")
    end, size = offset + _bytes_of(dataset), path.stat().st_size
    if end > size:
        raise StoreError(
            f"{path}: {name} claims bytes up to {end:,}, the file has {size:,}; refused."
        )
    return dataset


def record_of(dataset: h5py.Dataset, path: Path) -> VideoRecord:
    """What was written beside a video's features.

    Raises:
        StoreError: no record, one that this version does not know, or one of another video or shard.
    """
    name = dataset.name.removeprefix("/")
    try:
        record = record_from(load_json(_text(dataset.attrs, "record")))
        if not record.stored:
            raise ValueError(f"it says {record.status[:40]}")
        if (record.video, record.shard) != (name, path.name):
            raise ValueError(f"it is that of {record.video[:80]} in {record.shard[:80]}")
    except (*UNREADABLE, AttributeError) as error:
        raise StoreError(
            f"{path}: {name} has no valid record ({reason_of(error)}). "
            "Delete that shard and run extract again."
        ) from error
    return record


def _text(attributes: h5py.AttributeManager, name: str) -> str:
    """A text attribute; of anything else, however large, not a byte is read."""
    found = attributes.get_id(name)
    if found.shape != () or h5py.check_string_dtype(found.dtype) is None:
        raise ValueError(f"{name} is no text")
    if found.get_storage_size() > _RECORD_BYTES:
        raise ValueError(f"{name} is longer than {_RECORD_BYTES:,} bytes")
    value = attributes[name]
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    if len(text) > _RECORD_BYTES:
        raise ValueError(f"{name} is longer than {_RECORD_BYTES:,} letters")
    return text


def records_in(path: Path, config: Mapping[str, Any]) -> dict[str, VideoRecord]:
    """The records of a shard, by video.

    Raises:
        StoreError: unreadable, made with another config, or a dataset that is not as it must be.
    """
    with open_shard(path) as file, readable(path):
        if not has_config(file, config):
            raise StoreError(f"{path} was made with another config. Move it away, then run again.")
        return {name: record_of(plain_dataset(file, name, path), path) for name in names_in(file)}


def values_of(dataset: h5py.Dataset, path: Path) -> Iterator[np.ndarray]:
    """The float16 values of a plain dataset in order, flat, some megabytes at a time.

    Raises:
        StoreError: the file is cut or cannot be read.
    """
    offset, left = dataset.id.get_offset(), _bytes_of(dataset)
    with open_plain(path) as file, readable(path):
        file.seek(offset)
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                raise StoreError(f"{path} ends within {dataset.name.removeprefix('/')}.")
            left -= len(block)
            yield np.frombuffer(block, np.float16, len(block) // 2)


def _bytes_of(dataset: h5py.Dataset) -> int:
    return int(np.dtype(np.float16).itemsize) * int(dataset.shape[0]) * int(dataset.shape[1])
