"""The pyramid's shape against the table of the paper's settings, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from adapt.config import AdaptConfig
from adapt.geometry import Geometry
from store.errors import ConfigError

TABLE = [
    (3, 5, (1, 3, 7, 15), (53, 51, 45, 31, 1), 53),
    (3, 4, (1, 3, 7), (23, 21, 15, 1), 23),
    (3, 3, (1, 3), (9, 7, 1), 9),
    (2, 4, (1, 2, 3), (7, 6, 4, 1), 7),
    (2, 5, (1, 2, 3, 4), (11, 10, 8, 5, 1), 11),
    (4, 3, (1, 4), (16, 13, 1), 16),
    (4, 4, (1, 4, 13), (55, 52, 40, 1), 55),
]


def make(**given: Any) -> AdaptConfig:
    preset = given.pop("preset", "paper")
    benchmark = given.pop("benchmark", "toy")
    return AdaptConfig.make(
        benchmark=benchmark, preset=preset, given={"source": "a", "target": "b", **given}
    )


@pytest.mark.parametrize(("kernel", "levels", "dilations", "slots", "frames"), TABLE)
def test_table(kernel: int, levels: int, dilations: Any, slots: Any, frames: int) -> None:
    geometry = Geometry(kernel, levels)
    assert geometry.dilations == dilations
    assert geometry.slots == slots
    assert geometry.frames == frames
    assert make(kernel=kernel, levels=levels).frames == frames


def test_benchmarks_choose_levels_and_batch() -> None:
    full, games, own = (make(benchmark=b) for b in ("ucf-hmdb-full", "kinetics-gameplay", "mine"))
    assert (full.levels, full.frames, full.batch_size) == (5, 53, 32)
    assert (games.levels, games.frames, games.batch_size) == (4, 23, 64)
    assert (own.levels, own.frames, own.batch_size) == (4, 23, 32)
    assert make(benchmark="ucf-hmdb-full", levels=3).frames == 9


def test_discriminated_levels() -> None:
    assert make().discriminated_levels == (1, 2, 3, 4)
    assert make(preset="released").discriminated_levels == (2, 3, 4)
    assert make(adversarial_levels="frame-video").discriminated_levels == (1, 4)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"kernel": 3, "levels": 5, "frames": 32},
        "kernel 3 with 5 levels needs 53 frames, got frames=32. Use --frames 53 or --levels 4 "
        "--frames 23.",
    ),
    (
        {"kernel": 3, "levels": 3, "frames": 2},
        "kernel 3 with 3 levels needs 9 frames, got frames=2. Use --frames 9.",
    ),
    ({"kernel": 1}, "--kernel must be from 2 to 10000, got 1."),
    ({"levels": 1}, "--levels must be from 2 to 30, got 1."),
    ({"epochs": 0}, "--epochs must be 1 or more, got 0."),
    ({"batch_size": 0}, "--batch-size must be 1 or more, got 0."),
    ({"seed": -1}, "--seed must be 0 or more, got -1."),
    ({"adversarial_weight": -0.1}, "--adversarial-weight must be 0 or more, got -0.1."),
    ({"entropy_weight": float("nan")}, "--entropy-weight must be a finite number, got nan."),
    (
        {"dropout": 1.0},
        "--dropout must be below 1, got 1.0.",
    ),
    (
        {"learning_rate": 0.0},
        "--learning-rate must be above 0, got 0.",
    ),
    ({"bound": "clip"}, "--bound must be one of layernorm, none, got 'clip'."),
    (
        {"preset": "best"},
        "--preset must be one of robust, light, paper, released with --method ma2l-td, got 'best'.",
    ),
    (
        {"preset": "released", "adversarial_levels": "frame-video"},
        "--adversarial-levels frame-video needs discriminators at the frames. Add --first-level.",
    ),
    (
        {"method": "source-only", "frames": 1, "batch_size": 1},
        "--batch-size 1 with --frames 1 gives batch norm a single value. Raise either.",
    ),
]


@pytest.mark.parametrize("name", ["epochs", "dropout"])
def test_a_number_beyond_all_floats_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name} must be a finite number, got 1000"):
        make(**{name: 10**400})


@pytest.mark.parametrize(("given", "text"), REFUSED, ids=[str(i) for i, _ in REFUSED])
def test_refusals(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**given)
    assert str(caught.value) == text


def test_source_only_may_sample_any_number_of_frames() -> None:
    assert make(method="source-only", frames=5).frames == 5
