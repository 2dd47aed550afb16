"""Memory that one decoding process shares with the run: slots of frames, and a count of its heartbeats.

A ring belongs to one process from its start to its end and is never handed on. A view of a slot therefore
stays true after its process has died, whatever its successor decodes: that one has memory of its own.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import tempfile

import numpy as np

SLOT_FRAMES = 8
_HEADER_BYTES = 4096


class Ring:
    """The run's side: (slots, SLOT_FRAMES, crop, crop, 3) uint8 in a file that the process opens by `path`.

    On Linux with /proc the file exists in memory only: /dev/shm is 64 MB in a default container, and
    writing beyond that kills the process. Elsewhere it is a temporary file.
    """

    def __init__(self, slots: int, crop: int) -> None:
        self.shape = (slots, SLOT_FRAMES, crop, crop, 3)
        size = _HEADER_BYTES + int(np.prod(self.shape))
        if sys.platform == "linux" and os.path.isdir("/proc/self/fd"):
            self._file = os.memfd_create("frames")
            self.path = f"/proc/{os.getpid()}/fd/{self._file}"
            self._name = None
        else:
            self._file, self._name = tempfile.mkstemp(prefix="frames")
            self.path = self._name
        os.ftruncate(self._file, size)
        self._map = mmap.mmap(self._file, size)
        self._slots, self._beats = _views(self._map, self.shape)

    def slot(self, number: int, frames: int) -> np.ndarray:
        """A view of the first frames of a slot, (frames, crop, crop, 3)."""
        return self._slots[number, :frames]

    def beats(self) -> int:
        """How often the process has shown that it makes progress."""
        return int(self._beats[0])

    def close(self) -> None:
        """Let go of the file; its memory goes with the last view of it."""
        del self._slots, self._beats
        with contextlib.suppress(BufferError):  # a view is still alive: the memory goes with it
            self._map.close()
        os.close(self._file)
        if self._name is not None:
            os.unlink(self._name)


def open_ring(path: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The process's side: the slots, and the count of heartbeats (1,) that it raises."""
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), _HEADER_BYTES + int(np.prod(shape)))
    return _views(memory, shape)


def _views(memory: mmap.mmap, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    slots = np.frombuffer(memory, np.uint8, int(np.prod(shape)), _HEADER_BYTES)
    return slots.reshape(shape), np.frombuffer(memory, np.uint64, 1)
