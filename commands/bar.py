"""Showing how far a long command is, on stderr: nothing with --quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from commands.options import is_quiet
from commands.text import say, shown

MEGABYTE = 1_000_000


class Lines:
    """Shows a bar on a terminal, and elsewhere a line every few seconds, so that logs stay readable."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._quiet = is_quiet()  # now, because other threads, which show too, know no command
        self._bar: Any = None
        self._said = time.monotonic()
        self._done = 0

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def give_way(self) -> None:
        """Leave the bar where it is drawn: what is printed next begins on a line of its own."""
        if self._bar is not None:
            say("", err=True)

    def show(self, done: int, total: int, detail: str, left: str) -> None:
        """Show that `done` of `total` are done, with a detail and the time left."""
        if self._quiet:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(
                    length=total,
                    label=shown(self._label),
                    show_pos=True,
                    show_eta=False,
                    item_show_func=str,
                    file=sys.stderr,
                )
            steps = done - self._bar.pos
            self._bar.update(steps, f"{detail}, {left}")
            if not steps:  # the bar draws itself only where it moves
                self._bar.render_progress()
        elif time.monotonic() - self._said > 5 or done == total > self._done:
            self._said, self._done = time.monotonic(), done
            say(f"{self._label}: {done:,}/{total:,}, {detail}, {left}", err=True)


class CountProgress(Lines):
    """Shows how many of a known number of things are done, how many a second, and the time left.

    Args:
        things: their name in the plural, as `videos`.
        scale: how many of them are shown as one, for bytes as megabytes.
    """

    def __init__(
        self,
        label: str,
        total: int,
        things: str,
        *,
        scale: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(label)
        self._total, self._things, self._scale, self._clock = total, things, scale, clock
        self._counted, self._begin, self._shown = 0, clock(), float("-inf")

    def __call__(self, done: int) -> None:
        """Show that `done` are done, those that failed among them; ten times a second at most."""
        self._counted, now = min(done, self._total), self._clock()
        if now - self._shown < 0.1 and self._counted < self._total:
            return
        self._shown = now
        seconds = max(now - self._begin, 1e-9)
        rate = self._counted / seconds
        left = time_left((self._total - self._counted) / rate if rate else float("inf"))
        shown, total = (-(-n // self._scale) for n in (self._counted, self._total))
        self.show(shown, total, f"{rate / self._scale:,.1f} {self._things}/s", left)

    def add(self, count: int = 1) -> None:
        """Show that so many more are done."""
        self(self._counted + count)


class StageProgress(Lines):
    """Shows which of a few unlike stages is running; how long the others take is not known."""

    def __init__(self, label: str, stages: int) -> None:
        super().__init__(label)
        self._stages, self._begun = stages, 0

    def __call__(self, what: str) -> None:
        """Show that the next stage begins."""
        self.show(self._begun, self._stages, what, time_left(float("inf")))
        self._begun += 1


def time_left(seconds: float) -> str:
    """Return the time left in words; infinite seconds are an unknown time."""
    if seconds == float("inf"):
        return "time left unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    shown = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{shown} left"
