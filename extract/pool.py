"""Decoder processes, watched.

A decoder can loop forever, holding its process, or crash on a bad file. So each lives in a spawned process
(`extract/worker.py`); this side keeps a deadline for each, replaces one that hangs or dies, tries its video
once more, and then reports the failure. Frames cross in shared memory (`extract/ring.py`): every process
has a few slots of its own and waits when all are full, so memory stays flat however long a video is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from extract.decode import FrameOptions, SourceFacts, VideoFacts
from extract.ring import SLOT_FRAMES, Ring
from extract.worker import serve
from store.errors import DecodeError

_MOST_FAILED_STARTS = 3
_SECONDS_TO_START = 60.0


@dataclass(eq=False)
class Attempt:
    """One try at one video."""

    video: str
    path: Path
    number: int = 1
    decoder: str = "auto"
    """See `Video`."""
    facts: VideoFacts | None = None
    decoded_frames: int = 0
    source: SourceFacts | None = None


@dataclass(frozen=True)
class Opened:
    """The video is open; `attempt.facts` is set."""

    attempt: Attempt


@dataclass(frozen=True)
class Frames:
    """Frames (F, crop, crop, 3) uint8, in order. The array is only valid until the next event."""

    attempt: Attempt
    images: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """All frames were given; the attempt's counts and source are set."""

    attempt: Attempt


@dataclass(frozen=True)
class Broken:
    """The attempt gave up. What it gave so far must be forgotten; `again`: it will be tried once more."""

    attempt: Attempt
    reason: str
    again: bool


@dataclass(frozen=True)
class Restarted:
    """decord made frames up. What the attempt gave must be forgotten; PyAV reads the video anew."""

    attempt: Attempt


Event = Opened | Frames | Decoded | Broken | Restarted


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Connection
    ring: Ring
    free: set[int]
    attempt: Attempt | None = None
    ready: bool = False
    alive: bool = True
    beats: int = 0
    since: float = field(default_factory=time.monotonic)
    """When it last made progress, or was last given a slot."""
    spoke: float = field(default_factory=time.monotonic)
    """When its last message came."""


_Gathered = tuple[Event, tuple[_Worker, int] | None]
"""An event, and the slot that is free again once the event was dealt with."""


