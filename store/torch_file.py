"""One tensor in a file of `torch.save`, read and written without torch.

Both of torch's formats are read: the legacy one (several pickles, then the numbers) and the archive of
torch 1.6 and later (a ZIP with `data.pkl` and `data/0`). Written is the legacy one, which every version
of torch reads. The pickles go through `store/safe_pickle.py`, which admits as little as
`torch.load(weights_only=True)`, and take less than half of its time (benchmarks/README.md).
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from store.errors import StoreError, shortened
from store.safe_pickle import ADMITTED, PickledArray, SafeUnpickler, array_of

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ARCHIVE_END, _ARCHIVE64_PLACE, _ARCHIVE64_END = b"PK\5\6", b"PK\6\7", b"PK\6\6"
_DTYPES = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
}


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


class _TensorUnpickler(SafeUnpickler):
    admitted: ClassVar[Mapping[tuple[str, str], Any]] = {
        **ADMITTED,
        ("torch._utils", "_rebuild_tensor"): _rebuild,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    }

    def persistent_load(self, pid: Any) -> _Storage:
        """Return what stands for the numbers of a tensor, which lie elsewhere in the file."""
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or dtype not in _DTYPES.values() or view not in ([], [None]):
            raise pickle.UnpicklingError("it holds a tensor of another kind than float numbers")
        return _Storage(dtype, str(key), int(numel))


def read_tensor(data: bytes, what: str) -> np.ndarray:
    """Return the tensor (or numpy array) of a file of `torch.save`, of its own float type.

    Args:
        data: all bytes of the file.
        what: its name, for messages.

    Raises:
        StoreError: it is no such file, is damaged or cut off, or holds something else.
    """
    if not data:
        raise StoreError(f"{what} is empty (0 bytes).")
    try:
        if data.startswith(b"PK"):
            return _from_archive(data)
        return _from_legacy(data)
    except Exception as error:  # damaged bytes raise errors of nearly any type
        text = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise StoreError(f"{what} is no tensor of torch.save, or is damaged: {text}.") from error


def _from_legacy(data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    if _TensorUnpickler(file).load() != _MAGIC or _TensorUnpickler(file).load() != _PROTOCOL:
        raise ValueError("it does not begin as such a file does")
    system = _TensorUnpickler(file).load()
    if not system.get("little_endian", True):
        raise ValueError("its numbers are big-endian")
    found = _TensorUnpickler(file, encoding="latin1").load()
    keys = _TensorUnpickler(file).load()
    if isinstance(found, PickledArray):
        return array_of(found, "it")
    storage = _storage_of(found)
    if keys != [storage.key]:
        raise ValueError("it holds more than one tensor")
    begin = file.tell() + 8
    (numel,) = struct.unpack("<q", data[begin - 8 : begin])
    if numel != storage.numel:
        raise ValueError("it contradicts itself about the number of its values")
    return _values(found, data[begin:])


def _from_archive(data: bytes) -> np.ndarray:
    members = _members(data)
    top = next((name[: -len("data.pkl")] for name in members if name.endswith("data.pkl")), None)
    if top is None:
        raise ValueError("the archive has no data.pkl")
    if f"{top}byteorder" in members and _member(data, members[f"{top}byteorder"]) != b"little":
        raise ValueError("its numbers are big-endian")
    found = _TensorUnpickler(
        io.BytesIO(_member(data, members[f"{top}data.pkl"])), encoding="latin1"
    ).load()
    if isinstance(found, PickledArray):
        return array_of(found, "it")
    place = members.get(f"{top}data/{_storage_of(found).key}")
    if place is None:
        raise ValueError("the archive lacks the numbers")
    return _values(found, _member(data, place))


def _storage_of(found: Any) -> _Storage:
    if not isinstance(found, _Tensor) or not isinstance(found.storage, _Storage):
        raise ValueError(f"it holds {shortened(type(found).__name__)} and not one tensor")
    return found.storage


def _values(tensor: _Tensor, data: bytes) -> np.ndarray:
    """Return a tensor's values; the storage may be that of a whole video, of which it is a row."""
    storage, dtype = tensor.storage, np.dtype(tensor.storage.dtype)
    numbers = (tensor.offset, *tensor.size, *tensor.stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(tensor.size) != len(
        tensor.stride
    ):
        raise ValueError("its shape is not valid")
    if storage.numel < 0 or len(data) < storage.numel * dtype.itemsize:
        raise ValueError(f"it ends early, after {len(data):,} bytes of its numbers")
    count = math.prod(tensor.size)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.size, tensor.stride))
    if count > storage.numel or (count and last >= storage.numel):
        raise ValueError("its shape reaches beyond its numbers")
    flat = np.frombuffer(data, dtype, storage.numel)[tensor.offset :]
    if tensor.stride == (1,):
        return flat[:count]
    strides = tuple(s * dtype.itemsize for s in tensor.stride)
    return np.lib.stride_tricks.as_strided(flat, tensor.size, strides, writeable=False)


