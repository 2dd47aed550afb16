"""Number types of training, and that nothing in a step waits for the device."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for, toy_arguments

from adapt import compute, loop
from adapt.bank import FeatureBank
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.loop import TrainingState, step
from adapt.methods import Progress
from adapt.watch import LossWatch
from benchmarks import adapt as step_benchmark
from store import machine

CPU = torch.device("cpu")
HALF = Progress(epoch=15, epochs=30)


def make_state(**given: Any) -> tuple[AdaptConfig, TrainingState, SourceBatch, TargetBatch]:
    preset, device = given.pop("preset", "paper"), given.pop("device", CPU)
    small = {"source": "a", "target": "b", "levels": 3, "width": 32, "discriminator_width": 64}
    config = config_for(small, preset=preset, **{"batch_size": 8, "compute": "float32", **given})
    draws = np.random.default_rng(0)
    features = [draws.normal(size=(20, 24)).astype(np.float16) for _ in range(16)]
    bank = FeatureBank(features, device)
    labels_V = torch.arange(16) % 3
    data = TrainingData(
        source=bank, labels_V=labels_V, target=bank, classes=["x", "y", "z"], device=device
    )
    x_BTD = torch.from_numpy(np.stack(features)).float()[:, : config.frames].to(device)
    source = SourceBatch(x_BTD[:8], labels_V[:8].to(device))
    return config, TrainingState(config, data), source, TargetBatch(x_BTD[8:])


BASELINES = [
    {"preset": "own", "method": name, "initialisation": "default"} for name in ("dann", "ta3n")
]
EVERY = [
    {"preset": "robust"},
    {"preset": "light"},
    {"preset": "paper"},
    {"preset": "released"},
    {"preset": "paper", "method": "source-only"},
    {"preset": "shared", "method": "infomax"},
    {"preset": "shared", "method": "dann"},
    *BASELINES,
]


@pytest.mark.parametrize(
    "given", [{"preset": "paper"}, {"preset": "released"}, *BASELINES], ids=str
)
def test_bfloat16_rounds_products_only(given: dict[str, Any], device: torch.device) -> None:
    losses = {}
    for kind in ("float32", "bfloat16"):
        config, state, source, target = make_state(**given, compute=kind, device=device)
        torch.manual_seed(3)  # the same dropout
        losses[kind] = step(config, state, source, target, HALF)
        tensors = list(state.networks.parameters())
        tensors += [p.grad for p in tensors if p.grad is not None]
        tensors += [t for s in state.optimiser.state.values() for t in s.values()]
        assert {t.dtype for t in tensors} == {torch.float32}
    for name, exact in losses["float32"].items():
        rounded = losses["bfloat16"][name]
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0.01)
        assert not torch.equal(rounded, exact)  # it did compute otherwise


FLAGS = {
    "flags\t\t: fpu avx2 avx512f\n": "float32",
    "flags\t\t: fpu avx2 avx512_bf16\n": "bfloat16",
    "flags\t\t: fpu amx_bf16 amx_tile\n": "bfloat16",
    "Features\t: fp asimd bf16\n": "float32",
    "": "float32",
}


@pytest.mark.parametrize(("cpuinfo", "expected"), FLAGS.items(), ids=repr)
def test_auto_is_decided_by_the_processor(
    cpuinfo: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{cpuinfo}")
    monkeypatch.setattr(machine, "_CPU_FLAGS", tmp_path / "cpuinfo")
    config, *_ = make_state(compute="auto")
    assert compute.resolve(config, CPU).compute == expected
    monkeypatch.setattr(machine, "_CPU_FLAGS", tmp_path / "absent")
    assert compute.resolve(config, CPU).compute == "float32"


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
def test_auto_is_decided_by_the_gpu(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    config, *_ = make_state(compute="auto")
    assert compute.resolve(config, torch.device("cuda")).compute == expected


def test_what_auto_decided_is_recorded_and_kept(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fast in (("a", False), ("b", True)):
        monkeypatch.setattr(compute, "has_fast_bfloat16", lambda fast=fast: fast)
        result = cli(*toy_arguments(problem, name, "--compute", "auto"))
        assert result.exit_code == 0, result.output
        expected = "bfloat16" if fast else "float32"
        assert f"Computing in {expected} (--compute auto)." in result.output
        config = json.loads((problem / name / "config.json").read_text())["config"]
        assert config["compute"] == expected
    # A run that goes on keeps its type, whatever the machine would say now.
    monkeypatch.setattr(compute, "has_fast_bfloat16", lambda: False)
    again = cli(*toy_arguments(problem, "b", "--compute", "auto", "--resume"))
    assert again.exit_code == 0, again.output
    assert "Computing in bfloat16 (--compute auto)." in again.output


def test_what_is_not_decided_is_not_computed() -> None:
    config, *_ = make_state()
    assert config_for({}, source="a", target="b").compute == "auto"
    with pytest.raises(ValueError, match="not resolved"):
        compute.autocast("auto", CPU)
    assert config.compute == "float32"


@pytest.mark.parametrize("given", EVERY, ids=str)
def test_a_step_is_that_of_the_cpu(given: dict[str, Any], device: torch.device) -> None:
    """Losses and gradients in float64, without dropout, whose draws depend on the device."""
    found = []
    for place in (CPU, device):
        config, state, source, target = make_state(**given, dropout=0.0, device=place)
        state.networks.double()
        if state.networks.branch is not None:
            state.networks.branch.eval()
        state.optimiser.step = lambda *_: None
        source = SourceBatch(source.features_BTD.double(), source.labels_B)
        losses = step(config, state, source, TargetBatch(target.features_BTD.double()), HALF)
        gradients = {n: p.grad for n, p in state.networks.named_parameters() if p.requires_grad}
        found.append({n: x.cpu() for n, x in {**losses, **gradients}.items() if x is not None})
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("given", EVERY, ids=str)
def test_a_kept_state_goes_on(given: dict[str, Any], device: torch.device, tmp_path: Path) -> None:
    """From what a checkpoint on the disk has, dropout's draws included."""
    config, state, source, target = make_state(**given, device=device)
    for _ in range(2):
        step(config, state, source, target, HALF)
    torch.save(state.state_dict(), tmp_path / "kept.pt")
    expected = step(config, state, source, target, HALF)
    config, state, source, target = make_state(**given, device=device)
    kept = torch.load(tmp_path / "kept.pt", map_location="cpu", weights_only=True)
    state.load_state_dict(kept)
    torch.testing.assert_close(step(config, state, source, target, HALF), expected)


