"""Class Gaussians fitted to both domains by expectation maximisation: a lift in one direction alone.

A video is one vector: the mean of its frames, with or without roots and deviations (`exercises.INPUTS`).
Each domain is standardised by itself and both are projected on their common principal components; classes are
Gaussians with one covariance, started on the source's labels. "With prior" pulls the frequencies of the
classes that are guessed for the target towards the source's. The last row of a problem averages the
probabilities of all inputs and of several numbers of components. No target label is used but in the last
column. Everything is deterministic; the exercises take a minute, each planted gap one or two. docs/closer.md
says what it means.

    OMP_NUM_THREADS=1 python -m benchmarks.closer
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.exercises import DOMAINS, INPUTS, RULE, read_exercises
from benchmarks.options import npz_option
from benchmarks.planted_gap import Gap, halves, read_features, target_features
from benchmarks.presets import SETS

COMPONENTS, SHRINKAGE, TARGET_WEIGHT, ROUNDS = 60, 0.3, 2.0, 5
"""Chosen on real -> render, on which docs/closer.md therefore counts them as chosen."""
STRENGTH, TOGETHER = 10.0, (40, 70, 100)
"""Of the prior, and components whose models are averaged: chosen on real -> render and planted gaps."""

Frames = Sequence[np.ndarray]
"""Of each video its features (F, D)."""


@dataclass(frozen=True)
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

    def logits(self, x_Vk: np.ndarray) -> np.ndarray:
        """log p(x | class) up to what all classes share, (V, N)."""
        directions_kN = np.linalg.solve(self.covariance_kk, self.means_Nk.T)
        found: np.ndarray = x_Vk @ directions_kN
        return found - 0.5 * (self.means_Nk.T * directions_kN).sum(axis=0)

    def probabilities(self, x_Vk: np.ndarray) -> np.ndarray:
        """p(class | x), (V, N)."""
        return softmax(self.logits(x_Vk))


def softmax(logits_VN: np.ndarray) -> np.ndarray:
    """Probabilities, (V, N)."""
    p_VN: np.ndarray = np.exp(logits_VN - logits_VN.max(axis=1, keepdims=True))
    return p_VN / p_VN.sum(axis=1, keepdims=True)


def balanced(logits_VN: np.ndarray, prior_N: np.ndarray, strength: float) -> np.ndarray:
    """p = softmax(logits + b), (V, N), with the biases b (N,) for which b = strength log(prior / mean_v p).

    They minimise mean_v log sum_n exp(logits + b) + strength sum_n prior exp(-b / strength), which is convex.
    Strength 0 is the softmax. With infinite strength the mean is the prior, as in Sinkhorn's assignment;
    in between the videos may overrule it.
    """
    b_N = np.zeros(len(prior_N))
    for _ in range(200):
        frequencies_N = np.maximum(softmax(logits_VN + b_N).mean(axis=0), 1e-9)
        b_N += (strength * np.log(prior_N / frequencies_N) - b_N) / (1 + strength)
    return softmax(logits_VN + b_N)


def fitted(
    source_Vk: np.ndarray, onehot_VN: np.ndarray, target_Vk: np.ndarray, strength: float = 0.0
) -> Gaussians:
    """`ROUNDS` rounds on both domains; all of the target weighs `TARGET_WEIGHT` times all of the source.

    Args:
        strength: how much the source's classes' frequencies count for the target, see `balanced`.
    """
    found, prior_N = Gaussians.of(source_Vk, onehot_VN), onehot_VN.mean(axis=0)
    share = TARGET_WEIGHT * len(source_Vk) / len(target_Vk)
    for _ in range(ROUNDS):
        guessed_VN = share * balanced(found.logits(target_Vk), prior_N, strength)
        found = Gaussians.of(
            np.concatenate([source_Vk, target_Vk]), np.concatenate([onehot_VN, guessed_VN])
        )
    return found


def projected(*domains: tuple[np.ndarray, ...], count: int) -> list[list[np.ndarray]]:
    """Standardise each domain's arrays by its first; project all on `count` components of the first ones."""
    standardised = []
    for arrays in domains:
        mean_D, scale_D = arrays[0].mean(axis=0), arrays[0].std(axis=0)
        scale_D = scale_D + 1e-3 * arrays[0].std() + 1e-9
        standardised.append([(x - mean_D) / scale_D for x in arrays])
    both = np.concatenate([arrays[0] for arrays in standardised])
    components_kD = np.linalg.svd(both, full_matrices=False)[2][:count]
    return [[x @ components_kD.T for x in arrays] for arrays in standardised]


