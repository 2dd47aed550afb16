"""A real gap: exercises that people were photographed and filmed at, and animations of the same movements.

MobileNetV2 features (ImageNet weights) of 336 real and 442 rendered videos of six classes become two domains.
The project's own writers make manifests and stores (`python -m benchmarks.problems exercises FOLDER`).
"""

from __future__ import annotations

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


def write_problem(npz: Path, folders: Folders) -> None:
    """Write manifests and stores of both domains; labels follow the sorted class names."""
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
        features = {video: frames for video, (_, frames) in sorted(rows.items())}
        write_features(folders.features, domain, CONFIG, features, WEIGHTS)
