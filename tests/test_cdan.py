"""CDAN and CDAN-E against their formulas, video by video and entry by entry, and their authors' settings."""

from __future__ import annotations

import copy
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import config_for, stopped_before, toy_arguments
from test_robust import outcome
from test_settings import make_data
from torch import Tensor

from adapt import conditional, methods
from adapt.conditional import ConditionalDiscriminator, Game, reversal
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.loop import TrainingState, step
from adapt.methods import Networks, Progress, StepLosses, cdan_e

LABELS = [0, 2, 1, 1, 0]
AT = Progress(3, 10, 2, 20)
STEP, STEPS = 62, 200  # of AT: 3 epochs of 20 steps and 2; of the whole run
SMALL = {
    **{"source": "a", "target": "b", "width": 4, "frames": 3, "compute": "float32"},
    **{"dropout": 0.0, "initialisation": "default", "ramp_steps": 80, "domain_weight": 0.7},
}
VARIANTS = [
    {"method": "cdan"},
    {"method": "cdan", "ramp_steps": 0},
    {"method": "cdan", "preset": "shared"},
    {"method": "cdan", "multilinear": "random"},
    {"method": "cdan-e"},
    {"method": "cdan-e", "multilinear": "random"},
    {"method": "cdan-e", "weighting": "tll"},
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dropout in the discriminator, and few units, so that loops are quick."""
    monkeypatch.setattr(conditional, "DROPOUT", 0.0)
    monkeypatch.setattr(conditional, "HIDDEN", 5)


def make_config(**given: Any) -> AdaptConfig:
    return config_for(SMALL, **given)


def make_step(config: AdaptConfig) -> tuple[Networks, SourceBatch, TargetBatch]:
    torch.manual_seed(0)
    networks = methods.find(config.method).build(config, 10, 3).double()
    with torch.no_grad():
        for p in networks.parameters():
            p += 0.3 * torch.randn_like(p)
    features = torch.randn(9, config.frames, 10, dtype=torch.float64)
    source = SourceBatch(features[:5], torch.tensor(LABELS))
    return networks, source, TargetBatch(1.5 * features[5:])


def losses_of(config: AdaptConfig, networks: Networks, *batches: Any) -> StepLosses:
    losses = methods.find(config.method).function("losses")
    found: StepLosses = losses(networks, *batches, config, AT)
    return found


def coefficient(config: AdaptConfig, i: int) -> float:
    return 2 / (1 + math.exp(-10 * i / (config.ramp_steps or STEPS))) - 1


def turned(x: Tensor, c: float) -> Tensor:
    return (1 + c) * x.detach() - c * x


def reference(
    config: AdaptConfig, networks: Networks, source: SourceBatch, target: TargetBatch
) -> dict[str, Tensor]:
    """The losses in plain loops, with autograd on the networks' own parameters."""
    p = dict(networks.named_parameters())

    def linear(name: str, x: Tensor) -> Tensor:
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    label, bce, weights = [], [], []
    for domain, batch in enumerate((source, target)):
        encoded = networks.model.encode(batch.features_BTD)  # has tests of its own
        for number, frames in enumerate(encoded):
            f = sum(frames) / len(frames)
            y = linear("model.classifier", f)
            g = y.exp() / y.exp().sum()
            if domain == 0:
                label.append(-g[LABELS[number]].log())
            constant = g.detach().tolist()
            if config.multilinear == "random":
                R_f, R_g = networks.branch.of_feature, networks.branch.of_prediction
                h = [
                    sum(f[c] * R_f[c, k] for c in range(len(f)))
                    * sum(constant[n] * float(R_g[n, k]) for n in range(3))
                    / math.sqrt(5)
                    for k in range(5)
                ]
            else:
                h = [constant[n] * f[c] for n in range(3) for c in range(len(f))]
            x = turned(torch.stack(h), coefficient(config, STEP + 1))
            x = linear("branch.layers.0", x).clamp(min=0)
            x = linear("branch.layers.3", x).clamp(min=0)
            d = 1 / (1 + (-linear("branch.layers.6", x)[0]).exp())
            bce.append(-d.log() if domain else -(1 - d).log())
            H = -sum(q * (q + 1e-5).log() for q in g)
            weights.append(1 + (-turned(H, coefficient(config, STEP))).exp())
    if config.method == "cdan":
        domain_loss = sum(bce) / len(bce)
    elif config.weighting == "tll":
        constants = [float(w.detach()) for w in weights]
        mean = sum(constants) / len(constants)
        domain_loss = sum(w / mean * loss for w, loss in zip(constants, bce)) / len(bce)
    else:
        domain_loss = 0
        for part in (slice(0, 5), slice(5, 9)):
            whole = float(sum(weights[part]).detach())
            domain_loss += sum(w / whole * b for w, b in zip(weights[part], bce[part])) / 2
    return {"source": sum(label) / len(label), "domain": domain_loss}


@pytest.mark.parametrize("given", VARIANTS, ids=lambda g: "-".join(map(str, g.values())))
def test_a_step_is_the_formulas(given: dict[str, Any]) -> None:
    config = make_config(**given)
    networks, source, target = make_step(config)
    twin = copy.deepcopy(networks)
    found = losses_of(config, networks, source, target)
    expected = reference(config, twin, source, target)
    assert set(found.parts) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found.parts[name], value, rtol=1e-9, atol=1e-12)
    found.total.backward()
    (expected["source"] + 0.7 * expected["domain"]).backward()
    for (name, p), q in zip(networks.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-11, msg=name)


