"""Real features with a planted gap: what adaptation wins back when the truth about the gap is known.

1865 UCF101 videos of 14 classes (VGG-16 features, 25 frames each) become two domains that share no
video. The target's frames are misaligned in time, mixed with background frames and distorted by a gap
of chosen family and strength. Manifests and stores are written by the project's own writers; training
is `cli.py adapt`.

    OMP_NUM_THREADS=1 python -m benchmarks.planted_gap
    python -m benchmarks.planted_gap --family mix --mix 1.5 --background 0.5 --method source-only
    python -m benchmarks.planted_gap --variant "letter of eq. 9=--preset paper --bound none"

Longer than the project's other modules because a benchmark is one script, read from top to bottom.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from adapt.settings import TA3N_FAMILY
from benchmarks.common import (
    Folders,
    adapt_over_seeds,
    choose_methods,
    record,
    sized,
    table,
    working_folder,
)
from benchmarks.options import npz_option
from store.format import store_folder
from store.manifest import Video, write_manifest
from store.records import VideoRecord
from store.tables import write_index
from store.write import ShardWriter

BENCHMARK, SOURCE, TARGET = "planted-gap", "plain", "shifted"
LABELLED_TARGET = "shifted-labelled"
"""The target once more under a name that can be a source, to train on its labels."""
WEIGHTS = "VGG-16 features of real videos, planted gap"
BACKGROUND_OF = 6
"""Frames whose mean makes one background frame."""
RANK = 48
"""Of the low-rank part of the family `mix`."""

QUICK = shlex.split("--batch-size 32")
METHODS = {
    "source-only": "--method source-only",
    "source-only, sampled as released": (
        "--method source-only --learning-rate 3e-4 --rate-decay none --weight-decay 5e-4 --draws 5 "
        "--eval-draws 5 --source-sampling smallest-class"
    ),
    "released, Adam 3e-4": "--preset released --learning-rate 3e-4",
    "paper": "--preset paper",
    "dann, settings of paper": "--method dann --preset paper",
}
OWN_SETTINGS = {
    "dann": "--method dann",
    "ta3n": "--method ta3n",
    "source-only, ta3n settings": "--method source-only --preset own",
}
"""With the epochs, batches and frames of TA3N's authors instead of those that the other rows share."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Family and strengths of a planted gap."""

    family: str = field(
        default="gain",
        metadata={"help": "gain: per-channel gain, shift, drop; mix: channels mixed."},
    )
    gain: float = field(default=1.2, metadata={"help": "gain: deviation of the log gain."})
    shift: float = field(
        default=1.5, metadata={"help": "gain: shift in units of the mean feature."}
    )
    drop: float = field(default=0.4, metadata={"help": "gain: share of channels set to 0."})
    mix: float = field(default=1.0, metadata={"help": "mix: strength t."})
    background: float = field(default=0.6, metadata={"help": "Share of background frames."})
    misaligned: bool = field(default=True, metadata={"help": "Cut a random window of each video."})
    drift: float = field(
        default=0.0,
        metadata={"help": "1: the gap grows from nothing at the first frame; 0: it is constant."},
    )
    skew: float = field(
        default=1.0,
        metadata={
            "help": "The target's largest class is so many times its smallest; 1: as they are."
        },
    )
    gap_seed: int = field(default=1, metadata={"help": "Seed of the gap."})

    @property
    def name(self) -> str:
        """Family and strengths in a few words."""
        strengths = {
            "gain": f"gain {self.gain}, shift {self.shift}, drop {self.drop}",
            "mix": f"mix {self.mix}",
        }[self.family]
        more = f", drift {self.drift}" * (self.drift > 0) + ", aligned" * (not self.misaligned)
        more += f", skew {self.skew:g}" * (self.skew > 1)
        return f"{strengths}, background {self.background}{more}, gap seed {self.gap_seed}"


@dataclass(frozen=True)
class Halves:
    """Numbers of the videos of each part."""

    source: np.ndarray
    target_train: np.ndarray
    target_eval: np.ndarray


