"""`--device`: one option everywhere. Machines that have GPUs are played by patched counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from conftest import config_for, toy_arguments
from test_cli import commands
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from adapt import evaluation, methods
from adapt.compute import autocast, pick_device
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.losses import float64
from adapt.methods import Networks, Progress
from adapt.plan import Job
from adapt.watch import LossWatch
from extract.backbone import Backbone
from extract.config import ExtractConfig
from store.errors import ConfigError
from store.machine import DEVICE_HELP, DEVICES, device_name

COMPUTING = {
    *("extract", "adapt", "ablate", "benchmark", "evaluate", "predict", "report", "store verify"),
}


def device_options() -> Iterator[tuple[str, click.Parameter]]:
    for name, command in commands():
        yield from ((name, p) for p in command.params if p.name == "device")


def test_every_command_that_computes_has_the_same_option() -> None:
    found = dict(device_options())
    assert found.keys() == COMPUTING
    for option in found.values():
        assert isinstance(option, click.Option)
        assert (option.help, option.metavar, option.default) == (DEVICE_HELP, DEVICES, "auto")


@pytest.mark.parametrize(
    ("asked", "gpus", "rank", "expected"),
    [
        *(("auto", 0, 0, "cpu"), ("auto", 2, 0, "cuda:0"), ("auto", 2, 3, "cuda:1")),
        *(("cpu", 2, 0, "cpu"), ("cuda", 1, 0, "cuda:0"), ("cuda", 4, 5, "cuda:1")),
        *(("cuda:1", 2, 0, "cuda:1"), ("cuda:0", 2, 1, "cuda:0"), ("cuda:11", 12, 0, "cuda:11")),
    ],
)
def test_which_device_is_taken(asked: str, gpus: int, rank: int, expected: str) -> None:
    assert device_name(asked, gpus, rank) == expected
    assert str(torch.device(expected)) == expected


@pytest.mark.parametrize(
    ("asked", "gpus", "message"),
    [
        ("cuda", 0, "There is no CUDA device here. Use --device cpu or --device auto."),
        ("cuda:0", 0, "There is no CUDA device here. Use --device cpu or --device auto."),
        ("cuda:1", 1, "There is no cuda:1 here. This machine has 1 CUDA device, cuda:0."),
        (
            "cuda:5",
            3,
            "There is no cuda:5 here. This machine has 3 CUDA devices, cuda:0 to cuda:2.",
        ),
        ("mps", 2, "There is no MPS device here. Use --device cpu or --device auto."),
        *(
            (text, 2, f"--device must be auto, cpu, cuda, cuda:N or mps, got {text!r}.")
            for text in ("gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:١", "CUDA", "cuda1", "cuda:0\n")
        ),
    ],
)
def test_devices_that_are_refused(asked: str, gpus: int, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        device_name(asked, gpus)
    assert str(refused.value) == message


def test_apples_device_is_taken_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("mps") == torch.device("mps")
    assert pick_device("auto") == torch.device("cpu")  # only who names it gets it


class _Elsewhere(torch.Tensor):
    """In memory that numpy cannot read, as Apple's."""

    def numpy(self, *, force: bool = False) -> np.ndarray:
        raise TypeError("can't convert mps:0 device type tensor to numpy")

    def cpu(self, *_: object) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_features_come_back_from_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(ExtractConfig(backbone="mobilenet_v2", weights="random:0", device="cpu"))
    features_FD = torch.ones(2, 3).as_subclass(_Elsewhere)
    monkeypatch.setattr(backbone, "forward", lambda frames: features_FD)
    np.testing.assert_array_equal(backbone.submit(backbone.staging())(), np.ones((2, 3)))


@pytest.mark.parametrize("name", sorted(COMPUTING))
def test_what_is_no_name_of_a_device_is_wrong_usage(name: str, cli) -> None:
    refused = [*_arguments(name), "--device", "gpu0"]
    result = cli(*name.split(), *refused)
    assert result.exit_code == 2, result.output
    assert "must be auto, cpu, cuda, cuda:N or mps, got 'gpu0'" in result.output.replace("\n", " ")


def _arguments(name: str) -> list[str]:
    if name in ("adapt", "ablate"):
        return ["--source", "a", "--target", "b"]
    needed = {"extract": ["--dataset", "ucf101"], "benchmark": ["--benchmark", "ucf-olympic"]}
    return needed.get(name, ["x"])


