"""Losses on the target that the project does not have, screened in a lean loop on real -> render.

Longer than the project's other modules because a benchmark is one script, read from top to bottom.

Encoder, optimiser, batches and target statistics are those of `infomax` with input norm, with 4 frames of a
video and without the project's storing and checking. Every row is the source's cross entropy and what
`ROWS` says. Printed are the accuracy on the target's evaluation videos (mean and sample deviation over the
seeds, then each seed), the mean over all its videos, and the accuracy of the seeds' mean probabilities. No
target label is used but for these figures; docs/closer.md. Five seeds of a row take a minute or two.

    OMP_NUM_THREADS=1 python -m benchmarks.closer_losses --row infomax --row prior
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.losses import entropy
from benchmarks.closer import Frames, Problem, exercises
from benchmarks.common import mean_and_deviation
from benchmarks.exercises import DOMAINS
from benchmarks.options import npz_option

WIDTH, BATCH, FRAMES, EVAL_FRAMES, EPOCHS, RATE = 256, 32, 4, 8, 60, 3e-4
INFOMAX = {"entropy": 0.1, "diversity": 0.1}
ROWS: Mapping[str, Mapping[str, float]] = {
    "source-only": {},
    "infomax": INFOMAX,
    "prior": {**INFOMAX, "prior": 1},
    "nuclear norm, 1": {"nuclear": 1.0},
    "nuclear norm, 0.3": {"nuclear": 0.3},
    "two draws": {**INFOMAX, "draws": 1.0},
    "mean teacher": {**INFOMAX, "teacher": 1.0},
    "balanced labels": {**INFOMAX, "balanced": 0.3, "prior": 1},
    "mixup of the source": {**INFOMAX, "mix-source": 1.0},
    "mixup of the target": {**INFOMAX, "mix-target": 0.3},
    "mixup across": {**INFOMAX, "mix-across": 0.3},
    "prior, two draws": {**INFOMAX, "prior": 1, "draws": 1.0},
    "prior, mixup across": {**INFOMAX, "prior": 1, "mix-across": 0.3},
    "student": {"student": 1.0},
}
"""Weights of the losses.

