"""Standard streams that are closed, that cannot show every character, or whose reader has gone."""

from __future__ import annotations

import errno
import os
import select
import sys
from contextlib import suppress
from typing import TextIO

READER_GONE = 141
"""Exit code where the reader of a pipe has ended: 128 and the number of SIGPIPE, as shells have it."""


def prepare() -> None:
    """Make stdout and stderr usable, whatever they are; calling it again changes nothing.

    A stream that was closed (`2>&-`) leads to the null device from here on. Otherwise the next file that
    is opened, a shard perhaps, would get the stream's number, and what a library prints would go there.
    A character that a stream cannot encode is shown as an escape instead of ending the command.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if _is_closed(number):
            # The system gives the lowest free number, and all lower ones are taken by now.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_abandoned() -> bool:
    """Lead stdout and stderr to the null device where their reader has gone; say whether one had.

    A broken pipe may also be one to a decoding process, so the streams themselves are asked. What is
    still in a buffer is lost then, and Python does not complain about it when it ends.
    """
    abandoned = [stream for stream in (sys.stdout, sys.stderr) if _reader_is_gone(stream)]
    for stream in abandoned:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    return bool(abandoned)


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def _reader_is_gone(stream: TextIO) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return False
    with suppress(OSError, ValueError):  # ValueError: a stream of tests has no number
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False
