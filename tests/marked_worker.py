"""A decoding process that does itself harm on files whose name says so: `die_<when>_<how>_<number>.mp4`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from extract import worker

WHEN = ("open", "middle", "end")
HOW = ("segv", "kill", "exception", "hang")


class _MarkedVideo(worker.Video):
    def __init__(self, *arguments: Any, **more: Any) -> None:
        _, self._when, self._how, *_ = [*arguments[0].stem.split("_"), "", "", ""]
        self._harm("open")
        super().__init__(*arguments, **more)

    def frames(self) -> Iterator[np.ndarray]:
        for number, image in enumerate(super().frames()):
            if number == 9:
                self._harm("middle")
            yield image

    def source(self) -> Any:
        self._harm("end")
        return super().source()

    def _harm(self, when: str) -> None:
        if when != self._when:
            return
        if self._how == "hang":
            time.sleep(3600)
        if self._how == "exception":
            raise RuntimeError("harm was asked for")
        os.kill(os.getpid(), signal.SIGSEGV if self._how == "segv" else signal.SIGKILL)


def serve(*arguments: Any) -> None:
    worker.Video = _MarkedVideo  # type: ignore[misc]
    worker.serve(*arguments)


def harmless(*arguments: Any) -> None:
    """Every second process is killed before it is ready."""
    if os.getpid() % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    worker.serve(*arguments)


def never_ready(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