def halves(labels: np.ndarray, skew: float = 1.0, seed: int = 0) -> Halves:
    """Per class, in file order: the later half is source; of the earlier the first third is evaluation.

    Args:
        skew: of the target the classes keep shares from 1 down to 1/skew, evenly spaced in their
            logarithm, in an order of the seed's.
    """
    source, train, held_out = [], [], []
    classes = np.unique(labels)
    shares = skew ** -np.linspace(0, 1, len(classes))
    np.random.default_rng([seed, 1]).shuffle(shares)
    for label, share in zip(classes, shares):
        members = np.flatnonzero(labels == label)
        target, rest = np.split(members, [len(members) // 2])
        evaluation, training = (
            part[: max(1, round(share * len(part)))]
            for part in np.split(target, [len(target) // 3])
        )
        source.append(rest)
        train.append(training)
        held_out.append(evaluation)
    return Halves(*(np.concatenate(part) for part in (source, train, held_out)))


def target_features(features: np.ndarray, videos: np.ndarray, gap: Gap) -> dict[int, np.ndarray]:
    """The chosen videos as the target sees them: (V, F, D) float16 -> per video (F, D) float32.

    One generator, in this order: the gap's parameters, then per video the window's start and end, which
    frames become background, and the frames that each background is the mean of.
    """
    random = np.random.default_rng(gap.gap_seed)
    count, frames, width = features.shape
    distort = FAMILIES[gap.family](random, width, float(features.mean(dtype=np.float64)), gap)
    every = features.reshape(count * frames, width)
    strength = 1 - gap.drift * (1 - np.linspace(0, 1, frames, dtype=np.float32)[:, None])
    result = {}
    for video in videos:
        x = features[video].astype(np.float32)
        if gap.misaligned:
            start, end = random.integers(0, 8), random.integers(frames - 8, frames)
            x = x[np.rint(np.linspace(start, end, frames)).astype(int)]
        replaced = random.random(frames) < gap.background
        mixed = random.integers(0, len(every), (frames, BACKGROUND_OF))
        x[replaced] = every[mixed[replaced]].astype(np.float32).mean(axis=1)
        result[int(video)] = (1 - strength) * x + strength * distort(x)
    return result


Distortion = Callable[[np.ndarray], np.ndarray]


def _gain(random: np.random.Generator, width: int, mean: float, gap: Gap) -> Distortion:
    """x <- max(0, x g + b) m, with g, b, m per channel."""
    g = np.exp(random.normal(0, gap.gain, width)).astype(np.float32)
    b = (gap.shift * mean * np.abs(random.normal(size=width))).astype(np.float32)
    m = (random.random(width) >= gap.drop).astype(np.float32)
    return lambda x: np.maximum(0, x * g + b) * m


def _mix(random: np.random.Generator, width: int, mean: float, gap: Gap) -> Distortion:
    """x <- max(0, (1-a) x + a x[p] + t/2 (x A) B / sqrt(48)); batch statistics cannot undo this."""
    p = random.permutation(width)
    a = np.clip(random.normal(0.5 * gap.mix, 0.25, width), 0, 1).astype(np.float32)
    A = (random.normal(size=(width, RANK)) / np.sqrt(width)).astype(np.float32)
    B = (random.normal(size=(RANK, width)) / np.sqrt(RANK)).astype(np.float32)
    return lambda x: np.maximum(0, (1 - a) * x + a * x[:, p] + 0.5 * gap.mix * (x @ A) @ B)


FAMILIES: Mapping[str, Callable[[np.random.Generator, int, float, Gap], Distortion]] = {
    "gain": _gain,
    "mix": _mix,
}


def write_problem(
    data: Mapping[str, np.ndarray],
    gap: Gap,
    folders: Folders,
    domains: Sequence[str] = (SOURCE, TARGET),
    benchmark: str = BENCHMARK,
) -> None:
    """Write manifests and stores of the domains.

    Args:
        data: arrays `features` (V, F, D), `label` (V,), `video` (V,) ids, `classes` (N,) names.
        gap: what separates the target from the source.
        folders: where to write.
        domains: of SOURCE, TARGET and LABELLED_TARGET.
        benchmark: the name of the manifests' folder.
    """
    parts = halves(data["label"], gap.skew, gap.gap_seed)
    target = target_features(
        data["features"], np.concatenate([parts.target_train, parts.target_eval]), gap
    )
    source = {int(v): data["features"][v] for v in parts.source}
    held_out = set(parts.target_eval.tolist())
    config = {"backbone": "vgg16-relu6", "gap": dataclasses.asdict(gap)}
    features_of = {SOURCE: source, TARGET: target, LABELLED_TARGET: target}
    for domain in domains:
        features = features_of[domain]
        rows = [
            Video(
                id=str(data["video"][v]),
                label=int(data["label"][v]),
                class_name=str(data["classes"][data["label"][v]]),
                split="eval" if v in held_out else "train",
                frames=len(features[v]),
            )
            for v in sorted(features)
        ]
        write_manifest(folders.manifests / benchmark / f"{domain}.csv", rows)
        named = {row.id: features[v] for row, v in zip(rows, sorted(features))}
        write_features(folders.features, domain, config, named, WEIGHTS)


def write_features(
    features: Path,
    dataset: str,
    config: Mapping[str, Any],
    videos: Mapping[str, np.ndarray],
    weights: str,
) -> None:
    """Write a store of one shard.

    Args:
        videos: id -> features (F, D).
        weights: what made them, in words that `adapt` shows.
    """
    folder = store_folder(features, dataset, config)
    folder.mkdir(parents=True)
    with ShardWriter(folder, 0, config) as writer:
        records = [writer.add(VideoRecord(video=name), x) for name, x in videos.items()]
    width = next(iter(videos.values())).shape[1]
    write_index(
        folder,
        dataset=dataset,
        config=config,
        width=width,
        records=records,
        run={"weights": weights},
    )


def _gap_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for f in reversed(dataclasses.fields(Gap)):
        flag = "--" + f.name.replace("_", "-")
        function = click.option(
            f"{flag}/--no-{flag[2:]}" if f.type == "bool" else flag,
            type=click.Choice(list(FAMILIES)) if f.name == "family" else None,
            default=f.default,
            show_default=True,
            help=f.metadata["help"],
        )(function)
    return function


NPZ = npz_option("ucf14_vgg16.npz")


def read_features(npz: Path) -> dict[str, np.ndarray]:
    """The arrays that `write_problem` takes."""
    with np.load(npz, allow_pickle=False) as arrays:
        return dict(arrays)


@click.command()
@_gap_options
@NPZ
@click.option("--folder", type=click.Path(path_type=Path), help="Keep everything here.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Training seeds.")
@click.option(
    "--epochs", default=15, show_default=True, help="Rows with TA3N's settings keep their own."
)
@click.option(
    "--method",
    "chosen",
    type=click.Choice([*METHODS, *OWN_SETTINGS]),
    multiple=True,
    help="Default: all.",
)
@click.option("--variant", "variants", multiple=True, metavar="NAME=OPTIONS", help="Of adapt.")
@click.option("--record", "record_to", type=click.Path(path_type=Path), help="Append JSON lines.")
def planted_gap(
    npz: Path,
    folder: Path | None,
    seeds: str,
    epochs: int,
    chosen: tuple[str, ...],
    variants: tuple[str, ...],
    record_to: Path | None,
    **strengths: Any,
) -> None:
    """Plant a gap, train on it, and print a table."""
    gap = Gap(**strengths)
    methods = choose_methods(METHODS | OWN_SETTINGS, chosen, variants)
    quick = [*QUICK, "--epochs", str(epochs)]
    with working_folder(folder) as root:
        folders = Folders.below(root)
        write_problem(read_features(npz), gap, folders)
        rows = [
            adapt_over_seeds(
                name,
                [*([] if name in OWN_SETTINGS else quick), *sized(options)],
                source=SOURCE,
                target=TARGET,
                benchmark=BENCHMARK,
                seeds=[int(s) for s in seeds.split(",")],
                folders=folders,
            )
            for name, options in methods.items()
        ]
    trained = {name: TA3N_FAMILY["epochs"] if name in OWN_SETTINGS else epochs for name in methods}
    said = " or ".join(map(str, sorted(set(trained.values()))))
    click.echo("\n" + table(rows, f"{gap.name}, {said} epochs"))
    if record_to:
        for row in rows:
            record(record_to, {**dataclasses.asdict(gap), "epochs": trained[row.name]}, [row])


if __name__ == "__main__":
    planted_gap()
