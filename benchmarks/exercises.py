"""A real gap: exercises that people were photographed and filmed at, and animations of the same movements.

MobileNetV2 features (ImageNet weights) of 336 real and 442 rendered videos of six classes become two domains.
The project's own writers make manifests and stores (`python -m benchmarks.problems exercises FOLDER`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.common import Folders
from benchmarks.planted_gap import write_features
from extract.from_folders import SplitRule
from store.manifest import Video, write_manifest

BENCHMARK, DOMAINS = "exercises", ("real", "render")
RULE = SplitRule(eval_fraction=0.4, seed=0)
"""The rule of `manifest from-folder`, on ids `<class>/<video>` as it would give them."""
CONFIG = {"backbone": "mobilenet_v2"}
WEIGHTS = "MobileNetV2 with ImageNet weights, up to 24 evenly spaced frames"

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