class DecoderPool:
    """Iterating gives the events of all videos; those of one video are in order.

    Args:
        videos: ids and paths; taken one by one as processes come free.
        workers: number of processes.
        ring_frames: frames that a process may decode ahead of the consumer.
        take_turns: give slots back only when all processes stand still. Where the consumer needs all
            cores (a backbone on the CPU), decoding beside it costs far more than it saves.
        deadline: seconds without progress (a packet, a frame, a block read) of a process that has work
            and room.
        decoders: ids of videos that a certain decoder must read -> "pyav".
        stopped: asked between events; once true, iteration ends.

    Raises:
        DecodeError: processes do not start, several times in a row.
    """

    def __init__(
        self,
        videos: Iterable[tuple[str, Path]],
        options: FrameOptions,
        *,
        workers: int,
        ring_frames: int = 128,
        take_turns: bool = False,
        deadline: float = 120.0,
        decoders: Mapping[str, str] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        chosen = decoders or {}
        self._todo = (
            Attempt(video, path, decoder=chosen.get(video, "auto")) for video, path in videos
        )
        self._again: deque[Attempt] = deque()
        self._options, self._deadline, self._stopped = options, deadline, stopped
        self._take_turns = take_turns
        self._slots = max(2, ring_frames // SLOT_FRAMES)
        self._workers: list[_Worker] = []
        self._wanted = workers
        self._failed_starts = 0
        self.waited = 0.0
        """Seconds spent here, waiting for frames."""

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._end(worker)

    def __iter__(self) -> Iterator[Event]:
        while self._feed() and not self._stopped():
            begin = time.monotonic()
            gathered = self._gather()
            self.waited += time.monotonic() - begin
            for event, slot in gathered:
                if self._stopped():
                    return
                yield event
                if slot is not None and not self._take_turns:
                    self._release(*slot)
            if self._take_turns:
                for _, slot in gathered:
                    if slot is not None:
                        self._release(*slot)

    def _feed(self) -> bool:
        """Give idle processes work; False when there is none left anywhere."""
        for place in range(self._wanted):
            idle = place >= len(self._workers) or self._workers[place].attempt is None
            if not idle:
                continue
            attempt = self._again.popleft() if self._again else next(self._todo, None)
            if attempt is None:
                break
            if place >= len(self._workers):
                self._workers.append(self._spawn())
            self._assign(self._workers[place], attempt)
        return any(worker.attempt for worker in self._workers)

    def _assign(self, worker: _Worker, attempt: Attempt) -> None:
        worker.attempt = attempt
        worker.since = worker.spoke = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # its end is noticed when it is read from
            worker.pipe.send(("video", (str(attempt.path), attempt.decoder)))

    def _gather(self) -> list[_Gathered]:
        """Messages of one round; with `take_turns`, of as many rounds as fill the rings."""
        gathered: list[_Gathered] = []
        while not self._stopped():
            busy = {w.pipe: place for place, w in enumerate(self._workers) if w.attempt}
            for pipe in wait(list(busy), timeout=0.2):
                gathered += self._read(busy[pipe])  # type: ignore[index]
            for place in busy.values():
                gathered += self._check_deadline(place)
            if not self._take_turns and gathered:
                break
            if self._take_turns:
                working = self._feed()
                now = time.monotonic()
                if gathered and all(not w.free or now - w.spoke > 1 for w in self._busy()):
                    break
                if not working:
                    break
        return gathered

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.attempt]

    def _read(self, place: int) -> list[_Gathered]:
        worker = self._workers[place]
        attempt = worker.attempt
        assert attempt is not None
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            return self._replace(place, *_how_it_ended(worker.process.exitcode))
        worker.since = worker.spoke = time.monotonic()
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
            return []
        if kind == "broken":
            raise DecodeError(f"The decoders do not start: {value}")
        if kind == "opened":
            attempt.facts = value
            return [(Opened(attempt), None)]
        if kind == "frames":
            slot, count = value
            worker.free.discard(slot)
            return [(Frames(attempt, worker.ring.slot(slot, count)), (worker, slot))]
        if kind == "restart":
            anew = Attempt(attempt.video, attempt.path, attempt.number, "pyav")
            self._assign(worker, anew)
            return [(Restarted(attempt), None)]
        worker.attempt = None
        if kind == "done":
            attempt.decoded_frames, attempt.source = value
            return [(Decoded(attempt), None)]
        return [(self._give_up(attempt, value, attempt.decoder), None)]

    def _check_deadline(self, place: int) -> list[_Gathered]:
        worker = self._workers[place]
        now, beats = time.monotonic(), worker.ring.beats()
        if beats != worker.beats:
            worker.beats, worker.since = beats, now
        deadline = self._deadline if worker.ready else max(self._deadline, _SECONDS_TO_START)
        waits = not worker.attempt or not worker.free or worker.pipe.poll()
        if waits or now - worker.since < deadline:
            return []
        reason = f"the decoder made no progress for {deadline:.0f} s and was stopped"
        return self._replace(place, reason, "pyav")

    def _replace(self, place: int, reason: str, decoder: str) -> list[_Gathered]:
        """End a process and start another; `decoder` is for the second try at its video."""
        worker = self._workers[place]
        attempt = worker.attempt
        assert attempt is not None
        self._end(worker)
        if not worker.ready:  # it has not touched its video
            self._failed_starts += 1
            if self._failed_starts == _MOST_FAILED_STARTS:
                raise DecodeError(
                    f"The decoders do not start: {reason}, {_MOST_FAILED_STARTS} times in a row. What is "
                    "complete is kept; run the same command again when the machine is less busy."
                )
            self._workers[place] = self._spawn()
            self._assign(self._workers[place], attempt)
            return []
        self._workers[place] = self._spawn()
        return [(self._give_up(attempt, reason, decoder), None)]

    def _give_up(self, attempt: Attempt, reason: str, decoder: str) -> Broken:
        again = attempt.number == 1
        if again:
            self._again.append(Attempt(attempt.video, attempt.path, 2, decoder))
        return Broken(attempt, reason, again)

    def _release(self, worker: _Worker, slot: int) -> None:
        if not worker.alive:
            return
        worker.free.add(slot)
        worker.since = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(("slot", slot))

    def _spawn(self) -> _Worker:
        # Spawn, never fork: a decord reader hung after a fork, and CUDA forbids it.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        ring = Ring(self._slots, self._options.crop)
        arguments = (theirs, ring.path, ring.shape, self._options)
        process = context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, ring, set(range(self._slots)))

    def _end(self, worker: _Worker) -> None:
        if not worker.alive:
            return
        worker.alive = False
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        worker.ring.close()


def _how_it_ended(exit_code: int | None) -> tuple[str, str]:
    """In words, and the decoder for the second try: decord's crashes are not tried twice."""
    if exit_code is None or exit_code >= 0:
        return f"the decoder died (exit code {exit_code})", "pyav"
    killed_from_outside = -exit_code in (signal.SIGKILL, signal.SIGTERM)
    known = {int(number): number.name for number in signal.Signals}
    how = f"the decoder crashed ({known.get(-exit_code, f'signal {-exit_code}')})"
    return how, "auto" if killed_from_outside else "pyav"