def test_which_losses_train_the_classifier() -> None:
    """The prediction that conditions is a constant; only the authors' weights lead back to it."""
    for given in (
        {"method": "cdan"},
        {"method": "cdan-e"},
        {"method": "cdan-e", "weighting": "tll"},
    ):
        config = make_config(**given)
        networks, source, target = make_step(config)
        losses_of(config, networks, source, target).parts["domain"].backward()
        reached = networks.model.classifier.weight.grad is not None
        assert reached == (given == {"method": "cdan-e"})
        assert networks.model.encoder[0].weight.grad.abs().min() > 0


def test_a_sure_prediction_puts_the_feature_into_the_place_of_its_class() -> None:
    discriminator = ConditionalDiscriminator(4, 3, random=False)
    f, g = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    h = discriminator.condition(f, g)[0].tolist()
    assert h == [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]


def weighted(monkeypatch: pytest.MonkeyPatch, weighting: str, bce: tuple[Any, Any]) -> float:
    """The domain loss of two source videos, sure and unsure, and the same of the target."""
    logits = torch.stack([1e4 * torch.eye(12)[0], torch.zeros(12)]).double()
    rows = [torch.tensor(part, dtype=torch.float64) for part in bce]
    game = Game(torch.zeros(()), (logits, logits), (rows[0], rows[1]))
    monkeypatch.setattr(cdan_e, "play", lambda *arguments: game)
    config = config_for(SMALL, method="cdan-e", weighting=weighting)
    return float(cdan_e.losses(None, None, None, config, AT).parts["domain"])


def test_weights_of_sure_and_of_unsure_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """H = 0 and ln 12 give w = 2 and 1.08333, and with mean 1 over the batch 1.29730 and 0.70270."""
    sure, unsure = ((1, 0), (0, 0)), ((0, 0), (0, 1))
    found = [4 * weighted(monkeypatch, "tll", which) for which in (sure, unsure)]
    assert found == pytest.approx([1.29730, 0.70270], abs=2e-4)
    found = [weighted(monkeypatch, "authors", which) for which in (sure, unsure)]
    assert found == pytest.approx([2 / 3.08333 / 2, 1.08333 / 3.08333 / 2], abs=1e-4)
    assert weighted(monkeypatch, "authors", ((1, 1), (1, 1))) == pytest.approx(1)


def test_the_reversal_grows_by_steps() -> None:
    config = config_for({}, method="cdan", source="a", target="b")
    assert reversal(config, Progress(0, 9, 0, 50), 0) == 0
    assert reversal(config, Progress(20, 99, 0, 50), 0) == pytest.approx(0.462, abs=5e-4)
    assert reversal(config, Progress(19, 99, 49, 50), 1) == reversal(
        config, Progress(20, 9, 0, 50), 0
    )
    whole = config_for({}, method="cdan", source="a", target="b", ramp_steps=0)
    assert reversal(whole, Progress(1, 2, 0, 50), 0) == pytest.approx(2 / (1 + math.exp(-5)) - 1)


def test_the_start_and_the_rates_of_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for method in ("cdan", "cdan-e"):
        config = config_for({}, method=method, source="a", target="b", compute="float32")
        assert (config.preset, config.batch_size, config.width) == ("own", 36, 256)
        state = TrainingState(config, make_data())
        torch.manual_seed(0)
        networks = methods.find(method).build(config, 2048, 12)
        layers = [networks.model.encoder[0], networks.model.classifier]
        layers += [networks.branch.layers[n] for n in (0, 3, 6)]
        sizes = [(2048, 256), (256, 12), (3072, 1024), (1024, 1024), (1024, 1)]
        for layer, (inputs, outputs) in zip(layers, sizes):
            assert (layer.in_features, layer.out_features) == (inputs, outputs)
            found = statistics.pstdev(layer.weight.flatten().tolist()[:100_000])
            assert found == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.06)
            assert not layer.bias.any()
        assert [m.p for m in networks.branch.layers if hasattr(m, "p")] == [0.5, 0.5]
        features = torch.randn(4, config.frames, 10)
        batch = SourceBatch(features, torch.arange(4) % 3), TargetBatch(features + 1)
        step(config, state, *batch, Progress(2, 300, 5, 10))
        [group] = state.optimiser.param_groups
        assert group["lr"] == pytest.approx(0.001 * 10 * (1 + 0.001 * 25) ** -0.75)
        assert (group["weight_decay"], group["momentum"]) == (2 * 0.0005, 0.9)
        assert group["nesterov"]


@pytest.mark.parametrize("method", ["cdan", "cdan-e"])
def test_a_run_is_resumed_and_evaluated(cli, problem: Path, method: str) -> None:
    for name, extra in (("own", ()), ("random", ("--multilinear", "random"))):
        more = ("--method", method, *extra, "--checkpoint-every", 1)
        assert cli(*toy_arguments(problem, f"{name}-calm", *more)).exit_code == 0
        with stopped_before(3):
            assert cli(*toy_arguments(problem, name, *more)).exit_code == 130
        assert cli(*toy_arguments(problem, name, *more, "--resume")).exit_code == 0
        assert outcome(problem / name) == outcome(problem / f"{name}-calm")
        again = cli("evaluate", problem / name, "--device", "cpu")
        assert again.exit_code == 0 and "the same as the run recorded" in again.output
        tensors = torch.load(problem / name / "checkpoint.pt", weights_only=True)["model"]
        assert {key.split(".")[0] for key in tensors} == {"encoder", "classifier"}