def test_a_device_that_is_not_here_is_refused_by_both_stages(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    text = "There is no cuda:2 here. This machine has 2 CUDA devices, cuda:0 to cuda:1."
    with pytest.raises(ConfigError) as refused:
        Backbone(ExtractConfig(backbone="resnet18", weights="random:0", device="cuda:2"))
    assert str(refused.value) == text
    result = cli(*toy_arguments(problem, "run", "--device", "cuda:2"))
    assert result.exit_code == 2 and text in result.output
    assert not (problem / "run" / "checkpoint.pt").exists()


def test_several_processes_do_not_share_one_gpu(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = cli(*toy_arguments(problem, "run", "--device", "cuda:1"))
    assert result.exit_code == 2
    assert "--device cuda:1 is one device, and 2 processes train together" in result.output


def test_a_run_goes_on_with_another_device_and_evaluates_on_the_one_that_is_named(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*toy_arguments(problem, "run")).exit_code == 0
    assert "device" not in (problem / "run" / "config.json").read_text()
    assert cli(*toy_arguments(problem, "run", "--resume", "--device", "auto")).exit_code == 0
    asked: list[str] = []

    def spy(kind: str, size: int, device: torch.device) -> None:
        asked.append(str(device))
        raise ConfigError("that is enough")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(evaluation, "choose_bank", spy)
    cli("evaluate", problem / "run", "--device", "cuda:1")
    assert asked == ["cuda:1"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("auto", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:1", ["cuda:1"]),
    ],
)
def test_a_benchmark_keeps_to_the_named_device(
    asked: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from commands.benchmark import _crew

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    given = dict.fromkeys(("features", "root", "store", "allow_missing", "bank"))
    more = {"device": asked, "jobs": 0, "checkpoint_every": 25}
    plan = [Job(config=config_for({}, source="a", target="b"), folder=Path("a"))] * 9
    assert list(_crew({**given, **more}, "toy", plan).devices) == expected
    assert set(_crew({**given, **more, "jobs": 4}, "toy", plan).devices) == set(expected)


@pytest.mark.gpu
def test_a_numbered_gpu_computes() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    backbone = Backbone(ExtractConfig(backbone="resnet18", weights="random:0", device="cuda:0"))
    assert str(backbone.device) == "cuda:0"


def moved(networks: Networks, device: torch.device) -> Networks:
    """Networks of tensors without values, elsewhere. `to` cannot put such into their parameters' places."""
    for module in networks.modules():
        for name, p in module.named_parameters(recurse=False):
            there = torch.nn.Parameter(p.detach().to(device), p.requires_grad)
            module.register_parameter(name, there)
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, buffer.to(device))
    return networks


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        (name, preset)
        for name in methods.names()
        if methods.find(name).function("fit") is None
        for preset in methods.find(name).settings
    ],
)
def test_a_step_on_a_gpu_has_all_its_tensors_there(name: str, preset: str) -> None:
    """Played by tensors that have no values: it is an error to mix devices, or to look at a value.

    A value that a step looks at would make it wait for the GPU.
    """
    method, device = methods.find(name), torch.device("cuda:0")
    small = {"frames": 3, "width": 64, "levels": 2, "discriminator_width": 8}
    given = {key: value for key, value in small.items() if key in method.reads}
    given |= {"method": name, "source": "ucf", "target": "hmdb", "compute": "float32"}
    config = AdaptConfig.make(benchmark="ucf-hmdb-full", preset=preset, given=given)
    with FakeTensorMode():
        networks = moved(method.build(config, 64, 12).train(), device)
        videos = 8 * config.draws
        features_BTD = torch.randn(videos, config.frames, 64, device=device)
        labels_B = torch.zeros(videos, dtype=torch.long, device=device)
        source, target = SourceBatch(features_BTD, labels_B), TargetBatch(features_BTD)
        step, descended = method.function("step"), []
        with autocast("float32", device):
            if step is not None:

                def descend(loss: torch.Tensor, modules: Sequence[torch.nn.Module]) -> None:
                    descended.append(loss)

                step(networks, source, target, config, Progress(1, 2, 0, 10), descend)
            else:
                losses = method.function("losses")
                assert losses is not None
                descended.append(
                    losses(networks, source, target, config, Progress(1, 2, 0, 10)).total
                )
    assert descended and all(loss.device == device for loss in descended)


class NoFloat64OnMps(TorchDispatchMode):
    """As Apple's GPU refuses it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.device.type == "mps":
            assert found.dtype != torch.float64, function
        return found


def test_losses_are_added_up_where_float64_exists() -> None:
    """Played, as above: there is no Apple device here, and the rest of a training was not tried on one."""
    config = config_for({}, source="a", target="b")
    with FakeTensorMode(), NoFloat64OnMps():
        loss = torch.zeros((), device="mps")
        with pytest.raises(AssertionError):
            loss.double()
        assert (float64(loss).dtype, float64(loss).device.type) == (torch.float64, "cpu")
        watch = LossWatch(config)
        for _ in range(2):
            watch.add({"source": loss})
    assert watch.steps == 2 and float64(torch.ones(1)).dtype == torch.float64
