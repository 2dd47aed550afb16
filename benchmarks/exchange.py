"""Importing and exporting many small files, against reading and writing their bytes alone.

Every variant runs in every round, in turn; each writes into a new folder. The disk's cache is warm, so
what is measured is the work per file, the least that a slow disk adds to.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.common import working_folder
from benchmarks.timing import Times, table
from cli import main
from store.manifest import Video, write_manifest

WRITES = ("write the bytes", "torch.save", "store export")
COLUMNS = (
    "wall, s | CPU, s | CPU a file, microseconds | wall against the bytes | CPU against the bytes"
)


def make(root: Path, videos: int, frames: int, width: int) -> None:
    """A folder as TA3N has them, written by torch in its legacy format, and a manifest."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(videos):
        folder = root / "RGB-feature" / f"v{number:05}"
        folder.mkdir(parents=True)
        for i, row in enumerate(torch.tensor(random.random((frames, width), np.float32)), 1):
            path = folder / f"img_{i:05}.t7"
            torch.save(row.clone(), path, _use_new_zipfile_serialization=False)
        split = "eval" if number % 3 == 0 else "train"
        rows.append(
            Video(
                id=folder.name,
                label=number % 2,
                class_name=str(number % 2),
                split=split,
                frames=None,
            )
        )
    write_manifest(root / "manifests" / "mine" / "d.csv", rows)


def read_bytes(files: list[Path]) -> None:
    """Read every file and drop it."""
    for path in files:
        path.read_bytes()


def read_torch(files: list[Path]) -> None:
    """Read every file as the authors' loaders do."""
    for path in files:
        torch.load(path, weights_only=True)


def write_bytes(data: bytes, out: Path, names: list[Path]) -> None:
    """Write as many files of the same size into the same folders, and sync once."""
    _write(out, names, lambda path: path.write_bytes(data))


def write_torch(row: torch.Tensor, out: Path, names: list[Path]) -> None:
    """Write as many tensors, each cloned, into the same folders."""
    _write(out, names, lambda path: torch.save(row.clone(), path))


def _write(out: Path, names: list[Path], write: Callable[[Path], object]) -> None:
    for folder in sorted({name.parent for name in names}):
        (out / folder).mkdir(parents=True)
    for name in names:
        write(out / name)


def run(*arguments: object) -> None:
    """A command of `cli.py`, in this process."""
    code = main([str(a) for a in arguments], standalone_mode=False)
    if code:
        raise SystemExit(code)


def variants_of(root: Path, home: Path, out: Path, workers: int) -> dict[str, Callable[[], object]]:
    """What is timed in one round, which writes below `out`."""
    files = sorted(home.rglob("*.t7"))
    names = [path.relative_to(home) for path in files]
    data = files[0].read_bytes()
    row = torch.load(files[0], weights_only=True)
    places = ("--manifests", root / "manifests", "--workers", workers)
    given = ("--format", "t7", home, "--dataset", "d", "--features", out / "features")
    export = ("--format", "t7", "--out", out / "export")
    return {
        "read the bytes": lambda: read_bytes(files),
        "torch.load": lambda: read_torch(files),
        "store import": lambda: run("store", "import", *given, *places),
        "write the bytes": lambda: write_bytes(data, out / "bytes", names),
        "torch.save": lambda: write_torch(row, out / "torch", names),
        "store export": lambda: run(
            "store", "export", *export, *places, next((out / "features" / "d").iterdir())
        ),
    }


def report(times: Mapping[str, Times], files: int, size: int, workers: int) -> str:
    """The table of all variants; ratios are taken within each round."""
    rows = {}
    for name, found in times.items():
        base = times["write the bytes" if name in WRITES else "read the bytes"]
        cpu = statistics.median(found.cpu)
        rows[name] = [
            f"{found.median:.2f}",
            f"{cpu:.2f}",
            f"{1e6 * cpu / files:.0f}",
            f"{statistics.median(a / b for a, b in zip(found.wall, base.wall)):.1f}",
            f"{statistics.median(a / b for a, b in zip(found.cpu, base.cpu)):.1f}",
        ]
    rounds = len(next(iter(times.values())).wall)
    title = f"{files:,} files of {size:,} bytes, {workers} workers, median of {rounds} rounds"
    return table(title, rows, COLUMNS)


@click.command()
@click.option("--videos", default=100, show_default=True)
@click.option("--frames", default=200, show_default=True, help="Files of a video.")
@click.option("--width", default=2048, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--workers", default=8, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Kept; by default a temporary one.")
def benchmark(
    videos: int, frames: int, width: int, rounds: int, workers: int, folder: Path | None
) -> None:
    """Time the variants and print a table."""
    with working_folder(folder) as root:
        make(root, videos, frames, width)
        home = root / "RGB-feature"
        files = sorted(home.rglob("*.t7"))
        data = files[0].read_bytes()
        times: dict[str, Times] = defaultdict(Times)
        for number in range(rounds + 1):
            variants = variants_of(root, home, root / f"round{number}", workers)
            for name, variant in variants.items():
                wall, cpu = time.perf_counter(), time.process_time()
                variant()
                if number:  # the round before the first warms the cache
                    times[name].wall.append(time.perf_counter() - wall)
                    times[name].cpu.append(time.process_time() - cpu)
        click.echo(report(times, len(files), len(data), workers))


if __name__ == "__main__":
    benchmark()
