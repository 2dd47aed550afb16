"""The peak memory of a process, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def peak_memory(process: int | str = "self") -> int:
    """The most memory that a running process has held so far, in bytes.

    VmHWM, because ru_maxrss also counts what the process that started it held.

    Args:
        process: its number, or `self`.
    """
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    held = next(line for line in lines if line.startswith("VmHWM"))
    return 1024 * int(held.split()[1])
