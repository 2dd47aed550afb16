"""How weights and rates change over a run, and where its random choices come from."""

from __future__ import annotations

import hashlib
import math

import torch

from adapt.config import AdaptConfig
from adapt.methods import Progress


def ramp(p: float) -> float:
    """From 0 to 1: 2 / (1 + exp(-10 p)) - 1 (Ganin et al., DANN)."""
    return 2 / (1 + math.exp(-10 * p)) - 1


def annealed(p: float) -> float:
    """Factor of the learning rate: 1 / (1 + 10 p)^0.75 (Ganin et al., DANN)."""
    return float((1 + 10 * p) ** -0.75)


def slow_ramp(progress: Progress) -> float:
    """2 / (1 + exp(-e / E)) - 1 in epoch e = 1, 2, ... of E: from about 0 to 0.462 (TA3N's code)."""
    return 2 / (1 + math.exp(-(progress.epoch + 1) / progress.epochs)) - 1


def reversal_coefficient(config: AdaptConfig, share: float) -> float:
    """The coefficient of the gradient reversal after a share of the epochs."""
    return config.adversarial_weight * (ramp(share) if config.adversarial_ramp == "dann" else 1)


def learning_rate(config: AdaptConfig, progress: Progress) -> float:
    """The learning rate of the coming step.

    With `dann` it is rate / (1 + 10 p)^0.75 with p the finished share of the epochs. With `ta3n` it is
    what TA3N's code makes of the same formula: it is set after every step i = 0, 1, ... of epoch
    e = 1, 2, ... with p = (i + e L) / (E L), L steps in an epoch and E epochs, so the first step has the
    undecayed rate, the second p = 1 / E, and the last one a p beyond 1. With `inverse` it is
    rate / (1 + g i)^0.75 after i steps of the run (Long et al., DAN, JAN and CDAN), and with `cosine`
    rate (1 + cos(pi e / E)) / 2 in epoch e = 1, 2, ... (TransferAttn).
    """
    if config.rate_decay == "none":
        return config.learning_rate
    if config.rate_decay == "dann":
        return config.learning_rate * annealed(progress.share)
    if config.rate_decay == "cosine":
        ahead = (progress.epoch + 1) / progress.epochs
        return config.learning_rate * (1 + math.cos(math.pi * ahead)) / 2
    done = progress.epoch * progress.steps + progress.step
    if config.rate_decay == "inverse":
        return config.learning_rate * float((1 + config.rate_gamma * done) ** -0.75)
    before = done - 1  # steps before the last one
    if before < 0:
        return config.learning_rate
    return config.learning_rate * annealed(
        (before + progress.steps) / (progress.epochs * progress.steps)
    )


def named_seed(seed: int, name: str) -> int:
    """A seed of its own for every random choice, so that adding one does not move the others."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for one named random choice."""
    return torch.Generator().manual_seed(named_seed(seed, name))
