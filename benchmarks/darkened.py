"""Real video with a gap in its pixels: from video files to an adapted model by the commands alone.

`dark`: Weizmann's ten actions, five actors as filmed -> four other actors' clips blurred, darkened,
tinted and noisy, written as H.264 files. `arid`: Weizmann -> ARID (filmed in the dark) on their shared
classes, clips as they are. Features: MobileNetV2 with real ImageNet weights. Every seed has a
train/evaluation split of its own, because the evaluation sets are small.

    OMP_NUM_THREADS=1 python -m benchmarks.darkened --target dark
    OMP_NUM_THREADS=1 python -m benchmarks.darkened --target arid
"""

from __future__ import annotations

import dataclasses
import random
import shlex
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import av
import click
import numpy as np

from benchmarks.common import (
    Folders,
    adapt_over_seeds,
    choose_methods,
    command,
    record,
    run_folder,
    sized,
    table,
)
from extract.from_folders import from_folders
from extract.synthetic import write_video
from extract.videos import find_videos
from store.manifest import Video
from store.own_benchmarks import write_benchmark

SOURCE_ACTORS = ("daria", "denis", "eli", "ido", "ira")
FPS = 25
BLUR_PIXELS, BLUR_SIGMA, GAMMA, NOISE_SIGMA = 7, 1.6, 2.6, 0.05
TINT_RGB = (0.55, 0.75, 1.0)

TRAINING = "--batch-size 16"
METHODS = {
    "source-only": "--method source-only",
    "source-only, sampled as released": (
        "--method source-only --learning-rate 3e-4 --rate-decay none --weight-decay 5e-4 --draws 5 "
        "--eval-draws 5 --source-sampling smallest-class"
    ),
    "released, Adam 3e-4": "--preset released --learning-rate 3e-4",
    "paper": "--preset paper",
    "source-only, target statistics, input norm": (
        "--method source-only --statistics target --input-norm"
    ),
    "infomax": "--method infomax",
    "light": "--preset light",
    "robust": "--preset robust",
}


