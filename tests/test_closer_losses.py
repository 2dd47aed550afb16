"""The lean loop of `benchmarks.closer_losses`: rows learn an easy problem, and labels are balanced."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import closer_losses
from benchmarks.closer import Problem


def easy(count: int, seed: int, shift: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Videos of three classes that lie far apart, every channel shifted."""
    random, labels = np.random.default_rng(seed), np.arange(count) % 3
    centres = shift + 6 * np.eye(3, 8)[labels]
    return [c + random.normal(size=(5, 8)) for c in centres], labels


@pytest.mark.parametrize("row", closer_losses.ROWS)
def test_every_row_learns_what_is_easy(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closer_losses, "EPOCHS", 12)
    problem = Problem(*easy(90, 0, 0.0), *easy(60, 1, 2.0), *easy(30, 2, 2.0))
    soft = torch.from_numpy(np.eye(3, dtype=np.float32)[problem.target_labels])
    weights = closer_losses.ROWS[row]
    given = soft if "student" in weights else None
    seen, held_out = closer_losses.trained(problem, weights, 0, given)
    assert seen.shape == (60, 3)
    assert (held_out.argmax(axis=1) == problem.held_out_labels).mean() > 0.8


def test_the_students_labels_decide_on_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closer_losses, "EPOCHS", 12)
    source, target = easy(90, 0, 0.0), easy(60, 1, 2.0)
    problem = Problem(*source, *target, *easy(30, 2, 2.0))
    turned = np.eye(3, dtype=np.float32)[(problem.target_labels + 1) % 3]
    weights = {"student": 20.0}
    _, held_out = closer_losses.trained(problem, weights, 0, torch.from_numpy(turned))
    assert (held_out.argmax(axis=1) == (problem.held_out_labels + 1) % 3).mean() > 0.8


def test_assigned_labels_have_the_frequencies_of_the_prior() -> None:
    evidence = torch.linspace(0, 20, 20)
    logits = torch.stack([evidence + 5, -evidence], dim=1)  # the first class for all, more and more
    assert logits.argmax(dim=1).sum() == 0
    labels = closer_losses.assigned(logits, torch.tensor([0.25, 0.75]))
    assert labels.tolist() == 15 * [1] + 5 * [0]
