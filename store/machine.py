"""What a process needs to know about the machine it runs on. This module does not need torch.

It tells which process this is among those that share the work, which device it takes, whether the
processor computes bfloat16 quickly, and how much memory can be had. It makes the C library keep memory
that will be needed again, and processes end with the one that started them.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.errors import ConfigError

_CPU_FLAGS = Path("/proc/cpuinfo")
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEPT_BYTES = 2_000_000_000
"""Freed memory that may stay with the process between two passes over the videos."""


@dataclass(frozen=True)
class Process:
    """Which of the processes that share the work this one is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Its number among the processes of this machine, which chooses the GPU."""


def process_of(environment: Mapping[str, str], rank: int = 0, world: int = 0) -> Process:
    """Return which process this is, by the caller's numbers or the variables of torchrun or SLURM.

    Without any of them the process is alone. The tasks of a SLURM array and of `srun` multiply: those of
    one array task share its part.

    Args:
        rank, world: the caller's own numbers; `world` 0 means that the environment decides.

    Raises:
        ConfigError: a variable is not a number, or a rank is not below its number of processes.
    """
    if world:
        return Process(rank, world, rank)

    def number(name: str, default: int) -> int:
        text = environment.get(name, "")
        if text and not text.isdecimal():
            raise ConfigError(f"The environment variable {name} is {text!r}, not a number.")
        return int(text) if text else default

    if "WORLD_SIZE" in environment:
        rank, world = number("RANK", 0), number("WORLD_SIZE", 1)
        _check_rank("RANK", rank, "WORLD_SIZE", world)
        return Process(rank, world, number("LOCAL_RANK", 0))
    tasks, task, local = number("SLURM_STEP_NUM_TASKS", 1), 0, 0
    if tasks != 1:
        task, local = number("SLURM_PROCID", 0), number("SLURM_LOCALID", 0)
        _check_rank("SLURM_PROCID", task, "SLURM_STEP_NUM_TASKS", tasks)
    arrays = number("SLURM_ARRAY_TASK_COUNT", 1)
    first, step = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_STEP", 1)
    array = (number("SLURM_ARRAY_TASK_ID", first) - first) // max(step, 1)
    if not 0 <= array < arrays:
        raise ConfigError(
            f"This is task {array} of a SLURM array that has only {arrays} tasks, counted from 0 in steps of "
            f"{max(step, 1)}. Give the array as one range, for example --array=0-{max(arrays, 1) - 1}."
        )
    return Process(array * tasks + task, arrays * tasks, local)


def _check_rank(rank_name: str, rank: int, world_name: str, world: int) -> None:
    if not 0 <= rank < world:
        launcher = "torchrun" if world_name == "WORLD_SIZE" else "SLURM"
        raise ConfigError(
            f"The environment says {rank_name}={rank} of {world_name}={world}; ranks count from 0 to "
            f"{world_name} - 1. Start the processes with {launcher}, or unset the variables of {launcher}."
        )


DEVICES = "auto|cpu|cuda|cuda:N|mps"
DEVICE_HELP = (
    "auto: a GPU if there is one, else the CPU. cuda: a GPU; several processes take turns. cuda:N: the GPU "
    "of that number, counted from 0. mps: Apple's, on which nothing was tried yet."
)


def check_device(asked: str) -> None:
    """Make sure that a device is one that `device_name` understands, whether or not it is there.

    Raises:
        ConfigError: it is not auto, cpu, cuda, cuda:N or mps.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", asked, flags=re.ASCII):
        raise ConfigError(f"--device must be auto, cpu, cuda, cuda:N or mps, got {asked!r}.")


