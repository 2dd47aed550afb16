"""How weights and rates change over a run, as functions of p, the finished share of the epochs."""

from __future__ import annotations

import hashlib
import math

import torch


def ramp(p: float) -> float:
    """From 0 to 1: 2 / (1 + exp(-10 p)) - 1 (Ganin et al., DANN)."""
    return 2 / (1 + math.exp(-10 * p)) - 1


def annealed(p: float) -> float:
    """Factor of the learning rate: 1 / (1 + 10 p)^0.75 (Ganin et al., DANN)."""
    return float((1 + 10 * p) ** -0.75)


def named_seed(seed: int, name: str) -> int:
    """A seed of its own for every random choice, so that adding one does not move the others."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for one named random choice."""
    return torch.Generator().manual_seed(named_seed(seed, name))
