"""A real gap: exercises that people were photographed and filmed at, and animations of the same movements.

MobileNetV2 features (ImageNet weights) of 336 real and 442 rendered videos of six classes become two domains.
Manifests and stores are written by the project's own writers, and training is `cli.py adapt`, in both
directions. No target label is used in training; figures are those after the last epoch.

    OMP_NUM_THREADS=1 python -m benchmarks.exercises --record exercises.jsonl
    OMP_NUM_THREADS=1 python -m benchmarks.exercises --record exercises.jsonl --method robust --source real

A run that the record has is not repeated, so the command can be stopped and given again.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np

from benchmarks.common import (
    Folders,
    choose_methods,
    complete_record,
    mean_and_deviation,
    measured,
    working_folder,
)
from benchmarks.options import npz_option, record_options
from benchmarks.planted_gap import write_features
from extract.from_folders import SplitRule
from store.manifest import Video, write_manifest

BENCHMARK, DOMAINS = "exercises", ("real", "render")
RULE = SplitRule(eval_fraction=0.4, seed=0)
"""The rule of `manifest from-folder`, on ids `<class>/<video>` as it would give them."""
CONFIG = {"backbone": "mobilenet_v2"}
WEIGHTS = "MobileNetV2 with ImageNet weights, up to 24 evenly spaced frames"

SHARED = "--epochs 60 --batch-size 32 --compute bfloat16"
RELEASED = "--preset released --learning-rate 3e-4 --draws 1 --eval-draws 0"
METHODS = {
    name: f"{SHARED} {options}"
    for name, options in {
        "source-only": "--method source-only",
        "source-only, target statistics, input norm": ("--method source-only --preset shared"),
        "infomax": "--method infomax",
        "paper": "--preset paper",
        "light": "--preset light",
        "robust": "--preset robust",
        "released, one draw, Adam 3e-4": RELEASED,
        "the same without its authors' start": f"{RELEASED} --initialisation default",
        "dann, shared settings": "--method dann --preset shared",
    }.items()
} | {"dann": "--method dann --compute bfloat16"}
"""`dann` alone keeps its authors' epochs, batches and frames."""


PLAIN = "plain"


def with_root(frames_FD: np.ndarray) -> np.ndarray:
    """The square roots of features that are not negative, (F, D) -> (F, D): large ones weigh less."""
    return np.sqrt(frames_FD)


def with_deviation(frames_FD: np.ndarray) -> np.ndarray:
    """Beside every frame the deviation over the video's frames, (F, D) -> (F, 2 D): what moves."""
    deviation_FD = np.broadcast_to(frames_FD.std(axis=0), frames_FD.shape)
    return np.concatenate([frames_FD, deviation_FD], axis=1)


INPUTS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    PLAIN: lambda frames_FD: frames_FD,
    "root": with_root,
    "deviation": with_deviation,
    "root-deviation": lambda frames_FD: with_deviation(with_root(frames_FD)),
}
"""What is done to a video's features, (F, D) float32, before they are stored; docs/closer.md."""


def read_exercises(npz: Path) -> dict[str, dict[str, tuple[str, np.ndarray]]]:
    """Domain -> id -> class and features (F, D) float16, both in the order of the file.

    The file holds `features` (frames of all videos, D), `offsets` (V + 1,) into them, and `video`, `domain`
    and `class` (V,).
    """
    with np.load(npz, allow_pickle=False) as arrays:
        features, offsets = arrays["features"], arrays["offsets"]
        names = zip(arrays["domain"], arrays["class"], arrays["video"])
        found: dict[str, dict[str, tuple[str, np.ndarray]]] = {domain: {} for domain in DOMAINS}
        for number, (domain, class_name, video) in enumerate(names):
            frames = features[offsets[number] : offsets[number + 1]]
            if len(frames):
                found[str(domain)][f"{class_name}/{video}"] = (str(class_name), frames)
    return found


def write_problem(npz: Path, folders: Folders, inputs: str = PLAIN) -> None:
    """Write manifests and stores of both domains; labels follow the sorted class names.

    Args:
        inputs: of `INPUTS`.
    """
    videos = read_exercises(npz)
    classes = sorted({name for rows in videos.values() for name, _ in rows.values()})
    for domain, rows in videos.items():
        manifest = [
            Video(
                id=video,
                label=classes.index(name),
                class_name=name,
                split=RULE.split_of(video),
                frames=len(frames),
            )
            for video, (name, frames) in sorted(rows.items())
        ]
        write_manifest(folders.manifests / BENCHMARK / f"{domain}.csv", manifest)
        features = {
            video: INPUTS[inputs](frames.astype(np.float32)).astype(np.float16)
            for video, (_, frames) in sorted(rows.items())
        }
        config = CONFIG if inputs == PLAIN else {**CONFIG, "inputs": inputs}
        write_features(folders.features, domain, config, features, WEIGHTS)


def table(found: Mapping[tuple[str, str], Mapping[int, tuple[float, float]]]) -> str:
    """Markdown: per method and direction mean ± sample deviation and each seed, and the median time."""
    directions = [f"{source} -> {target}" for source, target in (DOMAINS, DOMAINS[::-1])]
    cells = [f"{direction} | each seed" for direction in directions]
    lines = [f"| method | {' | '.join(cells)} | s per run |", "|---" * 6 + "|"]
    for method in dict.fromkeys(method for _, method in found):
        cells, seconds = [], []
        for direction in directions:
            results = [result for _, result in sorted(found.get((direction, method), {}).items())]
            values = [overall for overall, _ in results]
            seconds += [spent for _, spent in results]
            cells.append(mean_and_deviation(values) if values else "")
            cells.append(" ".join(f"{value:.1f}" for value in values))
        lines.append(f"| {method} | {' | '.join(cells)} | {statistics.median(seconds):.0f} |")
    return "\n".join(lines)


@click.command()
@npz_option("exercise_mobilenetv2.npz")
@record_options(seeds="0,1,2,3,4")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Keep everything in this new folder."
)
@click.option(
    "--inputs",
    type=click.Choice(list(INPUTS)),
    default=PLAIN,
    show_default=True,
    help="What is done to the features first.",
)
@click.option(
    "--source",
    "sources",
    type=click.Choice(DOMAINS),
    multiple=True,
    help="Only this direction; default: both.",
)
def main(
    npz: Path,
    record_to: Path,
    seeds: str,
    chosen: tuple[str, ...],
    more: tuple[str, ...],
    folder: Path | None,
    inputs: str,
    sources: tuple[str, ...],
) -> None:
    """Train every method in both directions, and print the table."""
    variants = [recipe.replace("=", f"={SHARED} ", 1) for recipe in more]
    methods = choose_methods(METHODS, chosen, variants)
    if inputs != PLAIN:  # the record tells results apart by their names
        methods = {f"{name}, {inputs}": options for name, options in methods.items()}
    for source in sources or DOMAINS:
        [target] = set(DOMAINS) - {source}
        kept = None if folder is None else folder / f"{source}-to-{target}"
        with working_folder(kept) as root:
            folders = Folders.below(root)
            complete_record(
                record_to,
                {"problem": f"{source} -> {target}"},
                methods,
                [int(seed) for seed in seeds.split(",")],
                functools.partial(write_problem, npz, folders, inputs),
                source=source,
                target=target,
                benchmark=BENCHMARK,
                folders=folders,
            )
    click.echo("\n" + table(measured(record_to)))


if __name__ == "__main__":
    main()
