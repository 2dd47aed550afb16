"""Decoder processes and the ring of frames that they fill.

decord can loop forever, holding its process, or crash on a bad file. So it lives in spawned processes;
this side keeps a deadline for each, replaces one that hangs or dies, tries its video once more, and then
reports the failure. Frames cross in shared memory: every process has a few slots of `SLOT_FRAMES` frames
and waits when all are full, so memory stays flat however long a video is.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from extract.decode import FrameOptions, Video, VideoFacts
from extract.errors import DecodeError
from extract.sources import size_and_sha256_of

SLOT_FRAMES = 8


@dataclass(eq=False)
class Attempt:
    """One try at one video."""

    video: str
    path: Path
    number: int = 1
    facts: VideoFacts | None = None
    decoded_frames: int = 0
    source: tuple[int, str] = (0, "")
    """Bytes and sha256."""


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
    """All frames were given; the attempt's counts and hash are set."""

    attempt: Attempt


@dataclass(frozen=True)
class Broken:
    """The attempt gave up. What it gave so far must be forgotten; `again`: it will be tried once more."""

    attempt: Attempt
    reason: str
    again: bool


Event = Opened | Frames | Decoded | Broken


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Connection
    free: set[int]
    attempt: Attempt | None = None
    ready: bool = False
    since: float = field(default_factory=time.monotonic)
    """When it last said something, or was last given a slot."""


