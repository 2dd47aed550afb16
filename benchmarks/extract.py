"""How fast is extraction, beside the best that the machine can do and beside the usual way?

    pip install --no-deps opencv-python-headless      # for the usual way; not needed by the project
    python -m benchmarks.extract --videos ../shared/clips/ucf101

In every round, in turn: `extract` from files to shards; bare forward passes, with the input already there,
in the form of `extract` and compiled by torch.compile with freezing; the decoders alone; and the way of
the package video_features as a plain loop (OpenCV, PIL, float32, video by video, its best batch). Then
the peak memory of `extract` on a short and on a long video.
"""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click

# No torch here: the decoding processes import this file again when they start.
from extract.config import ExtractConfig
from extract.videos import find_videos

BATCHES = (1, 8, 16, 32)


@click.command(context_settings={"show_default": True})
@click.option("--videos", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--backbone", default="resnet101")
@click.option("--weights", default="random:0")
@click.option("--precision", default="auto")
@click.option("--batch", default=0, help="0: the default of the device.")
@click.option("--count", default=16, help="Videos in a round.")
@click.option("--plain-count", default=1, help="Videos of the plain loop in a round.")
@click.option("--rounds", default=3)
@click.option("--memory/--no-memory", default=True)
def main(
    videos: Path,
    backbone: str,
    weights: str,
    precision: str,
    batch: int,
    count: int,
    plain_count: int,
    rounds: int,
    memory: bool,
) -> None:
    """Print the figures as a Markdown table."""
    from benchmarks import rates

    options = ExtractConfig(backbone=backbone, weights=weights, precision=precision, batch=batch)
    names = [path.stem for path in find_videos(videos)][:count]
    bare = rates.Bare(options)
    usual, tried = _fresh(rates.best_batch, options, BATCHES)
    others = {
        "extract, end to end": (rates.end_to_end, videos, names, options),
        "decoders alone": (rates.decoders_alone, videos, names, options),
        f"video_features' way, batch {usual}": (
            *(rates.video_features, videos, names[:plain_count], options, usual),
        ),
    }
    measured: dict[str, list[float]] = {}
    shares: dict[str, float] = {}
    for _ in range(rounds):
        for name, (measure, *arguments) in others.items():
            rate, parts = _fresh(measure, *arguments)
            measured.setdefault(name, []).append(rate)
            shares = parts or shares
        for form in bare.forms:
            measured.setdefault(f"bare, {form}", []).append(bare.rate(form))
    click.echo(_title(bare.backbone, rates.form_of(bare.backbone), len(names), rounds))
    if bare.why_not_compiled:
        click.echo(f"Not compiled: {bare.why_not_compiled}\n")
    for name, values in measured.items():
        click.echo(_row(name, values, 1))
    ours = measured["extract, end to end"]
    best = [max(values) for values in zip(*(measured[f"bare, {form}"] for form in bare.forms))]
    click.echo(_row("extract / the best bare rate", _ratios(ours, best), 2))
    [plain] = [values for name, values in measured.items() if name.startswith("video_features")]
    click.echo(_row("extract / video_features' way", _ratios(ours, plain), 2))
    spent = ", ".join(f"{name} {100 * part:.1f} %" for name, part in shares.items())
    click.echo(f"\nWhat the time of extract went to (last round): {spent}")
    each = ", ".join(f"{size}: {rate:.1f}" for size, rate in tried.items())
    click.echo(f"Frames/s of the plain float32 model by batch: {each}")
    if memory:
        _memory()


def _fresh(measure: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a process of its own, which shares neither memory nor settings."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(measure, *arguments).result()


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs)]


def _row(name: str, values: list[float], digits: int) -> str:
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"| {name} | {statistics.median(values):.{digits}f} | {each} |"


def _title(backbone: Any, form: str, videos: int, rounds: int) -> str:
    import torch

    gpu = backbone.device.type == "cuda"
    device = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads"
    return (
        f"{backbone.options.backbone}, {backbone.precision} ({form}), batch {backbone.batch}, {device}, "
        f"{_processor()}, torch {torch.__version__}; {videos} videos, {rounds} rounds, frames/s: "
        "median (all)\n"
    )


def _memory() -> None:
    """Peak memory with a short and a long video, each in a fresh process.

    Of the process itself, multiprocessing's resource tracker, and the decoder.
    """
    import numpy as np

    from extract.synthetic import write_video

    noise = np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for frames in (400, 6400):
            root = Path(folder) / str(frames)
            root.mkdir()
            write_video(root / "video.mp4", np.concatenate([noise] * (frames // 40)), 25)
            command = [sys.executable, "-c", _PEAK, str(root)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            click.echo(f"\nPeak memory, {frames:,} frames: {result.stdout.strip()}")


_PEAK = """
import sys, tempfile
from pathlib import Path
from benchmarks.memory import peak_memory
from extract.config import ExtractConfig
from extract.run import extract

peaks = {}
def look(progress):
    own = Path("/proc/self/task").glob("*/children")
    for process in ["self", *" ".join(path.read_text() for path in own).split()]:
        peaks[process] = peak_memory(process)

if __name__ == "__main__":
    options = ExtractConfig(backbone="mobilenet_v3_small", weights="random:0", workers=1)
    with tempfile.TemporaryDirectory() as folder:
        report = extract(dataset="x", videos={"video": None}, features=Path(folder),
                         video_roots=[Path(sys.argv[1])], options=options, on_progress=look)
    assert report.new_videos == 1
    print(", ".join(f"{peak / 1024**2:,.0f} MB" for peak in peaks.values()))
"""


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    named = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


if __name__ == "__main__":
    main()
