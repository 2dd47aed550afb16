"""DAN, JAN, MCC, MCD and target only against their formulas in plain loops, and what moves in each step."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for, losses_of, stopped_before, toy_arguments
from test_robust import outcome
from torch import Tensor, nn

from adapt import methods
from adapt.bank import FeatureBank
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.kernels import ESTIMATES, discrepancy
from adapt.loop import TrainingState, step
from adapt.methods import Progress
from adapt.methods.mcc import class_confusion
from adapt.methods.mcd import disagreement
from store.datasets import manifest_path

SMALL = {
    **{"source": "a", "target": "b", "width": 6, "frames": 3, "dropout": 0.0, "video_dropout": 0.0},
    **{"compute": "float32", "initialisation": "default"},
}
CPU = torch.device("cpu")
S, T = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([[0.0], [2.0]]).double()


def exp(distance: float, width: float) -> float:
    return math.exp(-distance / width)


def distance(a: Tensor, b: Tensor) -> float:
    return sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist()))


def loops(layers: list[tuple[Tensor, Tensor]], name: str) -> float:
    """The estimate pair by pair."""
    kernels = []
    for number, (s, t) in enumerate(layers):
        rows = [*s, *t]
        count = len(rows) ** 2 - (0 if name == "tll" else len(rows))
        b = sum(distance(x, y) for x in rows for y in rows) / count
        multiples: tuple[float, ...] = (0.25, 0.5, 1, 2, 4)
        if number == 1 and name == "ta3n":
            multiples = (0.5, 1)

        def kernel(x: Tensor, y: Tensor, b=b, multiples=multiples, number=number) -> float:
            if number == 1 and name != "ta3n":
                width = {"xlearn": 1.68, "tll": 1.6928}[name]
                return exp(distance(x.softmax(0), y.softmax(0)), width)
            return sum(exp(distance(x, y), m * b) for m in multiples)

        kernels.append((kernel, s, t))
    B = len(layers[0][0])

    def k(i: int, first: int, j: int, second: int) -> float:
        return math.prod(kernel((s, t)[first][i], (s, t)[second][j]) for kernel, s, t in kernels)

    own, cross = 0.0, 0.0
    for i in range(B):
        for j in range(B):
            if name == "ta3n":
                own += (k(i, 0, j, 0) + k(i, 1, j, 1)) / B**2
            elif i != j:
                own += (k(i, 0, j, 0) + k(i, 1, j, 1)) / (B * (B - 1))
            cross += k(i, 0, j, 1) / B**2
    return own - 2 * cross + (2 / (B - 1) if name == "tll" else 0)


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("joint", [False, True])
def test_estimates_pair_by_pair(name: str, joint: bool) -> None:
    random = torch.Generator().manual_seed(0)
    parts = torch.randn(4, 5, 3, generator=random, dtype=torch.float64)
    layers = [(parts[0], parts[1] + 0.5), (parts[2], parts[3])][: 1 + joint]
    found = discrepancy(layers, ESTIMATES[name])
    assert found.item() == pytest.approx(loops(layers, name), rel=1e-10)
    swapped = [(t, s) for s, t in layers]
    assert discrepancy(swapped, ESTIMATES[name]).item() == pytest.approx(found.item(), rel=1e-10)


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [
        ("ta3n", [(S, T)], 1.1689244365),
        ("ta3n", [(S, T), (S, T)], 3.7814146174),
        ("xlearn", [(S, T)], -1.9793902218),
        ("tll", [(S, T)], -0.1128806597),
    ],
)
def test_what_the_authors_codes_give(name: str, layers: Any, expected: float) -> None:
    assert discrepancy(layers, ESTIMATES[name]).item() == pytest.approx(expected, abs=5e-11)


def test_equal_domains() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert discrepancy([(x, x)], ESTIMATES["ta3n"]).item() == pytest.approx(0, abs=1e-12)
    assert discrepancy([(x, x)], ESTIMATES["xlearn"]) < 0
    same = torch.zeros(4, 3, requires_grad=True)
    found = discrepancy([(same, same)], ESTIMATES["ta3n"])
    found.backward()
    assert found == 0 and same.grad is not None and same.grad.isfinite().all()
    with pytest.raises(ValueError, match="two or more"):
        discrepancy([(x, x[:5])], ESTIMATES["ta3n"])


def batches(frames: int = 3, target: int = 4) -> tuple[SourceBatch, TargetBatch]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(5 + target, frames, 10, generator=random, dtype=torch.float64)
    return SourceBatch(x[:5], torch.tensor([0, 2, 1, 1, 0])), TargetBatch(x[5:] + 1)


@pytest.mark.parametrize("method", ["dan", "jan"])
@pytest.mark.parametrize("preset", ["own", "shared"])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_losses_of_dan_and_jan(method: str, preset: str, estimate: str) -> None:
    """Values; the batches are cut to the smaller one. Gradients: tests/test_descents.py."""
    more = {"mmd_weight": 0.7, "mmd_ramp": "slow"}
    config = config_for(SMALL, method=method, preset=preset, mmd_estimate=estimate, **more)
    torch.manual_seed(0)
    networks = methods.find(method).build(config, 10, 3).double()
    source, target = batches()
    model = networks.model

    def total() -> tuple[Tensor, float]:
        features = [model.encode(b.features_BTD).mean(1) for b in (source, target)]
        logits = [model.classifier(x) for x in features]
        label = nn.functional.cross_entropy(logits[0], source.labels_B)
        layers = [(features[0][:4], features[1])]
        if method == "jan":
            layers.append((logits[0][:4], logits[1]))
        return label, loops(layers, estimate)

    losses = losses_of(config, model, None, source, target)
    label, expected = total()
    assert losses.parts["source"].item() == pytest.approx(label.item(), rel=1e-12)
    assert losses.parts["discrepancy"].item() == pytest.approx(expected, rel=1e-9)
    weight = 0.7 * (2 / (1 + math.exp(-1)) - 1)  # of the only epoch: 0.462 of it
    assert losses.total.item() == pytest.approx(label.item() + weight * expected, rel=1e-9)
    losses.total.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_bandwidth_is_a_constant() -> None:
    """The gradient is that with the bandwidth held; scaling all rows would otherwise change nothing."""
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(discrepancy([(x[:3], x[3:])], ESTIMATES["ta3n"]), x)
    along = (gradient * x).sum().item()  # derivative with respect to the scale of all rows
    rows = x.detach()
    d = [[distance(a, b) for b in rows] for a in rows]
    b = sum(map(sum, d)) / 30
    sign = [[1 if (i < 3) == (j < 3) else -1 for j in range(6)] for i in range(6)]
    expected = sum(
        sign[i][j]
        / 9
        * sum(-2 * d[i][j] / (m * b) * exp(d[i][j], m * b) for m in (0.25, 0.5, 1, 2, 4))
        for i in range(6)
        for j in range(6)
    )
    assert along == pytest.approx(expected, rel=1e-9) and abs(along) > 1e-3


def test_class_confusion() -> None:
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    p = [[math.exp(v / 2.5) for v in row] for row in z.tolist()]
    p = [[v / sum(row) for v in row] for row in p]
    w = [1 + math.exp(sum(v * math.log(v) for v in row)) for row in p]
    w = [7 * v / sum(w) for v in w]
    C = [[sum(w[b] * p[b][j] * p[b][k] for b in range(7)) for k in range(4)] for j in range(4)]
    expected = sum(C[j][k] / sum(C[j]) for j in range(4) for k in range(4) if j != k) / 4
    assert class_confusion(z, 2.5).item() == pytest.approx(expected, rel=1e-10)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    mixed = class_confusion(z[order][:, [2, 0, 3, 1]], 2.5)
    assert mixed.item() == pytest.approx(expected, rel=1e-10)
    sure = 1e3 * torch.eye(4).repeat(2, 1)
    assert class_confusion(sure, 2.5) == 0
    assert class_confusion(torch.zeros(8, 4), 2.5).item() == pytest.approx(1 - 1 / 4)
    one_class = torch.tensor([[1e3, 0.0, 0.0, 0.0]]).repeat(8, 1).requires_grad_()
    found = class_confusion(one_class, 2.5)
    found.backward()
    assert found < 1e-6 and one_class.grad is not None and one_class.grad.isfinite().all()


def test_class_confusion_is_float32_where_products_are_bfloat16() -> None:
    z = 12 * torch.eye(12).repeat(3, 1)
    exact = class_confusion(z, 2.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(class_confusion(z, 2.5), exact)


def test_the_weights_of_the_confusion_are_constants() -> None:
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z.requires_grad_()
    (found,) = torch.autograd.grad(class_confusion(z, 2.5), z)
    p = (z / 2.5).softmax(1)
    w = 1 + torch.exp((p * p.log()).sum(1)).detach()
    C = torch.einsum("b,bj,bk->jk", 5 * w / w.sum(), p, p)
    (expected,) = torch.autograd.grad(1 - (C.diagonal() / C.sum(1)).mean(), z)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def data() -> TrainingData:
    draws = np.random.default_rng(0)
    features = [draws.normal(size=(6, 10)).astype(np.float16) for _ in range(9)]
    bank, labels = FeatureBank(features, CPU), torch.arange(9) % 3
    return TrainingData(source=bank, labels_V=labels, target=bank, classes="abc", device=CPU)


def mcd_state(**given: Any) -> TrainingState:
    sgd = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.1, "rate_decay": "none"}
    config = config_for(SMALL, method="mcd", **{"weight_decay": 0.0, **sgd, **given})
    state = TrainingState(config, data())
    state.networks.double()
    return state


def take(state: TrainingState, **given: Any) -> dict[str, float]:
    sgd = {"optimiser": "sgd", "momentum": 0.0, "learning_rate": 0.1, "rate_decay": "none"}
    config = config_for(SMALL, method="mcd", **{"weight_decay": 0.0, **sgd, **given})
    parts = step(config, state, *batches(), Progress())
    return {name: value.item() for name, value in parts.items()}


def by_hand(model: Any, loss: Tensor, parts: list[nn.Module]) -> None:
    """Plain gradient descent on these parts."""
    parameters = [p for part in parts for p in part.parameters()]
    with torch.no_grad():
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):
            p -= 0.1 * g


def test_the_three_steps_of_mcd() -> None:
    state = mcd_state(encoder_steps=2)
    twin, (source, target) = copy.deepcopy(state.model), batches()
    found = take(state, encoder_steps=2)

    def heads(x: Tensor) -> list[Tensor]:
        video = twin.encode(x).mean(1)
        return [twin.classifier(video), twin.second(video)]

    def label() -> Tensor:
        return sum(
            nn.functional.cross_entropy(h, source.labels_B) for h in heads(source.features_BTD)
        )

    def apart() -> Tensor:
        p, q = (h.softmax(1) for h in heads(target.features_BTD))
        return sum((p[b, n] - q[b, n]).abs() for b in range(4) for n in range(3)) / 12

    first = label()
    by_hand(twin, first, [twin])
    second = apart()
    by_hand(twin, label() - second, [twin.classifier, twin.second])
    for _ in range(2):
        third = apart()
        by_hand(twin, third, [twin.encoder])
    expected = {"source": first, "disagreement": second, "left": third}
    assert found == {name: pytest.approx(v.item(), rel=1e-9) for name, v in expected.items()}
    for ours, theirs in zip(state.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert second > 0


def test_the_one_pass_of_mcd() -> None:
    """The classifiers descend L_s - d, the encoder L_s + mu d."""
    given = {"preset": "ta3n", "discrepancy_reversal": 0.3, "gradient_clip": 0.0}
    state = mcd_state(**given)
    twin, (source, target) = copy.deepcopy(state.model), batches()
    take(state, **given)
    losses = []
    for x in (source.features_BTD, target.features_BTD):
        video = twin.encode(x).mean(1)
        losses.append([twin.classifier(video), twin.second(video)])
    label = sum(nn.functional.cross_entropy(h, source.labels_B) for h in losses[0])
    apart = (losses[1][0].softmax(1) - losses[1][1].softmax(1)).abs().mean()
    for loss, parts in (
        (label - apart, [twin.classifier, twin.second]),
        (label + 0.3 * apart, [twin.encoder]),
    ):
        parameters = [p for part in parts for p in part.parameters()]
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, retain_graph=True)):
            p.grad = g
    with torch.no_grad():
        for ours, p in zip(state.model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, p - 0.1 * p.grad, rtol=1e-9, atol=1e-12)


def test_who_predicts_in_mcd() -> None:
    x = batches()[1].features_BTD
    for form, preset in (("three-steps", "own"), ("one-pass", "ta3n")):
        model = mcd_state(preset=preset).model.eval()
        video = model.encode(x).mean(1)
        first, second = model.classifier(video), model.second(video)
        expected = (first + second) / 2 if form == "three-steps" else first
        torch.testing.assert_close(model(x), expected)
        assert not torch.equal(first, second)


def test_equal_classifiers_do_not_disagree() -> None:
    z = torch.randn(4, 3, requires_grad=True)
    found = disagreement(z, z.detach().clone())
    found.backward()
    assert found == 0 and not z.grad.any()
    sure = torch.tensor([[99.0, 0, 0]]), torch.tensor([[0, 99.0, 0]])
    assert disagreement(*sure).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("method", ["dan", "jan", "mcc", "mcd", "target-only"])
def test_stopped_resumed_and_evaluated(cli, problem: Path, method: str) -> None:
    more = ("--method", method, "--checkpoint-every", 1)
    whole = cli(*toy_arguments(problem, "calm", *more))
    assert whole.exit_code == 0, whole.output
    with stopped_before(3):
        assert cli(*toy_arguments(problem, "run", *more)).exit_code == 130
    resumed = cli(*toy_arguments(problem, "run", *more, "--resume"))
    assert resumed.exit_code == 0, resumed.output
    assert outcome(problem / "run") == outcome(problem / "calm")
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output
    bound = "TRAINED ON THE TARGET'S LABELS" in whole.output
    assert bound == (method == "target-only")


def test_whose_labels_are_read(cli, problem: Path) -> None:
    """With other target training labels only target-only's run changes, and says that its videos did."""
    before = {}
    for method in ("dan", "target-only"):
        assert cli(*toy_arguments(problem, method, "--method", method)).exit_code == 0
        before[method] = outcome(problem / method)
    path = manifest_path("toy", "right", problem / "manifests")
    lines = path.read_text().splitlines()
    train = [n for n, line in enumerate(lines) if ",train" in line]
    turned = {"0": "1", "1": "2", "2": "0"}
    for n in train:
        video, label, _, rest = lines[n].split(",", 3)
        lines[n] = f"{video},{turned[label]},c{turned[label]},{rest}"
    path.write_text("\n".join(lines) + "\n")
    for method in ("dan", "target-only"):
        assert cli(*toy_arguments(problem, f"{method}2", "--method", method)).exit_code == 0
        same = outcome(problem / f"{method}2") == before[method]
        assert same == (method == "dan")
    config = json.loads((problem / "target-only2" / "config.json").read_text())
    assert config["data"]["videos"].startswith("24 right train, 24 right train, 12 right eval")
    refused = cli(*toy_arguments(problem, "target-only", "--method", "target-only", "--resume"))
    assert refused.exit_code == 1 and "holds a run on other videos" in refused.output


def test_data_that_was_loaded_for_another_kind_of_method(problem: Path) -> None:
    import adapt
    from store.errors import ConfigError

    where = {"features": problem / "features", "manifests": problem / "manifests"}
    known = {"manifests": where["manifests"], "epochs": 1}
    bound = adapt.configure("left", "right", method="target-only", **known)
    honest = adapt.configure("left", "right", method="mcc", **known)
    with pytest.raises(ConfigError, match="loaded without the target's labels"):
        adapt.train(bound, adapt.load(honest, **where), problem / "run")
    with pytest.raises(ConfigError, match="loaded with the target's labels"):
        adapt.train(honest, adapt.load(bound, **where), problem / "run")
    assert not (problem / "run").exists()
