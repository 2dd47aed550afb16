"""Ending a long command in order."""

from __future__ import annotations

import signal

from commands.text import say


class StopSignals:
    """The first Ctrl-C or SIGTERM asks the run to end in order, the second ends it at once."""

    number = 0

    def __enter__(self) -> StopSignals:
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stopped(self) -> bool:
        """Return whether the run was asked to end."""
        return self.number > 0

    def _note(self, number: int, frame: object) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        say("\nStopping: storing what is complete. Once more ends at once.", err=True)
