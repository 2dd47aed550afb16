"""A file that is dropped among the methods is one: listed, trained, resumed, evaluated, helped with."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, config_for, losses_of, stopped_before, toy_arguments
from test_robust import outcome
from torch import nn

from adapt import methods
from adapt.bank import FeatureBank
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.loop import TrainingState, step
from adapt.methods import Progress
from adapt.runs import RunFolder
from store.errors import ConfigError

DOCUMENTED = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")

TWO_STEPS = '''
"""Two classifiers that are pushed apart and an encoder that brings them together, in two descents."""
from dataclasses import dataclass
from torch import nn
from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.losses import source_loss
from adapt.methods import Networks
from adapt.model import VideoClassifier
from adapt.settings import PAPER

@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    pass

READS = names_of(TRAINING, ENCODER)
SETTINGS = {"shared": PAPER}

def build(config, width, classes):
    return Networks(VideoClassifier(config, width, classes), nn.Linear(config.width, classes))

def step(networks, source, target, config, progress, descend):
    model, second = networks.model, networks.branch
    def discrepancy():
        video_BC = model.pool(model.encode(target.features_BTD))
        p, q = model.classify_video(video_BC).softmax(1), second(video_BC).softmax(1)
        return (p - q).abs().mean()
    video_BC = model.pool(model.encode(source.features_BTD))
    label = source_loss(model.classify_video(video_BC), source.labels_B)
    label = label + source_loss(second(video_BC), source.labels_B)
    descend(label - discrepancy(), [model.classifier, second])
    apart = discrepancy()
    descend(apart, [model.encoder])
    return {"source": label, "apart": apart}
'''

NEAREST_MEAN = '''
"""The nearest mean of the source's classes, in features centred by the domain: no gradient at all."""
from dataclasses import dataclass
import torch
from torch import nn
from adapt.bank import sample
from adapt.config import AdaptConfig
from adapt.methods import Networks

@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    pass

READS = {"frames"}
SETTINGS = {"own": {"frames": 4}}

