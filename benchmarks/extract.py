"""How busy does extraction keep the backbone? Everything in one run, in turns.

    python -m benchmarks.extract --videos ../shared/clips/ucf101

Per round: the whole pipeline from files to shards; the bare forward pass (same batch, type and device,
input already there); the decoders alone; and a plain loop over videos (decord, PIL transforms, float32
forward). Then the peak memory of the pipeline on a short and on a long video.
"""

from __future__ import annotations

import itertools
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from extract.backbone import Backbone
from extract.config import ExtractConfig
from extract.events import Frames
from extract.pool import DecoderPool
from extract.report import Progress
from extract.run import extract
from extract.synthetic import write_video
from extract.videos import VideoFolder, find_videos


@click.command(context_settings={"show_default": True})
@click.option("--videos", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--backbone", default="resnet101")
@click.option("--weights", default="random:0")
@click.option("--precision", default="auto")
@click.option("--batch", default=0, help="0: the default of the device.")
@click.option("--count", default=8, help="Videos in a round.")
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
    model = Backbone(
        ExtractConfig(backbone=backbone, weights=weights, precision=precision, batch=batch)
    )
    names = [path.stem for path in find_videos(videos)][:count]
    measured: dict[str, list[float]] = {}
    shares: dict[str, float] = {}
    for _ in range(rounds):
        for name, measure in (
            ("end to end", lambda: _end_to_end(model, videos, names, shares)),
            ("bare forward", lambda: _bare_forward(model)),
            ("decoders alone", lambda: _decoders(model, videos, names)),
            ("plain loop, float32", lambda: _plain_loop(model, videos, names[:plain_count])),
        ):
            measured.setdefault(name, []).append(measure())
    gpu = model.device.type == "cuda"
    device = (
        torch.cuda.get_device_name(model.device) if gpu else f"{torch.get_num_threads()} threads"
    )
    click.echo(
        f"{backbone}, {model.precision}, batch {model.batch}, {device}, {_processor()}, torch "
        f"{torch.__version__}; {len(names)} videos, {rounds} rounds, frames/s: median (all)\n"
    )
    for name, rates in measured.items():
        click.echo(
            f"| {name} | {statistics.median(rates):.1f} | {', '.join(f'{r:.1f}' for r in rates)} |"
        )
    for name in ("bare forward", "plain loop, float32"):
        ratios = [a / b for a, b in zip(measured["end to end"], measured[name])]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        click.echo(f"| end to end / {name} | {statistics.median(ratios):.2f} | {each} |")
    total = sum(shares.values())
    waits = ", ".join(f"{name} {100 * part / total:.1f} %" for name, part in shares.items())
    click.echo(f"\nWhat the pipeline's time goes to (last round): {waits}")
    if memory:
        _memory()


def _end_to_end(model: Backbone, videos: Path, names: list[str], shares: dict[str, float]) -> float:
    def note(progress: Progress) -> None:
        shares["decoders"], shares["backbone"] = progress.decoders, progress.backbone
        shares["store"] = progress.store

    with tempfile.TemporaryDirectory() as folder:
        report = extract(
            dataset="benchmark",
            videos=dict.fromkeys(names),
            video_roots=[videos],
            features=Path(folder),
            options=ExtractConfig(**{**model.options.__dict__, "precision": model.precision}),
            on_progress=note,
        )
    assert report.new_videos == len(names)
    shares["rest"] = max(0.0, report.seconds - sum(v for k, v in shares.items() if k != "rest"))
    return report.new_frames / report.seconds


def _bare_forward(model: Backbone, seconds: float = 8.0) -> float:
    images = model.staging().to(model.device)
    model.forward(images)
    _synchronise(model)
    begin = time.perf_counter()
    for passes in itertools.count(1):
        model.forward(images)
        if model.device.type == "cpu" or passes % 20 == 0:
            _synchronise(model)
            if time.perf_counter() - begin > seconds:
                return passes * model.batch / (time.perf_counter() - begin)
    raise AssertionError("unreachable")


def _decoders(model: Backbone, videos: Path, names: list[str]) -> float:
    found = VideoFolder([videos])
    work = [(name, root / path) for name in names for root, path in found.candidates(name)]
    frames, begin = 0, 0.0
    with DecoderPool(work, model.frames, workers=torch.get_num_threads()) as pool:
        for event in pool:
            begin = begin or time.perf_counter()  # the processes have started by now
            frames += len(event.images) if isinstance(event, Frames) else 0
    return frames / (time.perf_counter() - begin)


def _plain_loop(model: Backbone, videos: Path, names: list[str]) -> float:
    import decord  # the one place outside the decoders: this is what they are compared with

    transform = transforms.Compose(
        [
            transforms.Resize(model.frames.resize),
            transforms.CenterCrop(model.frames.crop),
            transforms.ToTensor(),
            transforms.Normalize(model._mean, model._std),
        ]
    )
    found = VideoFolder([videos])
    frames, begin = 0, time.perf_counter()
    for name in names:
        [(root, path)] = found.candidates(name)
        reader = decord.VideoReader(str(root / path), num_threads=1)
        images = [transform(Image.fromarray(reader.next().asnumpy())) for _ in range(len(reader))]
        with torch.inference_mode():
            for at in range(0, len(images), 16):
                model._model(torch.stack(images[at : at + 16]).to(model.device)).cpu()
        frames += len(images)
    return frames / (time.perf_counter() - begin)


def _memory() -> None:
    """Peak memory with a short and a long video, each in a fresh process.

    Of the process itself, multiprocessing's resource tracker, and the decoder.
    """
    noise = np.random.default_rng(0).integers(0, 256, (40, 240, 320, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for frames in (400, 6400):
            root = Path(folder) / str(frames)
            root.mkdir()
            write_video(root / "video.mp4", np.concatenate([noise] * (frames // 40)), 25)
            command = [sys.executable, "-c", _PEAK, str(root)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            click.echo(f"\nPeak memory, {frames:,} frames: {result.stdout.strip()}")


# VmHWM, because ru_maxrss also counts what the process that started this one held.
_PEAK = """
import sys, tempfile
from pathlib import Path
from extract.config import ExtractConfig
from extract.run import extract

peaks = {}
def look(progress):
    own = Path("/proc/self/task").glob("*/children")
    for process in ["self", *" ".join(path.read_text() for path in own).split()]:
        status = Path(f"/proc/{process}/status").read_text()
        peaks[process] = next(l for l in status.splitlines() if l.startswith("VmHWM")).split()[1]

if __name__ == "__main__":
    options = ExtractConfig(backbone="mobilenet_v3_small", weights="random:0", workers=1)
    with tempfile.TemporaryDirectory() as folder:
        report = extract(dataset="x", videos={"video": None}, features=Path(folder),
                         video_roots=[Path(sys.argv[1])], options=options, on_progress=look)
    assert report.new_videos == 1
    print(", ".join(f"{int(peak) / 1024:,.0f} MB" for peak in peaks.values()))
"""


def _synchronise(model: Backbone) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    named = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


if __name__ == "__main__":
    main()