def device_name(asked: str, gpus: int, local_rank: int = 0, *, mps: bool = False) -> str:
    """Return `cpu`, `mps` or `cuda:N`; the processes of a machine take its GPUs in turn.

    Args:
        asked: auto, cpu, cuda, cuda:N (this one, for all processes) or mps.
        gpus: how many CUDA devices the machine has.
        mps: whether it has Apple's.

    Raises:
        ConfigError: no such device is here.
    """
    check_device(asked)
    if asked == "mps" and not mps:
        raise ConfigError("There is no MPS device here. Use --device cpu or --device auto.")
    if asked.startswith("cuda") and not gpus:
        raise ConfigError("There is no CUDA device here. Use --device cpu or --device auto.")
    if asked.startswith("cuda:"):
        number = int(asked.removeprefix("cuda:"))
        if number >= gpus:
            has = (
                "1 CUDA device, cuda:0"
                if gpus == 1
                else f"{gpus} CUDA devices, cuda:0 to cuda:{gpus - 1}"
            )
            raise ConfigError(f"There is no {asked} here. This machine has {has}.")
        return f"cuda:{number}"
    if asked in ("cpu", "mps"):
        return asked
    return f"cuda:{local_rank % gpus}" if gpus else "cpu"


def has_fast_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16).

    Only Linux says so; elsewhere it is False. A timing would depend on what else the machine is doing.
    """
    try:
        text = _CPU_FLAGS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    return bool(lines) and not _BFLOAT16_FLAGS.isdisjoint(lines[0].split())


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step instead of returning it to the system.

    Training allocates gigabytes a step, a backbone hundreds of megabytes a batch; faulting fresh pages
    in took half the time of the weight gradients on a CPU (measured). No result changes. With other C
    libraries this does nothing. See `return_freed_memory` for the memory that is never needed again.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def return_freed_memory(above: int = _KEPT_BYTES) -> None:
    """Return freed memory to the system if more than so many bytes of it are kept.

    Whatever small is allocated between two large blocks keeps their places from becoming one again, so that
    the kept memory grows with every pass over many videos: 10.8 GB after an epoch of Kinetics-Gameplay
    where 4 GB are used (measured). Called between passes, when the next one needs other sizes anyway.

    Args:
        above: in bytes. A glibc that cannot tell (before 2.33) always returns what it can.
    """
    malloc_trim, mallinfo = _of_glibc("malloc_trim"), _of_glibc("mallinfo2")
    if malloc_trim is None:
        return
    if mallinfo is not None:
        mallinfo.restype = _MallocInfo
        if mallinfo().fordblks <= above:
            return
    malloc_trim(0)


class _MallocInfo(ctypes.Structure):
    """The sums of mallinfo2(3); `fordblks` counts the bytes that are free and kept."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def _of_glibc(name: str) -> Any:
    """Return the function of the C library, None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Make a process that was started for a command end with that command, and only with it.

    Ctrl-C goes to the whole group, and the parent decides. A killed parent takes this process along,
    even one that loops inside a library and never looks at its pipe; only Linux knows how.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def cores() -> int:
    """Return how many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int:
    """Bytes of main memory that can be had without swapping, and within the limits of control groups.

    SLURM (`--mem`) and containers set such limits, and end a process that goes beyond them.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: half of what is built in
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min([free, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """Bytes that the memory control groups of this process, of either version, still allow."""
    left = []
    for group, (limit, used, unused) in _memory_groups():
        try:
            most, now = (int((group / name).read_text()) for name in (limit, used))
            rows = (line.split() for line in (group / "memory.stat").read_text().splitlines())
            of_files = {name: int(count) for name, count in rows}.get(unused, 0)
        except (OSError, ValueError):  # not mounted, or "max": no limit
            continue
        left.append(max(0, most - now + of_files))
    return left


def _memory_groups() -> list[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's groups and all above them, with their files of limit and use.

    The third name stands in memory.stat: bytes of files that were read, which make room when asked to.
    """
    second = ("memory.max", "memory.current", "inactive_file")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux, or hidden
        return []
    found = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        root = _GROUPS / "memory" if kinds else _GROUPS
        if kinds and "memory" not in kinds.split(","):
            continue
        group = root / path.lstrip("/")
        while group != root.parent:
            found.append((group, first if kinds else second))
            group = group.parent
    return found
