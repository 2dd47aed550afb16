"""Reading what is inside a shard: plain HDF5 datasets with a record each, and no links to elsewhere."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from store.errors import StoreError
from store.format import canonical, stored_dtype
from store.plain import open_plain
from store.records import REMAKE, VideoRecord, load_json, record_from

_BLOCK = 1 << 24
"""Bytes that are read at a time, so that a dataset that claims to be huge does not fill the memory."""
_RECORD_BYTES = 1 << 16

UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError)
"""What h5py raises if a file is damaged or does not fit into memory."""


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's text, or the name of its type if it has no text."""
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the many errors that HDF5 raises on damaged metadata into a StoreError."""
    try:
        yield
    except UNREADABLE as error:
        raise StoreError(
            f"{path} is damaged ({reason_of(error)}). Delete it and {REMAKE}."
        ) from error


def crc32_of(features: np.ndarray) -> str:
    """Return the crc32 of an array's bytes, eight hex digits."""
    return f"{zlib.crc32(np.ascontiguousarray(features).data):08x}"


def open_shard(path: Path) -> h5py.File:
    """Open a shard for reading.

    Raises:
        StoreError: the shard is absent, unreadable, no plain file, or a link to another folder.
    """
    try:
        open_plain(path).close()
        # Shards never change, so no lock is needed, and an NFS without locks will do.
        return h5py.File(path, "r", locking=False)
    except UNREADABLE as error:
        raise StoreError(
            f"{path} is no readable shard ({reason_of(error)}). Delete it and {REMAKE}."
        ) from error


def has_config(file: h5py.File, config: Mapping[str, Any]) -> bool:
    """Return whether a shard was made with this config."""
    return bool(_text(file.attrs, "config") == canonical(config))


def config_in(file: h5py.File) -> dict[str, Any]:
    """Return the config that a shard was made with, by its own word.

    Raises:
        ValueError: it is no JSON object.
    """
    config = load_json(_text(file.attrs, "config"))
    if not isinstance(config, dict):
        raise ValueError("its config is no JSON object")
    return config


def names_in(file: h5py.File) -> Iterator[str]:
    """Yield every name in a shard that is no group: datasets, and links, which `plain_dataset` refuses."""
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


def plain_dataset(
    file: h5py.File, name: str, path: Path, config: Mapping[str, Any]
) -> h5py.Dataset:
    """Return the contiguous matrix `name`, of the number type that the store's config says.

    Raises:
        StoreError: it is not there, has another type, reaches outside the file in any way that HDF5
            knows, or claims to be larger than the file.
    """
    parts = name.split("/")
    for end in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:end]), getlink=True)
        if link is None:
            raise StoreError(f"{path} does not contain {name}, which the index places there.")
        if not isinstance(link, h5py.HardLink):
            raise StoreError(
                f"{path}: {name} is a link and is refused: features must lie in the shard itself."
            )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise StoreError(f"{path}: {name} is not a plain dataset and is refused.")
    if dataset.dtype != stored_dtype(config):
        raise StoreError(
            f"{path}: {name} has type {dataset.dtype}, expected {stored_dtype(config).name}."
        )
    # A chunked or never written dataset can claim any size: a few bytes could fill the memory.
    offset = dataset.id.get_offset()
    if offset is None:
        raise StoreError(f"{path}: {name} is not stored in one piece and is refused.")
    if len(dataset.shape) != 2:
        raise StoreError(f"{path}: {name} has shape {dataset.shape}, expected frames x width.")
    end, size = offset + _bytes_of(dataset), path.stat().st_size
    if end > size:
        raise StoreError(
            f"{path}: {name} claims bytes up to {end:,}, but the file has {size:,}; it is refused."
        )
    return dataset


def record_of(dataset: h5py.Dataset, path: Path) -> VideoRecord:
    """Return the record that was written beside a video's features.

    Raises:
        StoreError: there is no valid record, or it belongs to another video or shard.
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
            f"Delete that shard and {REMAKE}."
        ) from error
    return record


def _text(attributes: h5py.AttributeManager, name: str) -> str:
    """Read a text attribute. Of anything else, however large, not a byte is read."""
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
    """Return the records of a shard: video -> record.

    Raises:
        StoreError: the shard is unreadable or was made with another config, or a dataset in it is refused.
    """
    with open_shard(path) as file, readable(path):
        if not has_config(file, config):
            raise StoreError(f"{path} was made with another config. Move it away, then run again.")
        return {
            name: record_of(plain_dataset(file, name, path, config), path)
            for name in names_in(file)
        }


def values_of(dataset: h5py.Dataset, path: Path) -> Iterator[np.ndarray]:
    """Yield the values of a plain dataset in order, as flat arrays of some megabytes.

    Raises:
        StoreError: the file ends too early or cannot be read.
    """
    offset, left = dataset.id.get_offset(), _bytes_of(dataset)
    with open_plain(path) as file, readable(path):
        file.seek(offset)
        while left:
            block = file.read(min(left, _BLOCK))
            if not block:
                raise StoreError(f"{path} ends within {dataset.name.removeprefix('/')}.")
            left -= len(block)
            yield np.frombuffer(block, dataset.dtype, len(block) // dataset.dtype.itemsize)


def _bytes_of(dataset: h5py.Dataset) -> int:
    return int(dataset.dtype.itemsize) * int(dataset.shape[0]) * int(dataset.shape[1])