def probabilities(problem: Problem, inputs: str) -> dict[int, np.ndarray]:
    """Of each number of components, the classes' probabilities of the evaluation videos (4, V, N).

    From the source alone, adapted, adapted with the source's prior, and from the target's labels.
    """

    def vectors(videos: Frames) -> np.ndarray:
        return np.stack([INPUTS[inputs](x.astype(np.float32)).mean(axis=0) for x in videos])

    [[all_source], [all_target, all_held_out]] = projected(
        (vectors(problem.source),),
        (vectors(problem.target), vectors(problem.held_out)),
        count=max(COMPONENTS, *TOGETHER),
    )
    onehot = np.eye(1 + int(problem.source_labels.max()))
    labels, found = onehot[problem.source_labels], {}
    for k in (COMPONENTS, *TOGETHER):
        source, target, held_out = all_source[:, :k], all_target[:, :k], all_held_out[:, :k]
        models = (
            Gaussians.of(source, labels),
            fitted(source, labels, target),
            fitted(source, labels, target, STRENGTH),
            Gaussians.of(target, onehot[problem.target_labels]),
        )
        found[k] = np.stack([model.probabilities(held_out) for model in models])
    return found


def rows(problem: Problem) -> dict[str, list[float]]:
    """Accuracies in percent on the evaluation videos of each kind of input, and of all together."""
    every = {inputs: probabilities(problem, inputs) for inputs in INPUTS}
    found = {inputs: by_count[COMPONENTS] for inputs, by_count in every.items()}
    members = [by_count[k] for by_count in every.values() for k in TOGETHER]
    found["together"] = np.mean(members, axis=0)
    right = {n: p_4VN.argmax(axis=2) == problem.held_out_labels for n, p_4VN in found.items()}
    return {n: [100 * float(x) for x in r_4V.mean(axis=1)] for n, r_4V in right.items()}


def exercises(npz: Path, source: str, split_seed: int = RULE.seed) -> Problem:
    """One direction, split as by `benchmarks.exercises` with that seed or another one."""
    rule = dataclasses.replace(RULE, seed=split_seed)
    videos = read_exercises(npz)
    classes = sorted({name for rows in videos.values() for name, _ in rows.values()})

    def part(domain: str, split: str) -> tuple[Frames, np.ndarray]:
        rows = [row for video, row in videos[domain].items() if rule.split_of(video) == split]
        return [x for _, x in rows], np.array([classes.index(name) for name, _ in rows])

    [target] = set(DOMAINS) - {source}
    return Problem(*part(source, "train"), *part(target, "train"), *part(target, "eval"))


def planted(data: dict[str, np.ndarray], gap: Gap) -> Problem:
    """A gap that the presets were chosen or confirmed on too."""
    labels = data["label"].astype(int)
    parts = halves(labels, gap.skew, gap.gap_seed)
    videos = np.concatenate([parts.target_train, parts.target_eval])
    seen = target_features(data["features"], videos, gap)
    train, held_out = (
        ([seen[int(v)] for v in numbers], labels[numbers])
        for numbers in (parts.target_train, parts.target_eval)
    )
    return Problem(list(data["features"][parts.source]), labels[parts.source], *train, *held_out)


@click.command()
@npz_option("exercise_mobilenetv2.npz")
@click.option(
    "--planted-npz",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Features of `planted_gap`, to add planted gaps.",
)
@click.option(
    "--gaps",
    type=click.Choice(list(SETS)),
    default="choose",
    show_default=True,
    help="Which planted gaps: a set of benchmarks/presets.md.",
)
@click.option(
    "--labelled",
    type=click.Choice(DOMAINS),
    multiple=True,
    default=DOMAINS,
    help="Of the exercises, only the direction from this domain. Default: both.",
)
@click.option("--split-seed", default=RULE.seed, show_default=True, help="Of the exercises.")
def main(
    npz: Path, planted_npz: Path | None, gaps: str, labelled: tuple[str, ...], split_seed: int
) -> None:
    """Print, for each problem and kind of input, the accuracies on the evaluation videos."""
    titles = "problem | inputs | source alone | adapted | with prior | target's labels"
    click.echo(f"| {titles} |\n" + "|---" * 6 + "|")

    def show(name: str, problem: Problem) -> None:
        for inputs, values in rows(problem).items():
            click.echo(f"| {name} | {inputs} | {' | '.join(f'{v:.1f}' for v in values)} |")

    for source in labelled:
        show(f"{source} videos are labelled", exercises(npz, source, split_seed))
    if planted_npz is not None:
        data = read_features(planted_npz)
        for name, gap in SETS[gaps].items():
            show(f"planted {name}", planted(data, gap))


if __name__ == "__main__":
    main()