class DecoderPool:
    """Iterating gives the events of all videos; those of one video are in order.

    Args:
        videos: ids and paths; taken one by one as processes come free.
        workers: number of processes.
        ring_frames: frames that a process may decode ahead of the consumer.
        take_turns: give slots back only when all processes stand still. Where the consumer needs all
            cores (a backbone on the CPU), decoding beside it costs far more than it saves.
        deadline: seconds without a word from a process that has work and room.
        stopped: asked between events; once true, iteration ends.

    Raises:
        DecodeError: a process does not start at all.
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
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._todo = (Attempt(video, path) for video, path in videos)
        self._again: deque[Attempt] = deque()
        self._options, self._deadline, self._stopped = options, deadline, stopped
        self._take_turns = take_turns
        self._slots = max(2, ring_frames // SLOT_FRAMES)
        self._shape = (SLOT_FRAMES, options.crop, options.crop, 3)
        self._workers: list[_Worker] = []
        self._wanted = workers
        self._ring = _Ring(workers * self._slots * int(np.prod(self._shape)))
        self.waited = 0.0
        """Seconds spent here, waiting for frames."""

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._ring.close()

    def __iter__(self) -> Iterator[Event]:
        while self._feed() and not self._stopped():
            begin = time.monotonic()
            gathered = self._gather()
            self.waited += time.monotonic() - begin
            for event, release in gathered:
                if self._stopped():
                    return
                yield event
                if release is not None and not self._take_turns:
                    self._release(*release)
            if self._take_turns:
                for _, release in gathered:
                    if release is not None:
                        self._release(*release)

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
                self._workers.append(self._spawn(place))
            worker = self._workers[place]
            worker.attempt, worker.since = attempt, time.monotonic()
            with contextlib.suppress(BrokenPipeError):  # its end is noticed when it is read from
                worker.pipe.send(("video", str(attempt.path)))
        return any(worker.attempt for worker in self._workers)

    def _gather(self) -> list[tuple[Event, tuple[int, _Worker, int] | None]]:
        """Messages of one round; with `take_turns`, of as many rounds as fill the ring."""
        gathered: list[tuple[Event, tuple[int, _Worker, int] | None]] = []
        while not self._stopped():
            busy = {w.pipe: place for place, w in enumerate(self._workers) if w.attempt}
            for pipe in wait(list(busy), timeout=0.2):
                gathered += self._read(busy[pipe])  # type: ignore[index]
            gathered += [e for place in busy.values() for e in self._check_deadline(place)]
            if not self._take_turns and gathered:
                break
            if self._take_turns:
                working = self._feed()
                now = time.monotonic()
                if gathered and all(not w.free or now - w.since > 1 for w in self._busy()):
                    break
                if not working:
                    break
        return gathered

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.attempt]

    def _read(self, place: int) -> list[tuple[Event, tuple[int, _Worker, int] | None]]:
        worker = self._workers[place]
        attempt = worker.attempt
        assert attempt is not None
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            how = _how_it_ended(worker.process.exitcode)
            if not worker.ready:
                raise DecodeError(f"The decoders do not start: {how}") from None
            return [(self._replace(place, how), None)]
        worker.since = time.monotonic()
        if kind == "ready":
            worker.ready = True
            return []
        if kind == "broken":
            raise DecodeError(f"The decoders do not start: {value}")
        if kind == "opened":
            attempt.facts = value
            return [(Opened(attempt), None)]
        if kind == "frames":
            slot, count = value
            worker.free.discard(slot)
            images = self._ring.array(self._offset(place, slot), self._shape)[:count]
            return [(Frames(attempt, images), (place, worker, slot))]
        worker.attempt = None
        if kind == "done":
            attempt.decoded_frames, attempt.source = value
            return [(Decoded(attempt), None)]
        return [(self._give_up(attempt, value), None)]

    def _check_deadline(self, place: int) -> list[tuple[Event, None]]:
        worker = self._workers[place]
        silent = time.monotonic() - worker.since
        if not worker.attempt or not worker.free or silent < self._deadline or worker.pipe.poll():
            return []
        reason = f"the decoder gave no frame for {self._deadline:.0f} s and was stopped"
        return [(self._replace(place, reason), None)]

    def _replace(self, place: int, reason: str) -> Broken:
        worker = self._workers[place]
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        attempt = worker.attempt
        assert attempt is not None
        self._workers[place] = self._spawn(place)
        return self._give_up(attempt, reason)

    def _give_up(self, attempt: Attempt, reason: str) -> Broken:
        again = attempt.number == 1
        if again:
            self._again.append(Attempt(attempt.video, attempt.path, number=2))
        return Broken(attempt, reason, again)

    def _release(self, place: int, worker: _Worker, slot: int) -> None:
        if self._workers[place] is not worker:
            return  # replaced meanwhile: its slots went to its successor
        worker.free.add(slot)
        worker.since = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            worker.pipe.send(("slot", slot))

    def _spawn(self, place: int) -> _Worker:
        # Spawn, never fork: a decord reader hung after a fork, and CUDA forbids it.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._ring.path, self._offset(place, 0), self._slots, self._options)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, set(range(self._slots)))

    def _offset(self, place: int, slot: int) -> int:
        return (place * self._slots + slot) * int(np.prod(self._shape))


class _Ring:
    """Memory shared with the processes, opened by its path.

    On Linux a file that exists in memory only: /dev/shm is 64 MB in a default container, and writing
    beyond that kills the process.
    """

    def __init__(self, size: int) -> None:
        if sys.platform == "linux":
            self._file = os.memfd_create("frames")
            self.path = f"/proc/{os.getpid()}/fd/{self._file}"
            self._name = None
        else:
            self._file, self._name = tempfile.mkstemp(prefix="frames")
            self.path = self._name
        os.ftruncate(self._file, size)
        self._map = mmap.mmap(self._file, size)

    def array(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        return np.frombuffer(self._map, np.uint8, count, offset).reshape(shape)

    def close(self) -> None:
        with contextlib.suppress(BufferError):  # an array of it is still alive; it goes with that
            self._map.close()
        os.close(self._file)
        if self._name is not None:
            os.unlink(self._name)


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"the decoder crashed ({signal.Signals(-exit_code).name})"
    return f"the decoder died (exit code {exit_code})"


def _serve(pipe: Connection, ring: str, offset: int, slots: int, options: FrameOptions) -> None:
    """The decoding process: for each video `opened`, `frames` for every slot filled, `done` or `error`."""
    _die_with_parent()
    try:
        import av  # noqa: F401 - both here, so that a broken installation stops the run at once
        import decord  # noqa: F401
    except Exception as error:
        pipe.send(("broken", f"{type(error).__name__}: {error}"))
        return
    _silence_libraries()
    shape = (slots, SLOT_FRAMES, options.crop, options.crop, 3)
    size = int(np.prod(shape))
    with open(ring, "r+b") as file:
        memory = mmap.mmap(file.fileno(), offset + size)
    slots_SFHWC = np.frombuffer(memory, np.uint8, size, offset).reshape(shape)
    free = set(range(slots))
    pipe.send(("ready", None))
    with contextlib.suppress(
        EOFError, BrokenPipeError, ConnectionResetError
    ):  # the parent has gone
        while True:
            kind, value = pipe.recv()
            if kind == "slot":
                free.add(value)
                continue
            try:
                pipe.send(("done", _decode(Path(value), options, pipe, slots_SFHWC, free)))
            except DecodeError as error:
                pipe.send(("error", str(error)))
            except OSError as error:
                if isinstance(error, BrokenPipeError | ConnectionResetError):
                    raise
                pipe.send(("error", error.strerror or str(error)))


def _decode(
    path: Path, options: FrameOptions, pipe: Connection, slots_SFHWC: np.ndarray, free: set[int]
) -> tuple[int, tuple[int, str]]:
    """Decoded frames, bytes and sha256 of one video whose kept frames went through the ring."""
    video = Video(path, options)
    pipe.send(("opened", video.facts))
    images = video.frames()
    while True:
        slot = _take_slot(pipe, free)
        filled = 0
        try:
            for image in itertools.islice(images, SLOT_FRAMES):
                slots_SFHWC[slot, filled] = image
                filled += 1
        except Exception:
            free.add(slot)
            raise
        if filled:
            pipe.send(("frames", (slot, filled)))
        else:
            free.add(slot)
        if filled < SLOT_FRAMES:
            return video.decoded_frames, size_and_sha256_of(path)


def _take_slot(pipe: Connection, free: set[int]) -> int:
    while pipe.poll() or not free:
        kind, value = pipe.recv()
        assert kind == "slot", kind  # a video is only sent to an idle process
        free.add(value)
    return free.pop()


def _silence_libraries() -> None:
    """The libraries write about every bad file to descriptor 2; our own tracebacks still get through."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)


def _die_with_parent() -> None:
    # Ctrl-C goes to the whole group: the parent decides. A killed parent takes its decoders along,
    # even one that loops inside decord and never looks at the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
