"""A result for every video, gathered batch after batch into one block of memory."""

from __future__ import annotations

import torch
from torch import Tensor

_CPU = torch.device("cpu")


class Rows:
    """One tensor that is filled batch after batch, on the CPU or another device.

    A list of small tensors, each allocated between the large ones of a batch, would keep all of their
    memory apart (see `return_freed_memory`).

    Args:
        count: V, the rows of all batches together.
    """

    def __init__(self, count: int, device: torch.device = _CPU) -> None:
        self._count, self._filled, self._device = count, 0, device
        self._rows: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Take the next rows."""
        if self._rows is None:
            self._rows = torch.empty(
                (self._count, *x.shape[1:]), dtype=x.dtype, device=self._device
            )
        self._rows[self._filled : self._filled + len(x)] = x
        self._filled += len(x)

    def all(self) -> Tensor:
        """Return the tensor, once every row is there."""
        assert self._rows is not None and self._filled == self._count
        return self._rows