def darken(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Gaussian blur, x^2.6, tint, noise: (F, H, W, 3) uint8 RGB -> the same shape and type."""
    offsets = np.arange(BLUR_PIXELS) - BLUR_PIXELS // 2
    kernel = np.exp(-0.5 * (offsets / BLUR_SIGMA) ** 2)
    kernel /= kernel.sum()
    x = frames.astype(np.float32) / 255
    for axis in (1, 2):  # a Gaussian is separable
        margin = [(0, 0)] * 4
        margin[axis] = (BLUR_PIXELS // 2, BLUR_PIXELS // 2)
        padded = np.pad(x, margin, mode="reflect")
        shifted = [
            padded.take(np.arange(x.shape[axis]) + shift, axis) for shift in range(BLUR_PIXELS)
        ]
        x = np.average(shifted, axis=0, weights=kernel).astype(np.float32)
    x = x**GAMMA * np.array(TINT_RGB, np.float32)
    x += random.normal(0, NOISE_SIGMA, x.shape)
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def read_frames(path: Path) -> np.ndarray:
    """All frames of a video, (F, H, W, 3) uint8 RGB."""
    with av.open(str(path)) as container:
        frames = container.decode(container.streams.video[0])
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def write_dark(weizmann: Path, root: Path) -> tuple[int, float]:
    """Write `root/bright` (copies) and `root/dark` (darkened), one folder per class.

    Returns:
        How many videos, and how far the decoded dark frames are from what was asked: the RMS error of
        the luma in grey levels. (4:2:0 halves the resolution of the colours, so their noise is weaker.)
    """
    paths = find_videos(weizmann)
    squares, pixels = 0.0, 0
    for number, path in enumerate(paths):
        action = path.parts[0]
        bright = path.stem.split("_")[0] in SOURCE_ACTORS
        folder = root / ("bright" if bright else "dark") / action
        folder.mkdir(parents=True, exist_ok=True)
        if bright:
            shutil.copyfile(weizmann / path, folder / path.name)
            continue
        asked = darken(read_frames(weizmann / path), np.random.default_rng(number))
        copy = folder / f"{path.stem}.mp4"
        # With its macroblock tree libx264 gives other frames each time (measured, PyAV 18.1).
        write_video(copy, asked, FPS, "libx264", **{"x264-params": "mbtree=0"})
        error = _luma(read_frames(copy)) - _luma(asked)
        squares, pixels = squares + float((error**2).sum()), pixels + error.size
    return len(paths), (squares / pixels) ** 0.5


def _luma(frames: np.ndarray) -> np.ndarray:
    result: np.ndarray = frames @ np.array([0.299, 0.587, 0.114])
    return result


def draw_split(rows: Sequence[Video], eval_fraction: float, seed: str) -> list[Video]:
    """Hold out a seeded share of every class.

    `manifest from-folder` decides by each id alone, which can leave a class of four videos without any in
    one split.
    """
    drawn = []
    for name in sorted({video.class_name for video in rows}):
        members = [video for video in rows if video.class_name == name]
        count = min(max(1, round(len(members) * eval_fraction)), len(members) - 1)
        chosen = [video.id for video in members]
        random.Random(f"{seed}/{name}").shuffle(chosen)
        drawn += [
            dataclasses.replace(video, split="eval" if video.id in chosen[:count] else "train")
            for video in members
        ]
    return drawn


@click.command()
@click.option("--target", type=click.Choice(["dark", "arid"]), default="dark", show_default=True)
@click.option(
    "--clips",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("../shared/clips"),
    show_default=True,
    help="Folder with weizmann/ and arid/.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=Path("../shared/weights/mobilenet_v2_imagenet.pth"),
    show_default=True,
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("runs/darkened"),
    show_default=True,
    help="Videos, manifests, features and runs; features that stand there are used again.",
)
@click.option("--seeds", default="0,1,2", show_default=True, help="Seeds of split and training.")
@click.option("--eval-fraction", default=0.5, show_default=True)
@click.option("--epochs", default=100, show_default=True)
@click.option(
    "--method", "chosen", type=click.Choice(list(METHODS)), multiple=True, help="Default: all."
)
@click.option("--variant", "variants", multiple=True, metavar="NAME=OPTIONS", help="Of adapt.")
@click.option("--record", "record_to", type=click.Path(path_type=Path), help="Append JSON lines.")
def darkened(
    target: str,
    clips: Path,
    weights: Path,
    folder: Path,
    seeds: str,
    eval_fraction: float,
    epochs: int,
    chosen: tuple[str, ...],
    variants: tuple[str, ...],
    record_to: Path | None,
) -> None:
    """Make the videos, run every command on them, and print a table."""
    folders = Folders(
        features=folder / "features",
        manifests=folder / f"manifests-{eval_fraction}",
        runs=folder / "runs" / time.strftime("%Y%m%d-%H%M%S"),
    )
    videos = {"weizmann": clips / "weizmann", "arid": clips / "arid"}
    if target == "dark":
        videos = {name: folder / "videos" / name for name in ("bright", "dark")}
        if not videos["dark"].exists():
            count, error = write_dark(clips / "weizmann", folder / "videos")
            click.echo(f"Wrote {count} videos, luma error of the encoded {error:.2f} grey levels.")
    source, target = videos
    numbers = [int(s) for s in seeds.split(",")]
    benchmark = f"{source}-{target}-split{{seed}}"
    _prepare(videos, benchmark, numbers, eval_fraction, weights, folders)
    rows = []
    for name, options in choose_methods(METHODS, chosen, variants).items():
        training = [*shlex.split(TRAINING), "--epochs", str(epochs), *sized(options)]
        rows.append(
            adapt_over_seeds(
                name,
                training,
                source=source,
                target=target,
                benchmark=benchmark,
                seeds=numbers,
                folders=folders,
            )
        )
        for seed in numbers:
            command("evaluate", run_folder(folders, name, seed))
    title = f"{source} -> {target}, {epochs} epochs, share for evaluation {eval_fraction}"
    click.echo("\n" + table(rows, title))
    if record_to:
        record(record_to, {"source": source, "target": target, "epochs": epochs}, rows)


def _prepare(
    videos: dict[str, Path],
    benchmark: str,
    seeds: list[int],
    eval_fraction: float,
    weights: Path,
    folders: Folders,
) -> None:
    """Manifests per seed, then `extract` of both domains."""
    found = from_folders(videos).videos
    for seed in seeds:
        drawn = {
            domain: draw_split(rows, eval_fraction, f"{seed}/{domain}")
            for domain, rows in found.items()
        }
        write_benchmark(folders.manifests / benchmark.format(seed=seed), drawn)
    for name, path in videos.items():
        command(
            *("extract", "--dataset", name, "--videos", path),
            *("--backbone", "mobilenet_v2", "--weights", weights, "--precision", "float32"),
            *("--features", folders.features, "--manifests", folders.manifests),
        )


if __name__ == "__main__":
    darkened()
