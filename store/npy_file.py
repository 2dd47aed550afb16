"""Arrays in .npy, .npz and .csv files of other programs, read without running anything in them."""

from __future__ import annotations

import csv
import io
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from store.errors import StoreError
from store.safe_pickle import array_of, items_of, load_pickle

_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a file that a user names; links are followed, as caches of hubs use them.

    Raises:
        StoreError: it is absent, no plain file (a pipe would never end), or unreadable.
    """
    name = os.path.basename(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{name} is no plain file.")
            return file.read()
    except OSError as error:
        raise StoreError(f"{name} cannot be read ({error.strerror or error}).") from error
    except MemoryError as error:
        raise StoreError(f"{name} does not fit into memory.") from error


def parse_npy(data: bytes, what: str) -> np.ndarray:
    """Return the array of a .npy file; one of objects must hold arrays or texts of one shape.

    Raises:
        StoreError: it is no such file, is cut off, or its pickle asks for what is not admitted.
    """
    found = _parse(data, what)
    if isinstance(found, np.ndarray):
        return found
    return array_of(found, what)


def parse_texts(data: bytes, what: str) -> list[str]:
    """Return the texts of a .npy file, of type text or of objects.

    Raises:
        StoreError: as `parse_npy`, or they are no texts.
    """
    found = _parse(data, what)
    items = found.tolist() if isinstance(found, np.ndarray) else items_of(found, what)
    return texts_of(items, what)


def texts_of(items: object, what: str) -> list[str]:
    """Return a list of names; bytes are read as UTF-8.

    Raises:
        StoreError: they are no list of texts.
    """
    if not isinstance(items, list):
        raise StoreError(f"{what} is no list of names.")
    texts = [x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in items]
    if not all(isinstance(text, str) for text in texts):
        raise StoreError(f"{what} is no list of names.")
    return [str(text) for text in texts]


def _parse(data: bytes, what: str) -> Any:
    """Return an array, or what the pickle of an array of objects describes."""
    if not data:
        raise StoreError(f"{what} is empty (0 bytes).")
    try:
        return _parsed(data, what)
    except StoreError:
        raise
    except Exception as error:  # damaged headers raise errors of many types
        raise StoreError(f"{what} is no .npy file, or its header is damaged.") from error


def _parsed(data: bytes, what: str) -> Any:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    shape, fortran, dtype = _HEADER_READERS[version](file)
    if dtype.hasobject:
        return load_pickle(data[file.tell() :], what)
    size = math.prod(shape) * dtype.itemsize
    if any(n < 0 for n in shape) or len(data) - file.tell() != size:
        raise StoreError(
            f"{what} has {len(data) - file.tell():,} bytes of numbers, and an array of shape {shape} and "
            f"type {dtype} has {size:,}: it is cut off or damaged."
        )
    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if fortran else "C")


class Archive:
    """The arrays of a .npz file, by name; each is read when it is asked for.

    Raises:
        StoreError: it is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
        self.names = [name.removesuffix(".npy") for name in names]
        if len(set(self.names)) < len(self.names):
            raise StoreError(f"{path.name} holds two arrays of one name.")

    def _open(self) -> zipfile.ZipFile:
        try:
            if not self.path.is_file():
                raise StoreError(f"{self.path.name} is no plain file.")
            return zipfile.ZipFile(self.path)
        except StoreError:
            raise
        except Exception as error:  # as in `bytes_of`
            raise StoreError(f"{self.path.name} is no .npz file, or is cut off.") from error

    def bytes_of(self, name: str) -> bytes:
        """Return the .npy file of one array.

        Raises:
            StoreError: it is damaged.
        """
        try:
            with self._open() as archive:
                return archive.read(f"{name}.npy")
        except StoreError:
            raise
        except Exception as error:  # damaged archives raise errors of many types
            raise StoreError(f"{self.path.name}: {name} is damaged.") from error

    def array(self, name: str) -> np.ndarray:
        """Return one array; see `parse_npy`."""
        return parse_npy(self.bytes_of(name), f"{self.path.name}: {name}")


def parse_csv(data: bytes, what: str) -> np.ndarray:
    """Return the numbers of a .csv file, (rows, columns) float32; a first line of names is skipped.

    Names may be numbers: pandas counts columns from 0 and, unless it is told otherwise, puts a column without
    a name before them that counts the rows.

    Raises:
        StoreError: it is no table of numbers, or one of its columns counts the rows.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"))) if row]
        names = rows[0] if rows and _are_names(rows[0]) else []
        with np.errstate(over="ignore"):  # infinity is refused later, by name
            values = np.array(rows[bool(names) :], dtype=np.float64).astype(np.float32)
    except (ValueError, csv.Error, MemoryError) as error:
        raise StoreError(f"{what} is no table of numbers with equally many in each row.") from error
    if values.ndim != 2:
        raise StoreError(f"{what} has no rows.")
    if names[:1] == [""] and np.array_equal(values[:, 0], np.arange(len(values))):
        raise StoreError(
            f"{what} has a first column without a name that counts the rows, which is no feature. Write the "
            "table without it (in pandas: to_csv(..., index=False))."
        )
    return values


def _are_names(row: list[str]) -> bool:
    """Return whether a first line names the columns: by words, or by counting three or more from 0."""
    return not _is_number(row[0]) or (len(row) > 2 and row == [str(n) for n in range(len(row))])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
