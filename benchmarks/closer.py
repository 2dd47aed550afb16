"""Class Gaussians fitted to both domains by expectation maximisation: a lift in one direction alone.

A video is one vector: the mean of its frames, with or without roots and deviations (`exercises.INPUTS`).
Each domain is standardised by itself and both are projected on their common principal components; classes are
Gaussians with one covariance, started on the source's labels. No target label is used but in the
last column. Everything is deterministic and takes a minute or two; docs/closer.md says what it means.

    OMP_NUM_THREADS=1 python -m benchmarks.closer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.exercises import DOMAINS, INPUTS, RULE, read_exercises
from benchmarks.options import npz_option
from benchmarks.planted_gap import halves, read_features, target_features
from benchmarks.presets import CHOOSE

COMPONENTS, SHRINKAGE, TARGET_WEIGHT, ROUNDS = 60, 0.3, 2.0, 5
"""Chosen on real -> render, on which docs/closer.md therefore counts them as chosen."""

Frames = Sequence[np.ndarray]
"""Of each video its features (F, D)."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Training videos of both domains, and the evaluation videos of the target, with labels (V,)."""

    source: Frames
    source_labels: np.ndarray
    target: Frames
    target_labels: np.ndarray
    held_out: Frames
    held_out_labels: np.ndarray


@dataclass(frozen=True)
class Gaussians:
    """Means (N, k) of classes that share a covariance (k, k) and are equally probable beforehand."""

    means_Nk: np.ndarray
    covariance_kk: np.ndarray

    @classmethod
    def of(cls, x_Vk: np.ndarray, weights_VN: np.ndarray) -> Gaussians:
        """The weighted means, and the weighted covariance around them, shrunk to a multiple of the identity.

        (1 - s) S + s tr(S)/k I with s = `SHRINKAGE`.
        """
        counts_N = weights_VN.sum(axis=0) + 1e-6
        means_Nk = weights_VN.T @ x_Vk / counts_N[:, None]
        S_kk = np.zeros((x_Vk.shape[1],) * 2)
        for mean_k, weights_V in zip(means_Nk, weights_VN.T):
            centred_Vk = x_Vk - mean_k
            S_kk += (centred_Vk * weights_V[:, None]).T @ centred_Vk
        S_kk /= weights_VN.sum()
        identity_kk = np.trace(S_kk) / len(S_kk) * np.eye(len(S_kk))
        return cls(means_Nk, (1 - SHRINKAGE) * S_kk + SHRINKAGE * identity_kk)

    def probabilities(self, x_Vk: np.ndarray) -> np.ndarray:
        """p(class | x), (V, N)."""
        directions_kN = np.linalg.solve(self.covariance_kk, self.means_Nk.T)
        logits_VN = x_Vk @ directions_kN - 0.5 * (self.means_Nk.T * directions_kN).sum(axis=0)
        p_VN: np.ndarray = np.exp(logits_VN - logits_VN.max(axis=1, keepdims=True))
        return p_VN / p_VN.sum(axis=1, keepdims=True)


def fitted(source_Vk: np.ndarray, onehot_VN: np.ndarray, target_Vk: np.ndarray) -> Gaussians:
    """`ROUNDS` rounds on both domains; all of the target weighs `TARGET_WEIGHT` times all of the source."""
    found = Gaussians.of(source_Vk, onehot_VN)
    share = TARGET_WEIGHT * len(source_Vk) / len(target_Vk)
    for _ in range(ROUNDS):
        guessed_VN = share * found.probabilities(target_Vk)
        found = Gaussians.of(
            np.concatenate([source_Vk, target_Vk]), np.concatenate([onehot_VN, guessed_VN])
        )
    return found


