"""Peak memory of every method at the size of Kinetics-Gameplay, with `--bank mapped`.

    python -m benchmarks.scale --folder DIR [--method NAME ...] [--settings own,shared] [--steps 50]

Stores of the benchmark's shape are made sparse: 12.5 million frames of 2048 zeros, 51 GB of apparent size,
that take no room on disk; only the first video of a shard is random, so that there is a covariance. Every
method trains the first steps of one epoch and is evaluated on all videos, in a process of its own; a method
that has no epochs is fitted. Times say little: there is nothing to learn, and nothing is read from a disk.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import click
import h5py
import numpy as np

from adapt import methods
from store.datasets import MANIFESTS
from store.format import store_folder
from store.manifest import read_manifest
from store.records import VideoRecord
from store.tables import write_index

WIDTH, VIDEOS_PER_SHARD = 2048, 1024
CONFIG = {"backbone": "fake", "weights_sha256": "0" * 64, "stride": 1}
GB = 1_000_000_000
LIMIT = 8 * GB
CODE = """
import sys
import adapt.data, adapt.loop, cli
from benchmarks.memory import peak_memory
steps, whole = int(sys.argv.pop(1)), adapt.data.steps_of
if steps:
    adapt.data.steps_of = adapt.loop.steps_of = lambda *given: min(steps, whole(*given))
cli.main(sys.argv[1:], standalone_mode=False)
print("peak", peak_memory())
"""


def sparse_shards(folder: Path, counts: Mapping[str, int]) -> Iterator[VideoRecord]:
    """Write shards of so many rows, of which all but the first video's are allocated and never written.

    Args:
        counts: id -> frames.
    """
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.CONTIGUOUS)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    videos, random = iter(counts.items()), np.random.default_rng(0)
    for number in range(-(-len(counts) // VIDEOS_PER_SHARD)):
        name = f"shard-{number:05d}.h5"
        with h5py.File(folder / name, "w") as file:
            for video, frames in islice(videos, VIDEOS_PER_SHARD):
                space = h5py.h5s.create_simple((frames, WIDTH))
                h5py.h5d.create(file.id, video.encode(), h5py.h5t.IEEE_F16LE, space, layout)
                if len(file) == 1:
                    file[video][...] = random.standard_normal((frames, WIDTH), np.float32)
                yield VideoRecord(video=video, shard=name, frames=frames, crc32="00000000")


def write_stores(features: Path) -> int:
    """Write sparse stores of kinetics and gameplay; returns the number of frames of both."""
    total = 0
    for domain in ("kinetics", "gameplay"):
        listed = read_manifest(MANIFESTS / "kinetics-gameplay" / f"{domain}.csv")
        counts = {video.id: video.frames or 1 for video in listed}
        total += sum(counts.values())
        folder = store_folder(features, domain, CONFIG)
        folder.mkdir(parents=True)
        write_index(
            folder,
            dataset=domain,
            config=CONFIG,
            width=WIDTH,
            records=list(sparse_shards(folder, counts)),
            run={"weights": "none"},
        )
    return total


def peak_memory(features: Path, run: Path, options: list[str], steps: int = 0) -> int:
    """Train one epoch of kinetics -> gameplay in a process of its own; its peak memory in bytes.

    Args:
        steps: stop the epoch after so many; 0: a whole one.

    Raises:
        RuntimeError: the process failed; its last words are the message.
    """
    arguments = (
        *("adapt", "--source", "kinetics", "--target", "gameplay", *options),
        *("--features", str(features), "--run", str(run), "--bank", "mapped", "--device", "cpu"),
        "--no-baselines",
    )
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(steps), *arguments], capture_output=True, text=True
    )
    peak = re.search(r"^peak (\d+)$", result.stdout, re.MULTILINE)
    if result.returncode or peak is None:
        raise RuntimeError(result.stderr[-2000:])
    return int(peak[1])


@click.command()
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--method", "chosen", multiple=True, help="Default: all.")
@click.option("--settings", default="own,shared", show_default=True, help="Presets, with commas.")
@click.option("--steps", default=50, show_default=True, help="Of an epoch; 0: all.")
def scale(folder: Path, chosen: tuple[str, ...], settings: str, steps: int) -> None:
    """Print the peak memory of every method in every one of the presets that it has."""
    if not folder.exists():
        frames = write_stores(folder / "features")
        click.echo(f"{frames:,} frames.")
    over = 0
    for name in chosen or methods.names():
        method = methods.find(name)
        presets = [p for p in settings.split(",") if p in method.settings]
        for preset in presets or [method.default_preset]:
            options = ["--method", name, "--preset", preset]
            options += ["--epochs", "1"] if "epochs" in method.reads else []
            run = folder / "runs" / f"{name}-{preset}"
            peak = peak_memory(folder / "features", run, options, steps)
            over += peak > LIMIT
            click.echo(f"| {name} ({preset}) | {peak / GB:.2f} |")
    if over:
        raise SystemExit(f"{over} methods took more than {LIMIT / GB:.0f} GB.")


if __name__ == "__main__":
    scale()