`entropy` is H(p) of the target's predictions; `diversity` the divergence of their mean from equal classes, or
with `prior` from the source's frequencies; `nuclear` minus the nuclear norm of a batch's probabilities per
video (Cui et al., CVPR 2020); `draws` the square distance between two draws of frames; `teacher` the same
distance from a moving average of the weights (0.99), which also predicts (Tarvainen and Valpola, NeurIPS
2017), growing over 30 % of the steps; `balanced`, after 15 % of the steps, cross entropy with that average's
labels, assigned in each batch by Sinkhorn with the prior as frequencies; `mix-` mixup of the inputs with
Beta(0.3, 0.3), across domains Beta(1, 1), a target video having its own prediction as label; `student` cross
entropy with the mean probabilities of `infomax` of the seeds 10 to 14.
"""


def drawn(videos: Frames, numbers: np.ndarray, random: np.random.Generator) -> Tensor:
    """One random frame of each of `FRAMES` segments, (B, T, D)."""
    found, i_T = [], np.arange(FRAMES)
    for number in numbers:
        count = len(videos[number])
        begin_T, end_T = i_T * count // FRAMES, (i_T + 1) * count // FRAMES
        draws_T = random.integers(0, 1 << 30, FRAMES) % np.maximum(end_T - begin_T, 1)
        found.append(videos[number][begin_T + draws_T])
    return torch.from_numpy(np.stack(found)).float()


def centred(videos: Frames) -> Tensor:
    """The frames at the centres of `EVAL_FRAMES` segments, (V, T, D)."""
    i_T = 2 * np.arange(EVAL_FRAMES) + 1
    return torch.from_numpy(
        np.stack([x[i_T * len(x) // (2 * EVAL_FRAMES)] for x in videos])
    ).float()


class Network(nn.Module):
    """The two-layer encoder behind a norm of the inputs, the mean over frames, and a classifier."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        first = (nn.Linear(width, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(0.5))
        second = (nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.encoder = nn.Sequential(nn.BatchNorm1d(width), *first, *second)
        self.classifier = nn.Linear(WIDTH, classes)

    def forward(self, features_BTD: Tensor) -> Tensor:
        """(B, T, D) -> logits (B, N)."""
        with torch.autocast("cpu", torch.bfloat16):
            frames = self.encoder(features_BTD.flatten(0, 1)).unflatten(0, features_BTD.shape[:2])
            logits_BN: Tensor = self.classifier(frames.float().mean(dim=1))
        return logits_BN.float()


def assigned(logits_BN: Tensor, prior_N: Tensor) -> Tensor:
    """Labels (B,) after Sinkhorn's rows of 1 and columns of `prior_N` shares of the batch."""
    q_BN = logits_BN.softmax(dim=1)
    for _ in range(50):
        q_BN = q_BN / q_BN.sum(dim=0).clamp_min(1e-12) * prior_N * len(q_BN)
        q_BN = q_BN / q_BN.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return q_BN.argmax(dim=1)


class Trainer:
    """One network on one problem."""

    def __init__(self, problem: Problem, weights: Mapping[str, float], seed: int) -> None:
        torch.manual_seed(seed)
        self.problem, self.weights = problem, weights
        self.random = np.random.default_rng([seed, 7])
        self.labels_V = torch.from_numpy(problem.source_labels)
        self.classes = int(self.labels_V.max()) + 1
        self.network = Network(problem.source[0].shape[1], self.classes)
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)
        self.averages = "teacher" in weights or "balanced" in weights
        self.prior_N = torch.full((self.classes,), 1 / self.classes)
        if "prior" in weights:
            self.prior_N = self.labels_V.bincount(minlength=self.classes) / len(self.labels_V)

    def losses(
        self, numbers: np.ndarray, chosen: np.ndarray, progress: float, soft_VN: Tensor | None
    ) -> dict[str, Tensor]:
        """The losses by the names of `ROWS`, for source and target videos of these numbers."""
        w, network = self.weights, self.network
        source = drawn(self.problem.source, numbers, self.random)
        target = drawn(self.problem.target, chosen, self.random)
        y_B = self.labels_V[numbers]
        source_BN, target_BN = network(source), network(target)
        p_BN = target_BN.softmax(dim=1)
        mean_N = p_BN.mean(dim=0).clamp_min(1e-8)
        parts = {
            "source": F.cross_entropy(source_BN, y_B),
            "entropy": entropy(target_BN).mean(),
            "diversity": (mean_N * (mean_N / self.prior_N).log()).sum(),
        }
        if "nuclear" in w:
            parts["nuclear"] = -torch.linalg.matrix_norm(p_BN, "nuc") / len(p_BN)
        if "draws" in w:
            again_BN = network(drawn(self.problem.target, chosen, self.random)).softmax(dim=1)
            parts["draws"] = (p_BN - again_BN).square().sum(dim=1).mean()
        if self.averages:
            with torch.no_grad():
                taught_BN = self.teacher(drawn(self.problem.target, chosen, self.random))
            square = (p_BN - taught_BN.softmax(dim=1)).square().sum(dim=1).mean()
            parts["teacher"] = min(1.0, progress / 0.3) * square
            labels_B = assigned(taught_BN, self.prior_N)
            parts["balanced"] = (progress > 0.15) * F.cross_entropy(target_BN, labels_B)
        if soft_VN is not None:
            parts["student"] = F.cross_entropy(target_BN, soft_VN[chosen])
        parts |= self._mixups(source, F.one_hot(y_B, self.classes).float(), target, p_BN.detach())
        return parts

    def _mixups(
        self, source: Tensor, source_BN: Tensor, target: Tensor, target_BN: Tensor
    ) -> dict[str, Tensor]:
        """Soft cross entropy on a x + (1 - a) x', labels mixed likewise; only what `weights` ask for."""
        [kind] = [name for name in self.weights if name.startswith("mix-")] or [""]
        if not kind:
            return {}
        a = float(self.random.beta(*((1.0, 1.0) if kind == "mix-across" else (0.3, 0.3))))
        x, y_BN = (target, target_BN) if kind == "mix-target" else (source, source_BN)
        if kind == "mix-across":
            n = min(len(source), len(target))
            x, y_BN, other, other_BN = x[:n], y_BN[:n], target[:n], target_BN[:n]
        else:
            order = torch.randperm(len(x))
            other, other_BN = x[order], y_BN[order]
        logits_BN = self.network(a * x + (1 - a) * other)
        return {kind: F.cross_entropy(logits_BN, a * y_BN + (1 - a) * other_BN)}

    def train(self, soft_VN: Tensor | None = None) -> None:
        """All epochs; `soft_VN` are the labels of the student."""
        optimiser = torch.optim.Adam(self.network.parameters(), RATE)
        count, waiting, step = len(self.labels_V), np.array([], dtype=int), 0
        total = EPOCHS * -(-count // BATCH)
        for _ in range(EPOCHS):
            self.network.train()
            for numbers in np.split(self.random.permutation(count), range(BATCH, count, BATCH)):
                if len(waiting) < BATCH:
                    more = self.random.permutation(len(self.problem.target))
                    waiting = np.concatenate([waiting, more])
                chosen, waiting = waiting[:BATCH], waiting[BATCH:]
                parts = self.losses(numbers, chosen, step / total, soft_VN)
                loss = parts["source"]
                for name, weight in self.weights.items():
                    if name != "prior":
                        loss = loss + weight * parts[name]
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step += 1
                share = min(0.99, 1 - 1 / (step + 1))
                for mine, theirs in zip(self.teacher.parameters(), self.network.parameters()):
                    mine.data.mul_(share).add_(theirs.data, alpha=1 - share)

    @torch.no_grad()
    def predict(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (V, N) of the target's training and evaluation videos, by its statistics."""
        model = self.teacher if self.averages else self.network
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
                module.momentum = None
            if isinstance(module, nn.Dropout):
                module.eval()
        seen, held_out = centred(self.problem.target), centred(self.problem.held_out)
        model(seen)
        model.eval()
        return model(seen).softmax(dim=1).numpy(), model(held_out).softmax(dim=1).numpy()


def trained(
    problem: Problem, weights: Mapping[str, float], seed: int, soft_VN: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`Trainer.predict` after training."""
    trainer = Trainer(problem, weights, seed)
    trainer.train(soft_VN)
    return trainer.predict()


@click.command()
@npz_option("exercise_mobilenetv2.npz")
@click.option("--row", "chosen", type=click.Choice(list(ROWS)), multiple=True, help="Default: all.")
@click.option("--seeds", default=5, show_default=True, help="How many seeds, from 0.")
@click.option(
    "--labelled",
    type=click.Choice(DOMAINS),
    default=DOMAINS[0],
    show_default=True,
    help="The source.",
)
def main(npz: Path, chosen: tuple[str, ...], seeds: int, labelled: str) -> None:
    """Train every row with every seed, and print its accuracies on the target."""
    torch.set_num_threads(1)
    problem = exercises(npz, labelled)
    labels_V = np.concatenate([problem.target_labels, problem.held_out_labels])
    seen = len(problem.target_labels)
    for row in chosen or ROWS:
        soft = None
        if "student" in ROWS[row]:
            teachers = [trained(problem, INFOMAX, seed)[0] for seed in range(10, 15)]
            soft = torch.from_numpy(np.mean(teachers, axis=0))
        p_RVN = np.stack(
            [np.concatenate(trained(problem, ROWS[row], s, soft)) for s in range(seeds)]
        )
        right_RV = 100.0 * (p_RVN.argmax(axis=2) == labels_V)
        single_R = [float(x) for x in right_RV[:, seen:].mean(axis=1)]
        together = 100 * (p_RVN.mean(axis=0).argmax(axis=1) == labels_V)[seen:].mean()
        cells = [mean_and_deviation(single_R), " ".join(f"{v:.1f}" for v in single_R)]
        click.echo(f"| {row} | {' | '.join(cells)} | {right_RV.mean():.1f} | {together:.1f} |")


if __name__ == "__main__":
    main()