def projected(*domains: tuple[np.ndarray, ...]) -> list[list[np.ndarray]]:
    """Standardise each domain's arrays by its first, and project all on the first ones' components."""
    standardised = []
    for arrays in domains:
        mean_D, scale_D = arrays[0].mean(axis=0), arrays[0].std(axis=0)
        scale_D = scale_D + 1e-3 * arrays[0].std() + 1e-9
        standardised.append([(x - mean_D) / scale_D for x in arrays])
    both = np.concatenate([arrays[0] for arrays in standardised])
    components_kD = np.linalg.svd(both, full_matrices=False)[2][:COMPONENTS]
    return [[x @ components_kD.T for x in arrays] for arrays in standardised]


def accuracies(problem: Problem, inputs: str) -> tuple[float, float, float]:
    """In percent on the target's evaluation videos: from the source alone, adapted, from target labels."""

    def vectors(videos: Frames) -> np.ndarray:
        return np.stack([INPUTS[inputs](x.astype(np.float32)).mean(axis=0) for x in videos])

    [[source], [target, held_out]] = projected(
        (vectors(problem.source),), (vectors(problem.target), vectors(problem.held_out))
    )
    onehot = np.eye(1 + int(problem.source_labels.max()))
    labels = onehot[problem.source_labels]
    models = (
        Gaussians.of(source, labels),
        fitted(source, labels, target),
        Gaussians.of(target, onehot[problem.target_labels]),
    )
    right = [m.probabilities(held_out).argmax(axis=1) == problem.held_out_labels for m in models]
    alone, adapted, bound = (100 * float(r.mean()) for r in right)
    return alone, adapted, bound


def exercises(npz: Path, source: str) -> Problem:
    """One direction, with the split of `benchmarks.exercises`."""
    videos = read_exercises(npz)
    classes = sorted({name for rows in videos.values() for name, _ in rows.values()})

    def part(domain: str, split: str) -> tuple[Frames, np.ndarray]:
        rows = [row for video, row in videos[domain].items() if RULE.split_of(video) == split]
        return [x for _, x in rows], np.array([classes.index(name) for name, _ in rows])

    [target] = set(DOMAINS) - {source}
    parts = (part(source, "train"), part(target, "train"), part(target, "eval"))
    return _problem(*parts)


def planted(data: dict[str, np.ndarray], name: str) -> Problem:
    """A gap on which the presets were chosen too."""
    gap, labels = CHOOSE[name], data["label"].astype(int)
    parts = halves(labels, gap.skew, gap.gap_seed)
    videos = np.concatenate([parts.target_train, parts.target_eval])
    seen = target_features(data["features"], videos, gap)
    train, held_out = (
        ([seen[int(v)] for v in numbers], labels[numbers])
        for numbers in (parts.target_train, parts.target_eval)
    )
    return _problem((list(data["features"][parts.source]), labels[parts.source]), train, held_out)


def _problem(*parts: tuple[Frames, np.ndarray]) -> Problem:
    (source, source_labels), (target, target_labels), (held_out, held_out_labels) = parts
    return Problem(
        source=source,
        source_labels=source_labels,
        target=target,
        target_labels=target_labels,
        held_out=held_out,
        held_out_labels=held_out_labels,
    )


@click.command()
@npz_option("exercise_mobilenetv2.npz")
@click.option(
    "--planted-npz",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Features of `planted_gap`, to add its choosing gaps.",
)
def main(npz: Path, planted_npz: Path | None) -> None:
    """Print, for each problem and kind of input, the three accuracies."""
    problems = {f"{source} videos are labelled": exercises(npz, source) for source in DOMAINS}
    if planted_npz is not None:
        data = read_features(planted_npz)
        problems |= {f"planted {name}": planted(data, name) for name in CHOOSE}
    click.echo(
        "| problem | inputs | source alone | adapted | target's labels |\n" + "|---" * 5 + "|"
    )
    for name, problem in problems.items():
        for inputs in INPUTS:
            cells = " | ".join(f"{value:.1f}" for value in accuracies(problem, inputs))
            click.echo(f"| {name} | {inputs} | {cells} |")


if __name__ == "__main__":
    main()