class Nearest(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.register_buffer("means", torch.zeros(classes, width))
        self.register_buffer("centre", torch.zeros(width))
    def forward(self, features_BTD):
        return -torch.cdist(features_BTD.mean(1) - self.centre, self.means)

def videos(bank, frames):
    every = torch.arange(len(bank))
    return bank.gather(every, sample(bank, every, frames, None)).mean(1)

def build(config, width, classes):
    return Networks(Nearest(width, classes))

def fit(networks, data, config):
    x_VD = videos(data.source, config.frames)
    x_VD = x_VD - x_VD.mean(0)
    for label in range(len(data.classes)):
        networks.model.means[label] = x_VD[data.labels_V == label].mean(0)

def remember(networks, data, config):
    networks.model.centre.copy_(videos(data.target, config.frames).mean(0))
'''


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put a file into a folder that stands for `adapt/methods`."""
    folder = tmp_path / "dropped"
    folder.mkdir()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])

    def put(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        sys.modules.pop(f"adapt.methods.{name}", None)
        methods.find.cache_clear()

    yield put
    methods.find.cache_clear()


def documented() -> str:
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENTED, flags=re.DOTALL)
    assert len(code.splitlines()) <= 40
    return code


def test_the_method_of_the_docs_is_listed_trained_resumed_and_evaluated(
    cli, drop, problem: Path
) -> None:
    drop("deep_coral", documented())
    assert "deep-coral" in methods.names()
    shown = cli("adapt", "-h")
    assert shown.exit_code == 0, shown.exception
    whole, own = shown.output, cli("adapt", "--method", "deep-coral", "-h").output
    assert "Method deep-coral:" in whole and "Method deep-coral:" in own
    assert "--coral-weight" in own and "--kernel" not in own and "default: 1.0" in own

    more = ("--method", "deep-coral", "--frames", 9, "--checkpoint-every", 1)
    assert cli(*toy_arguments(problem, "calm", *more)).exit_code == 0
    with stopped_before(3):
        assert cli(*toy_arguments(problem, "run", *more)).exit_code == 130
    resumed = cli(*toy_arguments(problem, "run", *more, "--resume"))
    assert resumed.exit_code == 0 and "Going on after epoch 2 of 3." in resumed.output
    assert outcome(problem / "run") == outcome(problem / "calm")
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output
    config = json.loads((problem / "run" / "config.json").read_text())["config"]
    assert config["coral_weight"] == 1.0 and "kernel" not in config
    refused = cli(*toy_arguments(problem, "no", "--method", "dann", "--coral-weight", 2))
    assert refused.exit_code == 2
    assert "--method dann does not read --coral-weight; deep-coral does." in refused.output


def batch() -> tuple[SourceBatch, TargetBatch]:
    features = torch.randn(8, 23, 10, generator=torch.Generator().manual_seed(0))
    return SourceBatch(features[:4], torch.tensor([0, 1, 2, 0])), TargetBatch(features[4:] + 1)


def data() -> TrainingData:
    draws = np.random.default_rng(0)
    bank = FeatureBank(
        [draws.normal(size=(25, 10)).astype(np.float16) for _ in range(9)], torch.device("cpu")
    )
    return TrainingData(
        source=bank,
        labels_V=torch.arange(9) % 3,
        target=bank,
        classes="abc",
        device=torch.device("cpu"),
    )


def test_each_descent_of_a_step_moves_only_what_it_names(drop) -> None:
    """Plain gradient descent on each group, written out, gives the same parameters."""
    drop("two_steps", TWO_STEPS)
    sgd = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.1, "rate_decay": "none"}
    config = config_for(
        {},
        method="two-steps",
        source="a",
        target="b",
        width=6,
        dropout=0.0,
        compute="float32",
        encoder="one-layer",
        **sgd,
    )
    state = TrainingState(config, data())
    w_e, b_e = (p.detach().double().clone() for p in state.model.encoder.parameters())
    heads = [
        [p.detach().double().clone() for p in head.parameters()]
        for head in (state.model.classifier, state.networks.branch)
    ]
    source, target = batch()
    parts = step(config, state, source, target, Progress())

    def video(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (x.double() @ w.T + b).clamp(min=0).mean(1)

    def apart(v: torch.Tensor) -> torch.Tensor:
        p, q = ((v @ w.T + b).softmax(1) for w, b in heads)
        return (p - q).abs().mean()

    for head in heads:
        for p in head:
            p.requires_grad_()
    v = video(source.features_BTD, w_e, b_e)
    label = sum(nn.functional.cross_entropy(v @ w.T + b, source.labels_B) for w, b in heads)
    loss = label - apart(video(target.features_BTD, w_e, b_e))
    flat = [p for head in heads for p in head]
    gradients = torch.autograd.grad(loss, flat)
    with torch.no_grad():
        for p, g in zip(flat, gradients):
            p -= 0.1 * g
    w_e.requires_grad_(), b_e.requires_grad_()
    second = apart(video(target.features_BTD, w_e, b_e))
    g_w, g_b = torch.autograd.grad(second, [w_e, b_e])
    assert parts["source"].item() == pytest.approx(label.item(), rel=1e-5)
    assert parts["apart"].item() == pytest.approx(second.item(), rel=1e-4)
    ours = [
        *state.model.encoder.parameters(),
        *state.model.classifier.parameters(),
        *state.networks.branch.parameters(),
    ]
    expected = [w_e - 0.1 * g_w, b_e - 0.1 * g_b, *flat]
    for p, q in zip(ours, expected):
        torch.testing.assert_close(p.double(), q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_parts_that_learn_at_a_pace_of_their_own(drop, optimiser: str) -> None:
    """torch's optimiser with a group for the part, put together by hand, takes the same steps."""
    paces = "def paces(networks, config):\n    return [(networks.model.classifier, 10, 2)]\n"
    drop("deep_coral", documented() + "\n\n" + paces)
    small = {"width": 6, "dropout": 0.0, "compute": "float32", "rate_decay": "inverse"}
    rates = {"optimiser": optimiser, "learning_rate": 0.01, "weight_decay": 0.1, "rate_gamma": 0.5}
    config = config_for(small, method="deep-coral", source="a", target="b", **rates)
    state = TrainingState(config, data())
    twin = copy.deepcopy(state.networks)
    encoder, classifier = twin.model.encoder, twin.model.classifier
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimiser]
    momentum = {"momentum": 0.9, "nesterov": True} if optimiser == "sgd" else {}
    by_hand = make(
        [
            {"params": encoder.parameters(), "weight_decay": 0.1},
            {"params": classifier.parameters(), "weight_decay": 0.2},
        ],
        lr=0.01,
        **momentum,
    )
    for number in range(3):
        source, target = batch()
        rate = 0.01 * (1 + 0.5 * (4 + number)) ** -0.75
        for group, factor in zip(by_hand.param_groups, (1, 10)):
            group["lr"] = factor * rate
        by_hand.zero_grad()
        losses_of(config, twin.model, None, source, target).total.backward()
        by_hand.step()
        step(config, state, source, target, Progress(1, 5, number, 4))
    for ours, theirs in zip(state.networks.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "text"), [("two_steps", TWO_STEPS), ("nearest_mean", NEAREST_MEAN)]
)
def test_methods_of_other_kinds_run_from_the_command(
    cli, drop, problem: Path, name: str, text: str
) -> None:
    drop(name, text)
    method = name.replace("_", "-")
    arguments = toy_arguments(problem, "run", "--method", method)
    if name == "nearest_mean":
        refused = cli(*arguments, "--epochs", 3)
        assert refused.exit_code == 2
        assert f"--method {method} does not read --epochs" in refused.output
    result = cli(*arguments)
    assert result.exit_code == 0, result.output
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output
    if name == "nearest_mean":  # the shift of the toy problem is undone by centring each domain
        assert RunFolder(problem / "run").result().overall == 100
        lines = (problem / "run" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == [1]


INCOMPLETE = {
    "": "adapt/methods/bad.py lacks Options, READS, SETTINGS, build, losses (see docs/methods.md).",
    documented().replace("READS = names_of", "READS = {'kernel'} | names_of"): (
        "adapt/methods/bad.py sets or reads options that it does not have: kernel."
    ),
    documented().replace('{"shared": PAPER}', '{"shared": {"levels": 3}}'): (
        "adapt/methods/bad.py sets or reads options that it does not have: levels."
    ),
    documented().replace("class Options(AdaptConfig)", "class Options"): (
        "adapt/methods/bad.py: Options must be a subclass of adapt.config.AdaptConfig."
    ),
}


@pytest.mark.parametrize(("text", "message"), INCOMPLETE.items(), ids=list(INCOMPLETE.values()))
def test_a_file_that_is_no_method_is_refused(drop, text: str, message: str) -> None:
    drop("bad", text)
    with pytest.raises(ConfigError) as caught:
        methods.find("bad")
    assert str(caught.value) == message


def test_torchrun_is_refused_where_a_step_has_several_descents(
    drop, problem: Path, monkeypatch: pytest.MonkeyPatch, cli
) -> None:
    from adapt import parallel

    drop("two_steps", TWO_STEPS)
    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(parallel, "from_first", lambda function: function())
    result = cli(*toy_arguments(problem, "run", "--method", "two-steps"))
    assert result.exit_code == 2
    assert (
        "--method two-steps trains in one process: start it without torchrun (its step"
        in result.output
    )
    assert not (problem / "run").exists()