@pytest.mark.parametrize("given", EVERY, ids=str)
def test_a_step_stays_on_its_device(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device `meta` reading a value fails, and so does a tensor of the host, but in a product."""
    monkeypatch.setattr(loop, "autocast", lambda *_: contextlib.nullcontext())
    config, state, source, target = make_state(**given, device=torch.device("meta"))
    loss_watch = LossWatch(config)
    for _ in range(2):
        losses = step(config, state, source, target, HALF)
        loss_watch.add(losses)
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    assert {p.device.type for p in state.networks.parameters()} == {"meta"}
    assert all(p.grad is not None for p in state.model.parameters())
    with pytest.raises(RuntimeError, match="meta"):
        loss_watch.means(1)


def test_keeping_memory_changes_no_number() -> None:
    results = []
    for _ in range(2):
        config, state, source, target = make_state()
        results.append(step(config, state, source, target, HALF))
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
    variants = step_benchmark.steps(config, data, TrainingState(config, data))
    assert [run() for run in variants.values()] == [None] * 5


FRAGMENTS = """
import sys
import numpy as np
from store.machine import keep_freed_memory, return_freed_memory

def held():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) * 1024

keep_freed_memory()
before = held()
small = []
for size in range(20, 40):  # each block is larger than the holes left by those before it
    block = np.ones(size * 1_000_000, np.uint8)
    del block
    small.append(np.ones(100_000, np.uint8))
kept = held() - before
return_freed_memory(above=10**9)
unchanged = held() - before
return_freed_memory(above=10**6)
print(kept, unchanged, held() - before, all(x.all() for x in small))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_returned_where_much_is_kept() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRAGMENTS], capture_output=True, text=True, check=True
    )
    kept, unchanged, left, whole = done.stdout.split()
    assert whole == "True"
    assert int(kept) > 30_000_000
    assert int(unchanged) > 0.9 * int(kept)
    assert int(left) < 15_000_000