@dataclass(frozen=True)
class _Place:
    begin: int
    """Of the local header."""
    size: int
    crc32: int
    method: int


def _members(data: bytes) -> Mapping[str, _Place]:
    """Return the members of a ZIP archive by name; `zipfile` takes much longer for it."""
    end = data.rfind(_ARCHIVE_END, max(0, len(data) - 66_000))
    if end < 0:
        raise ValueError("the archive is cut off")
    count, _, position, comment = struct.unpack_from("<HIIH", data, end + 10)
    if len(data) != end + 22 + comment:
        raise ValueError("the archive is cut off")
    if data[end - 20 : end - 16] == _ARCHIVE64_PLACE:
        (end64,) = struct.unpack_from("<Q", data, end - 12)
        if data[end64 : end64 + 4] != _ARCHIVE64_END:
            raise ValueError("the archive is damaged")
        count, _, position = struct.unpack_from("<QQQ", data, end64 + 32)
    members = {}
    for _ in range(count):
        if data[position : position + 4] != b"PK\1\2":
            raise ValueError("the archive is damaged")
        method, crc32, size = struct.unpack_from("<H4xII", data, position + 10)
        name, extra, comment = struct.unpack_from("<HHH", data, position + 28)
        (begin,) = struct.unpack_from("<I", data, position + 42)
        text = data[position + 46 : position + 46 + name].decode("utf-8", "replace")
        members[text] = _Place(begin, size, crc32, method)
        position += 46 + name + extra + comment
    return members


def _member(data: bytes, place: _Place) -> bytes:
    if place.method or data[place.begin : place.begin + 4] != b"PK\3\4":
        raise ValueError("the archive is damaged")
    name, extra = struct.unpack_from("<HH", data, place.begin + 26)
    begin = place.begin + 30 + name + extra
    found = data[begin : begin + place.size]
    if len(found) != place.size or zlib.crc32(found) != place.crc32:
        raise ValueError("its bytes are not those that were written")
    return found


_HEAD = b"".join(
    pickle.dumps(part, 2)
    for part in (
        _MAGIC,
        _PROTOCOL,
        {
            "protocol_version": _PROTOCOL,
            "little_endian": True,
            "type_sizes": {"short": 2, "int": 4, "long": 4},
        },
    )
)
_KEYS = pickle.dumps(["0"], 2)


def tensor_bytes(row_D: np.ndarray) -> bytes:
    """Return the file that `torch.save` writes in its legacy format for a float32 vector (D,).

    The file holds the row alone: `torch.save(features[3])` of a tensor writes the whole of `features`.
    """
    values = np.ascontiguousarray(row_D, "<f4")
    numel = struct.pack("<i", len(values))
    tensor = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
        b"X\x01\0\0\x000X\x03\0\0\0cpuJ" + numel + b"NtQK\0J" + numel + b"\x85K\x01\x85\x89"
        b"ccollections\nOrderedDict\n)RtR."
    )
    return b"".join((_HEAD, tensor, _KEYS, struct.pack("<q", len(values)), values.tobytes()))
