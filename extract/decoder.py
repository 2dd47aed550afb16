"""One decoding process as the run sees it: started, given videos and room, timed, ended.

A decoder can loop forever, holding its process, or crash on a bad file. So it lives in a spawned process
(`extract/worker.py`), which shows by its heartbeats that it makes progress and can be killed at any moment.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from extract.decode import FrameOptions
from extract.ring import Ring
from extract.worker import serve

_SECONDS_TO_START = 60.0


class DecoderProcess:
    """A process that decodes one video at a time into its own ring of slots.

    Attributes:
        pipe: where its messages come from, see `extract/worker.py`.
        free: slots that it may fill.
        ready: whether it has said that its libraries are loaded.
        spoke: when its last message came (monotonic seconds).

    Args:
        slots: how many slots of frames it may decode ahead of the consumer.
    """

    def __init__(self, options: FrameOptions, slots: int) -> None:
        # Spawn, never fork: a decord reader hung after a fork, and CUDA forbids it.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._ring = Ring(slots, options.crop)
        arguments = (theirs, self._ring.path, self._ring.shape, options)
        self.process: Any = context.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.free = set(range(slots))
        self.ready = False
        self._alive = True
        self._beats = 0
        self.spoke = self._since = time.monotonic()

    def decode(self, path: Path, decoder: str) -> None:
        """Give it a video; its end, should it have died, is noticed when it is read from."""
        self.spoke = self._since = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(("video", (str(path), decoder)))

    def receive(self) -> tuple[str, Any]:
        """Its next message: kind and value.

        Raises:
            EOFError, ConnectionResetError: it has ended; see `how_it_ended`.
        """
        kind, value = self.pipe.recv()
        self.spoke = self._since = time.monotonic()
        if kind == "ready":
            self.ready = True
        elif kind == "frames":
            self.free.discard(value[0])
        return kind, value

    def frames(self, slot: int, count: int) -> np.ndarray:
        """A view of the first frames of a slot, (count, crop, crop, 3) uint8."""
        return self._ring.slot(slot, count)

    def release(self, slot: int) -> None:
        """Give a slot back to be filled again."""
        if not self._alive:
            return
        self.free.add(slot)
        self._since = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(("slot", slot))

    def overdue(self, deadline: float) -> float:
        """The seconds that it was given, if it has room and made no progress for so long; else 0.

        It gets longer to start: importing the libraries shows no heartbeat.
        """
        now, beats = time.monotonic(), self._ring.beats()
        if beats != self._beats:
            self._beats, self._since = beats, now
        limit = deadline if self.ready else max(deadline, _SECONDS_TO_START)
        waits = not self.free or self.pipe.poll()
        return 0.0 if waits or now - self._since < limit else limit

    def how_it_ended(self) -> tuple[str, str]:
        """In words, and the decoder for the second try: decord's crashes are not tried twice."""
        self.process.join()
        exit_code = self.process.exitcode
        if exit_code is None or exit_code >= 0:
            return f"the decoder died (exit code {exit_code})", "pyav"
        killed_from_outside = -exit_code in (signal.SIGKILL, signal.SIGTERM)
        known = {int(number): number.name for number in signal.Signals}
        how = f"the decoder crashed ({known.get(-exit_code, f'signal {-exit_code}')})"
        return how, "auto" if killed_from_outside else "pyav"

    def end(self) -> None:
        """Kill it and let its memory go, which lives on with the last view of a slot."""
        if not self._alive:
            return
        self._alive = False
        self.process.kill()
        self.process.join()
        self.pipe.close()
        self._ring.close()
