"""Reading pickles of other people: arrays, numbers, texts and plain containers, and nothing else.

A pickle is a program, and Python's own reader runs it. Here only the names below are admitted, and each
means a function of this module, so that no code of anybody else runs and no memory is taken on trust. An
array is read as a `PickledArray`; `array_of` gives its values.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from store.errors import StoreError, shortened

_PLAIN_KINDS = "fiubSU"


class PickledArray:
    """A numpy array as its pickle describes it; nothing is checked before `array_of` asks for its values."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)


class PickledDtype:
    """A numpy number type as its pickle describes it."""

    def __init__(self, text: Any, *_: Any) -> None:
        self.text, self.order = str(text), "<"

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def plain(self) -> np.dtype[Any]:
        """Return the type.

        Raises:
            ValueError: it is none of numbers or text.
        """
        dtype = np.dtype(self.text)
        if dtype.kind not in _PLAIN_KINDS:
            raise ValueError(f"arrays of type {shortened(self.text)} are not read")
        return dtype.newbyteorder(">" if self.order == ">" else "<")


class _ArrayType:
    """What `numpy.ndarray` means: only `_reconstruct` takes it, and nothing can be made of it."""


def _reconstruct(*_: Any) -> PickledArray:
    return PickledArray()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", bytes(data)))
    return array


def _scalar(dtype: PickledDtype, data: bytes = b"") -> Any:
    return np.frombuffer(_as_bytes(data), dtype.plain(), 1)[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What Python 2's protocol makes of bytes."""
    if encoding != "latin1":
        raise ValueError(f"text in {shortened(str(encoding))} is not read")
    return str(text).encode("latin1")


ADMITTED: Mapping[tuple[str, str], Any] = {
    **{
        (f"numpy.{core}.{part}", name): made
        for core in ("core", "_core")
        for part, name, made in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): PickledDtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class SafeUnpickler(pickle.Unpickler):
    """Reads one pickle of a stream; every name in it must be admitted."""

    admitted: ClassVar[Mapping[tuple[str, str], Any]] = ADMITTED

    def find_class(self, module: str, name: str) -> Any:
        """Return what an admitted name means here.

        Raises:
            UnpicklingError: it is not admitted.
        """
        try:
            return self.admitted[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {shortened(f'{module}.{name}')}, and only arrays, numbers, texts and plain "
                "containers are read; a pickle that asks for more could run code"
            ) from None


def load_pickle(data: bytes, what: str) -> Any:
    """Return what a pickle holds.

    Args:
        what: where it stands, for messages.

    Raises:
        StoreError: it is damaged, or asks for something that is not admitted.
    """
    return unpickled(SafeUnpickler(io.BytesIO(data), encoding="latin1"), what)


def unpickled(unpickler: SafeUnpickler, what: str) -> Any:
    """Return what an unpickler reads; see `load_pickle`."""
    try:
        return unpickler.load()
    except Exception as error:  # a damaged pickle raises errors of nearly any type
        raise StoreError(f"{what} cannot be read as a pickle: {_reason(error)}.") from error


def array_of(value: Any, what: str) -> np.ndarray:
    """Return the values of an array in a pickle; an array of objects must hold arrays of one shape.

    Raises:
        StoreError: it is no array of numbers or texts, or contradicts itself.
    """
    try:
        return _values(value)
    except Exception as error:  # its state may be anything
        raise StoreError(f"{what} is no array of numbers: {_reason(error)}.") from error


def items_of(value: Any, what: str) -> list[Any]:
    """Return the items of a list, a tuple or an array (of texts, of objects, or of rows).

    Raises:
        StoreError: it is none of these.
    """
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, PickledArray) and len(value.state) == 5:
        raw = value.state[4]
        if isinstance(raw, list):
            return list(raw)
    found = array_of(value, what)
    return found.tolist() if found.dtype.kind in "SU" else list(found)


def _values(value: Any) -> np.ndarray:
    if isinstance(value, list | tuple):
        return np.stack([_values(item) for item in value])
    if isinstance(value, int | float):
        return np.array(value)
    if isinstance(value, np.generic):
        return np.asarray(value)
    if not isinstance(value, PickledArray):
        raise ValueError(f"it holds a {type(value).__name__}")
    _, shape, dtype, fortran, raw = value.state
    if isinstance(raw, list):
        return _values(raw)
    plain, data = dtype.plain(), _as_bytes(raw)
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("its shape is not valid")
    if math.prod(shape) * plain.itemsize != len(data):
        raise ValueError(f"its shape is {shape}, but it has {len(data):,} bytes")
    return np.frombuffer(data, plain).reshape(shape, order="F" if fortran else "C")


def _as_bytes(raw: Any) -> bytes:
    return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
