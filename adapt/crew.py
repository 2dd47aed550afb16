"""Runs side by side: processes that take one run after the other, and what they say meanwhile.

Every process computes with its share of the cores or on a GPU of its own, and loads the features of a
pair of domains once. One that dies, or fails in a way that nobody foresaw, is replaced, and the others go
on: a method that fails costs only its own runs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from adapt.crew_worker import Work, serve
from adapt.listing import DataOptions
from adapt.plan import Job


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a run.

    Attributes:
        kind: `started`, `epoch` (one more is finished, `epoch` of them), `done`, `failed` (`text` says
            why, `details` is what a programmer wants to see), or `said` (`text` is a warning).
    """

    kind: str
    job: Job
    epoch: int = 0
    text: str = ""
    details: str = ""


@dataclass(frozen=True, kw_only=True)
class CrewOptions:
    """How many processes there are, and what each of them has.

    Attributes:
        devices: one for each process.
        threads: of each process, on the CPU.
        checkpoint_every: epochs between two states that a run can go on from; 0: none.
    """

    data: DataOptions
    devices: Sequence[str]
    threads: int
    checkpoint_every: int


def run_all(jobs: Sequence[Job], options: CrewOptions) -> Iterator[Event]:
    """Train every run to its end, in this order, and yield what happens.

    Leaving the iteration ends the processes at once; a run goes on later from the state that it kept.
    """
    todo = deque(jobs)
    members: dict[Any, _Member] = {}
    with contextlib.ExitStack() as started:
        places = list(enumerate(options.devices))[: len(jobs)]
        free = [started.enter_context(_Member(options, place)) for place, _ in places]
        while todo or members:
            while free and todo:
                member, job = free.pop(0), todo.popleft()
                member.begin(job)
                members[member.pipe] = member
                yield Event(kind="started", job=job)
            for pipe in wait(list(members)):
                member = members[pipe]
                event, ended, broken = member.receive()
                if ended:
                    del members[pipe]
                    if broken:
                        member.end()
                    if broken and todo:
                        member = started.enter_context(_Member(options, member.place))
                    free.append(member)
                yield event


class _Member:
    """One process, and the run that it works on."""

    def __init__(self, options: CrewOptions, place: int) -> None:
        self.place = place
        self._job: Job | None = None
        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, options.data, options.devices[place], options.checkpoint_every)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        with _environment(OMP_NUM_THREADS=str(options.threads)):
            self._process.start()
        theirs.close()

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, job: Job) -> None:
        """Give it a run; its end, should it have died, is noticed when it is read from."""
        self._job = job
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(Work(config=job.config.as_dict(), folder=str(job.folder)))

    def receive(self) -> tuple[Event, bool, bool]:
        """What it says; whether the run has ended by that, and whether the process is of no more use."""
        assert self._job is not None
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):  # OSError: it died in the middle of what it said
            return Event(kind="failed", job=self._job, text=self._how_it_ended()), True, True
        if kind == "failed":
            text, details = value
            return Event(kind=kind, job=self._job, text=text, details=details), True, bool(details)
        if kind == "said":
            return Event(kind=kind, job=self._job, text=value), False, False
        return Event(kind=kind, job=self._job, epoch=value), kind == "done", False

    def _how_it_ended(self) -> str:
        self._process.join()
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"Its process ended (exit code {code})."
        names = {int(number): number.name for number in signal.Signals}
        more = " It may have run out of memory." if -code == signal.SIGKILL else ""
        return f"Its process was ended by {names.get(-code, f'signal {-code}')}.{more}"

    def end(self) -> None:
        """End the process at once, whatever it does."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.pipe.close()


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables of the environment that processes see which are started meanwhile.

    The libraries read them when they are loaded, before any code of ours could tell them.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
