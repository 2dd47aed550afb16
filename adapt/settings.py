"""Settings that several methods share: what their presets and the benchmarks set. No torch here.

A method's file says which of these its presets begin with; later tables win, and what the user gives
wins over all of them (`adapt.config.AdaptConfig.make`).
"""

from __future__ import annotations

from typing import Any

BENCHMARKS: dict[str, dict[str, Any]] = {
    "ucf-hmdb-full": {"frames": 53},
    "kinetics-gameplay": {"batch_size": 64},
}
"""Section 4.2 of MA2L-TD's paper. Every other benchmark trains with the defaults of the fields."""

PAPER: dict[str, Any] = {
    "learning_rate": 3e-4,
    "rate_decay": "dann",
    "weight_decay": 0.0,
    "draws": 1,
    "eval_draws": 0,
    "source_sampling": "shuffled",
}
"""Optimiser and sampling of MA2L-TD's paper (section 4.2), where it says what they are."""

ROBUST: dict[str, Any] = {
    **PAPER,
    "input_norm": True,
    "rate_decay": "none",
    "statistics": "target",
}
"""The same with what makes training on an unlabelled target dependable (benchmarks/README.md)."""

THUML_IMAGES: dict[str, Any] = {
    **PAPER,
    "encoder": "one-layer",
    "width": 256,
    "dropout": 0.0,
    "initialisation": "xavier",
    "optimiser": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.01,
    "rate_decay": "inverse",
    "rate_gamma": 0.001,
    "weight_decay": 1e-3,
}
"""What the image codes of CDAN's and MCC's authors have in common (thuml, `train_image*.py`, `network.py`).

Bottleneck, classifier and discriminator learn there at 10 times the rate 0.001 and 2 times the decay 0.0005
of the backbone, which is frozen here. Chosen, as the authors have no videos: a ReLU after the bottleneck, the
mean over frames, frames and epochs as for every other method.
"""

TA3N_FAMILY: dict[str, Any] = {
    **PAPER,
    "epochs": 30,
    "batch_size": 128,
    "target_batch": "proportional",
    "frames": 5,
    "train_sampling": "centred",
    "encoder": "one-layer",
    "width": 512,
    "initialisation": "small-normal",
    "video_dropout": 0.5,
    "optimiser": "sgd",
    "learning_rate": 0.03,
    "rate_decay": "ta3n",
    "weight_decay": 1e-4,
    "gradient_clip": 20.0,
}
"""The settings of TA3N's authors (Chen et al., ICCV 2019), for all methods that they compare."""
