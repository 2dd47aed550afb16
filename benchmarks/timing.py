"""Timing for the benchmarks: variants in turn, wall and CPU time, and what the machine does at best."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

Timed = Callable[[], object]


@dataclass
class Times:
    """Seconds of one variant, an entry per round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of all threads."""

    @property
    def median(self) -> float:
        """Of wall time."""
        return statistics.median(self.wall)

    @property
    def least_cpu(self) -> float:
        """What a disturbed machine tells best, with one thread."""
        return min(self.cpu)

    def cells(self) -> list[str]:
        """For a table, see `COLUMNS`."""
        numbers = (self.median, min(self.wall), statistics.median(self.cpu), self.least_cpu)
        return [f"{1e3 * n:.0f}" if n > 0.02 else f"{1e3 * n:.2f}" for n in numbers]


COLUMNS = "wall, median, ms | wall, least, ms | CPU, median, ms | CPU, least, ms"


def interleaved(variants: dict[str, Timed], rounds: int, device: torch.device) -> dict[str, Times]:
    """Every variant in every round, one after the other; two rounds before are not counted."""
    times: dict[str, Times] = defaultdict(Times)
    for number in range(rounds + 2):
        for name, run in variants.items():
            _wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            _wait(device)
            if number > 1:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(time.process_time() - cpu)
    return dict(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def limits(device: torch.device) -> dict[str, tuple[float, Timed]]:
    """What the machine can do at best here: (operations or bytes, what does them)."""
    n, slots, rows = 1024, 64, 64
    a = torch.randn(n, n, device=device)
    x, w = torch.randn(slots, rows, n, device=device), torch.randn(slots, n, n, device=device)
    b, xb, wb = a.bfloat16(), x.bfloat16(), w.bfloat16()
    to = torch.empty_like(w)
    return {
        "float32, 1024 x 1024 x 1024": (2.0 * n**3, lambda: a @ a),
        "bfloat16, 1024 x 1024 x 1024": (2.0 * n**3, lambda: b @ b),
        "float32, 64 slots of 64 x 1024 x 1024": (2.0 * slots * rows * n * n, lambda: x @ w),
        "bfloat16, 64 slots of 64 x 1024 x 1024": (2.0 * slots * rows * n * n, lambda: xb @ wb),
        "copy, bytes": (2.0 * w.nbytes, lambda: to.copy_(w)),
    }


def table(title: str, rows: dict[str, list[str]], columns: str) -> str:
    """Markdown; `columns` separated by `|`."""
    lines = [f"\n{title}\n", f"| | {columns} |", "|---" * (columns.count("|") + 2) + "|"]
    return "\n".join(lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()])
