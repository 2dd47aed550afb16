"""Number types of training, and that nothing in a step waits for the device."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import toy_arguments

from adapt import compute, train
from adapt.bank import FeatureBank
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.train import State, TrainingData, step
from benchmarks import adapt as step_benchmark
from store import machine

CPU = torch.device("cpu")


def make_state(**given: Any) -> tuple[AdaptConfig, State, SourceBatch, TargetBatch]:
    preset, device = given.pop("preset", "paper"), given.pop("device", CPU)
    config = AdaptConfig.make(
        benchmark="toy",
        preset=preset,
        given={
            **{"source": "a", "target": "b", "levels": 3, "width": 32, "discriminator_width": 64},
            **{"batch_size": 8, "compute": "float32", **given},
        },
    )
    draws = np.random.default_rng(0)
    features = [draws.normal(size=(20, 24)).astype(np.float16) for _ in range(16)]
    bank = FeatureBank(features, device)
    labels_V = torch.arange(16) % 3
    data = TrainingData(
        source=bank, labels_V=labels_V, target=bank, classes=["x", "y", "z"], device=device
    )
    x_BTD = torch.from_numpy(np.stack(features)).float()[:, : config.frames].to(device)
    source = SourceBatch(x_BTD[:8], labels_V[:8].to(device))
    return config, State(config, data), source, TargetBatch(x_BTD[8:])


BASELINES = [{"preset": "ta3n", "method": "dann"}, {"preset": "ta3n", "method": "ta3n"}]
EVERY = [
    {"preset": "tuned"},
    {"preset": "paper"},
    {"preset": "released"},
    {"preset": "paper", "method": "source-only"},
    {"preset": "tuned", "method": "infomax"},
    {"preset": "tuned", "method": "dann"},
    *BASELINES,
]


@pytest.mark.parametrize(
    "given", [{"preset": "paper"}, {"preset": "released"}, *BASELINES], ids=str
)
def test_bfloat16_rounds_products_only(given: dict[str, Any], device: torch.device) -> None:
    losses = {}
    for kind in ("float32", "bfloat16"):
        config, state, source, target = make_state(**given, compute=kind, device=device)
        assert state.branch is not None
        torch.manual_seed(3)  # the same dropout
        losses[kind] = step(config, state, source, target, 0.5)
        tensors = [*state.model.parameters(), *state.branch.parameters()]
        tensors += [p.grad for p in tensors if p.grad is not None]
        tensors += [t for s in state.optimiser.state.values() for t in s.values()]
        assert {t.dtype for t in tensors} == {torch.float32}
    for name, exact in losses["float32"].items():
        rounded = losses["bfloat16"][name]
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0.01)
        assert not torch.equal(rounded, exact)  # it did compute otherwise


def test_auto_is_decided_by_time_and_recorded(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(dtype: torch.dtype) -> None:
        monkeypatch.setattr(compute, "_seconds", lambda x, w: 1.0 if x.dtype == dtype else 2.0)

    recorded = {}
    for name, dtype in (("a", torch.float32), ("b", torch.bfloat16)):
        faster(dtype)
        result = cli(*toy_arguments(problem, name, "--compute", "auto"))
        assert result.exit_code == 0, result.output
        assert (
            f"Computing in {str(dtype).removeprefix('torch.')} (--compute auto)." in result.output
        )
        config = json.loads((problem / name / "config.json").read_text())["config"]
        recorded[name] = config["compute"]
    assert recorded == {"a": "float32", "b": "bfloat16"}
    # A run that goes on keeps its type, whatever the machine would say now.
    faster(torch.float32)
    again = cli(*toy_arguments(problem, "b", "--compute", "auto", "--resume"))
    assert again.exit_code == 0, again.output
    assert "Computing in bfloat16, as before (--compute auto)." in again.output


def test_what_is_not_decided_is_not_computed() -> None:
    config, *_ = make_state()
    assert AdaptConfig.make(benchmark="toy", given={"source": "a", "target": "b"}).compute == "auto"
    with pytest.raises(ValueError, match="not resolved"):
        compute.autocast("auto", CPU)
    assert config.compute == "float32"


def test_a_gpu_that_only_emulates_bfloat16_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert compute._faster(torch.device("cuda")) == "float32"  # without a GPU a trial would fail


def test_the_trial_itself_gives_a_time(device: torch.device) -> None:
    x, w = torch.ones(2, 4, 8, device=device), torch.ones(2, 8, 8, device=device)
    assert 0 < compute._seconds(x, w) < 10
    assert compute._faster(device) in ("float32", "bfloat16")


@pytest.mark.parametrize("given", EVERY, ids=str)
def test_a_step_is_that_of_the_cpu(given: dict[str, Any], device: torch.device) -> None:
    """Losses and gradients in float64, without dropout, whose draws depend on the device."""
    found = []
    for place in (CPU, device):
        config, state, source, target = make_state(**given, dropout=0.0, device=place)
        state.model.double()
        if state.branch is not None:
            state.branch.double().eval()
        state.optimiser.step = lambda *_: None
        source = SourceBatch(source.features_BTD.double(), source.labels_B)
        losses = step(config, state, source, TargetBatch(target.features_BTD.double()), 0.5)
        gradients = {n: p.grad for n, p in state.losses.named_parameters() if p.requires_grad}
        found.append({n: x.cpu() for n, x in {**losses, **gradients}.items() if x is not None})
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("given", EVERY, ids=str)
def test_a_kept_state_goes_on(given: dict[str, Any], device: torch.device, tmp_path: Path) -> None:
    """From what a checkpoint on the disk has, dropout's draws included."""
    config, state, source, target = make_state(**given, device=device)
    for _ in range(2):
        step(config, state, source, target, 0.5)
    torch.save(state.state_dict(), tmp_path / "kept.pt")
    expected = step(config, state, source, target, 0.5)
    config, state, source, target = make_state(**given, device=device)
    kept = torch.load(tmp_path / "kept.pt", map_location="cpu", weights_only=True)
    state.load_state_dict(kept)
    torch.testing.assert_close(step(config, state, source, target, 0.5), expected)


@pytest.mark.parametrize("given", EVERY, ids=str)
def test_a_step_stays_on_its_device(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device `meta` reading a value fails, and so does a tensor of the host, but in a product."""
    monkeypatch.setattr(train, "autocast", lambda *_: contextlib.nullcontext())
    config, state, source, target = make_state(**given, device=torch.device("meta"))
    loss_watch = train._Watch()
    for _ in range(2):
        losses = step(config, state, source, target, 0.5)
        loss_watch.add(losses)
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    assert {p.device.type for p in state.losses.parameters()} == {"meta"}
    assert all(p.grad is not None for p in state.model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        loss_watch.means(1)


def test_keeping_memory_changes_no_number() -> None:
    results = []
    for _ in range(2):
        config, state, source, target = make_state()
        results.append(step(config, state, source, target, 0.5))
        machine.keep_freed_memory()
    assert results[0] == results[1]


def test_compute_is_a_choice() -> None:
    config, *_ = make_state()
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(config, compute="float16")
    assert str(caught.value) == "--compute must be one of auto, float32, bfloat16, got 'float16'."


def test_the_benchmarked_loop_computes_what_the_step_does() -> None:
    """`benchmarks.adapt` on a small pyramid: losses and gradients agree, and every variant runs."""
    config = step_benchmark.make_config(levels=3, discriminator_width=8, batch_size=4)
    data = step_benchmark.make_data(CPU)
    assert step_benchmark.check_equal(config, data) < 1e-10
    variants = step_benchmark.steps(config, data, State(config, data))
    assert [run() for run in variants.values()] == [None] * 5
