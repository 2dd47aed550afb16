"""The decoding process: takes videos one by one and fills the slots of its ring with their frames.

It says `ready` once, then for each video `opened`, `frames` for every slot that it filled, and `done` or
`error`; or `restart` where decord turned out to make frames up and PyAV must begin again. Whatever a
file does to a library, an exception ends that video and not the process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from extract.by_decord import Inexact
from extract.decode import FrameOptions, SourceFacts, Video
from extract.ring import SLOT_FRAMES, open_ring
from store.errors import DecodeError
from store.machine import die_with_parent


def serve(pipe: Connection, ring: str, shape: tuple[int, ...], options: FrameOptions) -> None:
    """Decode what the other end of the pipe asks for, until it is closed."""
    die_with_parent()
    try:
        import av  # noqa: F401 - both here, so that a broken installation stops the run at once
        import decord  # noqa: F401
    except Exception as error:
        pipe.send(("broken", f"{type(error).__name__}: {error}"))
        return
    log = _redirect_libraries()
    slots_SFHWC, beats = open_ring(ring, shape)

    def tick() -> None:
        beats[0] += 1

    worker = _Worker(pipe, slots_SFHWC, options, tick, log)
    # The other end has gone: so does this process.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(("ready", None))
        while True:
            worker.answer(*pipe.recv())


class _Worker:
    def __init__(
        self,
        pipe: Connection,
        slots_SFHWC: np.ndarray,
        options: FrameOptions,
        tick: Callable[[], None],
        log: int,
    ) -> None:
        self._pipe, self._slots, self._options = pipe, slots_SFHWC, options
        self._tick, self._log = tick, log
        self._free = set(range(len(slots_SFHWC)))

    def answer(self, kind: str, value: Any) -> None:
        if kind == "slot":
            self._free.add(value)
            return
        path, decoder = value
        try:
            self._pipe.send(("done", self._decode(Path(path), decoder)))
        except Inexact as error:
            self._pipe.send(("restart", str(error)))
        except DecodeError as error:
            self._pipe.send(("error", str(error)))
        except (BrokenPipeError, ConnectionResetError, EOFError):
            raise
        except OSError as error:
            self._pipe.send(("error", error.strerror or str(error)))
        except Exception as error:
            self._pipe.send(("error", f"{type(error).__name__}: {error}"[:300]))

    def _decode(self, path: Path, decoder: str) -> tuple[int, SourceFacts]:
        """Decoded frames and the source of one video whose kept frames went through the ring."""
        video = Video(path, self._options, decoder=decoder, tick=self._tick, log=self._log)
        self._pipe.send(("opened", video.facts))
        images = video.frames()
        while True:
            slot, filled = self._take_slot(), 0
            try:
                for image in itertools.islice(images, SLOT_FRAMES):
                    self._slots[slot, filled] = image
                    filled += 1
            except BaseException:
                self._free.add(slot)
                raise
            if filled:
                self._pipe.send(("frames", (slot, filled)))
            else:
                self._free.add(slot)
            if filled < SLOT_FRAMES:
                return video.decoded_frames, video.source()

    def _take_slot(self) -> int:
        while self._pipe.poll() or not self._free:
            kind, value = self._pipe.recv()
            assert kind == "slot", kind  # a video is only sent to an idle process
            self._free.add(value)
        return self._free.pop()


def _redirect_libraries() -> int:
    """Lead descriptor 2, to which libraries write about every bad file, to a file, and return that.

    Tracebacks of our own still reach the old one.
    """
    sys.stderr = os.fdopen(os.dup(2), "w")
    log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
    os.dup2(log.fileno(), 2)
    return os.dup(2)
