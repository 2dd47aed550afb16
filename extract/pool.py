"""A pool of decoding processes: videos in, events out; what hangs or dies is replaced.

The pool keeps a deadline for each process (`extract/decoder.py`), replaces one that hangs or dies, tries its
video once more, and then reports the failure. Frames cross in shared memory (`extract/ring.py`): every
process has a few slots of its own and waits when all are full, so memory stays flat however long a video is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from extract.decode import FrameOptions
from extract.decoder import DecoderProcess
from extract.events import Attempt, Broken, Decoded, Event, Frames, Opened, Restarted
from extract.ring import SLOT_FRAMES
from store.errors import DecodeError

_MOST_FAILED_STARTS = 3


@dataclass(eq=False)
class _Worker:
    """A process, and the video that it works on."""

    process: DecoderProcess
    attempt: Attempt | None = None


_Gathered = tuple[Event, tuple[DecoderProcess, int] | None]
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
            worker.process.end()

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
                    process, number = slot
                    process.release(number)
            if self._take_turns:
                for _, slot in gathered:
                    if slot is not None:
                        process, number = slot
                        process.release(number)

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
                self._workers.append(_Worker(self._start()))
            self._assign(self._workers[place], attempt)
        return any(worker.attempt for worker in self._workers)

    def _start(self) -> DecoderProcess:
        return DecoderProcess(self._options, self._slots)

    def _assign(self, worker: _Worker, attempt: Attempt) -> None:
        worker.attempt = attempt
        worker.process.decode(attempt.path, attempt.decoder)

    def _gather(self) -> list[_Gathered]:
        """Messages of one round; with `take_turns`, of as many rounds as fill the rings."""
        gathered: list[_Gathered] = []
        while not self._stopped():
            busy = {w.process.pipe: place for place, w in enumerate(self._workers) if w.attempt}
            for pipe in wait(list(busy), timeout=0.2):
                gathered += self._read(busy[pipe])  # type: ignore[index]
            for place in busy.values():
                gathered += self._check_deadline(place)
            if not self._take_turns and gathered:
                break
            if self._take_turns:
                working = self._feed()
                now = time.monotonic()
                if gathered and all(not p.free or now - p.spoke > 1 for p in self._busy()):
                    break
                if not working:
                    break
        return gathered

    def _busy(self) -> list[DecoderProcess]:
        return [worker.process for worker in self._workers if worker.attempt]

    def _read(self, place: int) -> list[_Gathered]:
        worker = self._workers[place]
        process, attempt = worker.process, worker.attempt
        assert attempt is not None
        try:
            kind, value = process.receive()
        except (EOFError, ConnectionResetError):
            return self._replace(place, *process.how_it_ended())
        if kind == "ready":
            self._failed_starts = 0
            return []
        if kind == "broken":
            raise DecodeError(f"The decoders do not start: {value}")
        if kind == "opened":
            attempt.facts = value
            return [(Opened(attempt), None)]
        if kind == "frames":
            slot, count = value
            return [(Frames(attempt, process.frames(slot, count)), (process, slot))]
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
        overdue = worker.process.overdue(self._deadline) if worker.attempt else 0.0
        if not overdue:
            return []
        reason = f"the decoder made no progress for {overdue:.0f} s and was stopped"
        return self._replace(place, reason, "pyav")

    def _replace(self, place: int, reason: str, decoder: str) -> list[_Gathered]:
        """End a process and start another; `decoder` is for the second try at its video."""
        worker = self._workers[place]
        attempt = worker.attempt
        assert attempt is not None
        worker.process.end()
        if not worker.process.ready:  # it has not touched its video
            self._failed_starts += 1
            if self._failed_starts == _MOST_FAILED_STARTS:
                raise DecodeError(
                    f"The decoders do not start: {reason}, {_MOST_FAILED_STARTS} times in a row. What is "
                    "complete is kept; run the same command again when the machine is less busy."
                )
            self._workers[place] = _Worker(self._start())
            self._assign(self._workers[place], attempt)
            return []
        self._workers[place] = _Worker(self._start())
        return [(self._give_up(attempt, reason, decoder), None)]

    def _give_up(self, attempt: Attempt, reason: str, decoder: str) -> Broken:
        again = attempt.number == 1
        if again:
            self._again.append(Attempt(attempt.video, attempt.path, 2, decoder))
        return Broken(attempt, reason, again)
