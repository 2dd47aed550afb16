"""DAN, JAN, MCC and MCD: gradients, what each descent moves, starts and rates, batches that are refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import config_for, losses_of, toy_arguments
from test_discrepancies import batches, data
from torch import Tensor, nn

from adapt import methods
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.kernels import ESTIMATES, discrepancy
from adapt.loop import TrainingState, step
from adapt.methods import Progress, dan, mcd
from adapt.schedule import learning_rate

BASE = {"source": "a", "target": "b", "width": 6, "frames": 3, "compute": "float32"}


def make_config(method: str, **given: Any) -> AdaptConfig:
    return config_for(BASE, method=method, **given)


def pair_by_pair(layers: list[tuple[Tensor, Tensor]], name: str) -> Tensor:
    """The estimate with a graph to the rows, each bandwidth a number."""
    kernels: list[dict[tuple[int, int], Tensor]] = []
    for number, (s, t) in enumerate(layers):
        rows = [*s, *t]
        if number == 1 and name != "ta3n":
            rows = [row.softmax(0) for row in rows]
        d = {(i, j): ((a - b) ** 2).sum() for i, a in enumerate(rows) for j, b in enumerate(rows)}
        n = len(rows)
        b = sum(float(x.detach()) for x in d.values()) / (n * n if name == "tll" else n * n - n)
        widths = [m * b for m in ((0.5, 1) if number else (0.25, 0.5, 1, 2, 4))]
        if number == 1 and name != "ta3n":
            widths = [1.68 if name == "xlearn" else 2 * 0.92**2]
        kernels.append({at: sum((-x / w).exp() for w in widths) for at, x in d.items()})
    B = len(layers[0][0])
    total = torch.zeros((), dtype=torch.float64)
    for i in range(2 * B):
        for j in range(2 * B):
            k = math.prod(kernel[i, j] for kernel in kernels)
            if (i < B) != (j < B):
                total = total - k / B**2
            elif name == "ta3n":
                total = total + k / B**2
            elif i != j:
                total = total + k / (B * (B - 1))
    return total + (2 / (B - 1) if name == "tll" else 0)


@pytest.mark.parametrize("method", ["dan", "jan"])
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_gradients_of_dan_and_jan(method: str, estimate: str) -> None:
    """Against the estimate pair by pair, with the bandwidth as a number."""
    still = {"dropout": 0.0, "video_dropout": 0.0, "initialisation": "default"}
    config = make_config(method, mmd_estimate=estimate, mmd_weight=0.7, **still)
    torch.manual_seed(0)
    model = methods.find(method).build(config, 10, 3).model.double()
    twin, (source, target) = copy.deepcopy(model), batches()
    losses_of(config, model, None, source, target).total.backward()

    features = [twin.encode(b.features_BTD).mean(1) for b in (source, target)]
    logits = [twin.classifier(x) for x in features]
    layers = [(features[0][:4], features[1]), (logits[0][:4], logits[1])][: 1 + (method == "jan")]
    label = nn.functional.cross_entropy(logits[0], source.labels_B)
    (label + 0.7 * pair_by_pair(layers, estimate)).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert theirs.grad.abs().max() > 1e-4
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-13)


def test_small_distances_are_not_lost_in_float32() -> None:
    """Features far from 0 and near each other, as after a batch norm's bias or a ReLU."""
    random = torch.Generator().manual_seed(0)
    x = 1000 + torch.randn(12, 64, generator=random)
    for name, estimate in ESTIMATES.items():
        single = discrepancy([(x[:6], x[6:])], estimate).double()
        exact = discrepancy([(x[:6].double(), x[6:].double())], estimate)
        torch.testing.assert_close(single, exact, rtol=1e-4, atol=1e-5, msg=name)


def test_the_feature_is_seen_before_or_after_its_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(dan, "discrepancy", lambda layers, _: (seen.append(layers[0][1]), 0)[1])
    for estimate in ESTIMATES:
        config = make_config("dan", mmd_estimate=estimate, dropout=0.0, width=400)
        model = dan.build(config, 10, 3).model.double()
        source, target = batches()
        plain = model.encode(target.features_BTD).mean(1)
        losses_of(config, model, None, source, target)
        if estimate == "ta3n":
            assert torch.equal(seen[-1], plain)
            continue
        dropped = (seen[-1] == 0) & (plain != 0)
        assert 0.3 < dropped.double().mean() / (plain != 0).double().mean() < 0.7
        torch.testing.assert_close(seen[-1][~dropped], 2 * plain[~dropped])


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--batch-size", 1), "got 1 of the source"),
        (("--target-batch", "proportional", "--classes", "c0,c1"), "got 1 of the target"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["dan", "jan"])
def test_one_video_has_no_pair(
    cli, problem: Path, method: str, more: tuple[object, ...], text: str
) -> None:
    if "--target-batch" in more:
        shrink(problem / "manifests" / "toy" / "right.csv", keep=2)
    shared = ("--method", method, "--preset", "shared", *more)
    refused = cli(*toy_arguments(problem, "run", *shared))
    assert refused.exit_code == 2
    assert f"--method {method} compares the videos of a domain and needs 2 of each in a step" in (
        refused.output
    )
    assert text in refused.output and not (problem / "run").exists()
    assert cli(*toy_arguments(problem, "run", *shared, "--draws", 2)).exit_code == 0


def shrink(manifest: Path, keep: int) -> None:
    """Leave `keep` training videos, of different classes."""
    head, *lines = manifest.read_text().splitlines()
    train = [line for line in lines if ",train" in line]
    chosen = {train[i * len(train) // 3] for i in range(keep)}
    rest = [line for line in lines if ",train" not in line or line in chosen]
    manifest.write_text("\n".join([head, *rest]) + "\n")


def descents(config: AdaptConfig, state: TrainingState) -> list[dict[str, set[str]]]:
    """Of each descent of a step, the parameters and buffers that it was to move and those that moved."""
    found: list[dict[str, set[str]]] = []
    names = {id(p): name for name, p in state.networks.named_parameters()}
    original = mcd.step

    def spied(networks: Any, source: Any, target: Any, config: Any, progress: Any, descend: Any):
        def watched(loss: Tensor, modules: Any) -> None:
            before = copy.deepcopy(networks.state_dict())
            descend(loss, modules)
            after = networks.state_dict()
            moved = {name for name in before if not torch.equal(before[name], after[name])}
            asked = {names[id(p)] for module in modules for p in module.parameters()}
            found.append({"asked": asked, "moved": moved})

        return original(networks, source, target, config, progress, watched)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mcd, "step", spied)
        for _ in range(2):  # the second time the optimiser has averages of every parameter
            found.clear()
            step(config, state, *batches(), Progress())
    return found


OPTIMISERS = [
    {"optimiser": "adam", "learning_rate": 0.01, "weight_decay": 0.1},
    {"optimiser": "sgd", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.1},
]


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda o: o["optimiser"])
@pytest.mark.parametrize("preset", ["own", "shared"])
def test_each_of_the_three_steps_moves_its_parameters_alone(
    optimiser: dict[str, Any], preset: str
) -> None:
    """To the bit, with batch norms, dropout, weight decay and averages of earlier steps."""
    config = make_config("mcd", preset=preset, **optimiser)
    state = TrainingState(config, data())
    state.networks.double()
    every = {name for name, _ in state.networks.named_parameters()}
    encoder = {name for name in every if name.startswith("model.encoder")}
    heads = every - encoder
    assert {name.split(".")[1] for name in heads} == {"classifier", "second"}
    found = descents(config, state)
    assert [one["asked"] for one in found] == [every, heads, *[encoder] * 4]
    assert all(one["moved"] == one["asked"] for one in found)


def test_the_one_pass_is_one_descent_of_everything() -> None:
    config = make_config("mcd", preset="ta3n", initialisation="default", dropout=0.0)
    state = TrainingState(config, data())
    state.networks.double()
    [one] = descents(config, state)
    assert one["asked"] == one["moved"] == {name for name, _ in state.networks.named_parameters()}


def test_batch_norms_see_the_batches_in_the_authors_order() -> None:
    """A: source. B: source, target. C: target, as often as the encoder descends."""
    config = make_config("mcd", preset="shared", encoder_steps=3)
    state = TrainingState(config, data())
    state.networks.double()
    source, target = batches()
    step(config, state, source, target, Progress())
    expected = torch.zeros(10, dtype=torch.float64)
    for batch in (source, source, target, target, target, target):
        expected = 0.9 * expected + 0.1 * batch.features_BTD.mean((0, 1))
    norm = next(m for m in state.model.modules() if isinstance(m, nn.BatchNorm1d))
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("preset", ["own", "ta3n"])
def test_torchrun_is_refused_with_the_reason(
    cli, problem: Path, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    from adapt import parallel

    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(parallel, "from_first", lambda function: function())
    more = ("--method", "mcd", "--preset", preset, "--target-batch", "equal")
    result = cli(*toy_arguments(problem, "run", *more))
    assert result.exit_code == 2
    assert (
        "--method mcd trains in one process: start it without torchrun (its step is not one descent of "
        "one loss)." in result.output
    )


@pytest.mark.parametrize(
    ("method", "preset", "layers"), [("dan", "own", 2), ("jan", "own", 2), ("mcd", "ta3n", 3)]
)
def test_the_start_and_the_rates_of_ta3n_s_authors(method: str, preset: str, layers: int) -> None:
    config = config_for({}, method=method, preset=preset, source="a", target="b")
    torch.manual_seed(0)
    networks = methods.find(method).build(config, 2048, 12)
    linear = [m for m in networks.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [512, *[12] * (layers - 1)]
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx(0.001, rel=0.03)
        assert not layer.bias.any()
    assert not torch.equal(linear[-1].weight, linear[-2].weight[:12, :512])
    assert (config.optimiser, config.momentum, config.weight_decay) == ("sgd", 0.9, 1e-4)
    assert learning_rate(config, Progress(0, 30, 0, 12)) == 0.03
    assert learning_rate(config, Progress(0, 30, 1, 12)) == pytest.approx(0.02418, abs=5e-6)


def test_the_start_and_the_rates_of_mcc_s_authors() -> None:
    config = config_for({}, method="mcc", preset="own", source="a", target="b")
    torch.manual_seed(0)
    first, classifier = (
        m for m in methods.find("mcc").build(config, 2048, 12).modules() if isinstance(m, nn.Linear)
    )
    for layer, inputs, outputs in ((first, 2048, 256), (classifier, 256, 12)):
        assert (layer.in_features, layer.out_features) == (inputs, outputs)
        deviation = math.sqrt(2 / (inputs + outputs))
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert not layer.bias.any()
    assert (config.batch_size, config.optimiser, config.momentum) == (28, "sgd", 0.9)
    assert config.weight_decay == 1e-3  # 0.0005, twice
    for number in (0, 1, 500):
        expected = 0.001 * 10 * (1 + 0.001 * number) ** -0.75
        progress = Progress(number // 7, 300, number % 7, 7)
        assert learning_rate(config, progress) == pytest.approx(expected, rel=1e-12)
    assert (config.confusion_weight, config.confusion_temperature) == (1.0, 2.5)


def test_the_optimiser_of_mcd_s_authors() -> None:
    config = config_for({}, method="mcd", source="a", target="b")
    assert (config.preset, config.form, config.encoder_steps) == ("own", "three-steps", 4)
    assert (config.optimiser, config.learning_rate, config.weight_decay) == ("adam", 2e-4, 5e-4)
    assert (config.batch_size, config.rate_decay) == (128, "none")


def test_every_method_here_adds_only_losses_under_shared() -> None:
    """Encoder, optimiser, sampling and statistics are those of MA2L-TD's robust preset."""
    robust = config_for({}, preset="robust", source="a", target="b").as_dict()
    for method in ("dan", "jan", "mcc", "mcd"):
        shared = config_for({}, method=method, preset="shared", source="a", target="b")
        own = {"method", "preset", *methods.find(method).own}
        assert {k: v for k, v in shared.as_dict().items() if k not in own} == {
            k: robust[k] for k in shared.as_dict() if k not in own
        }


def test_predictions_need_no_companions() -> None:
    for method in ("dan", "jan", "mcc", "mcd", "target-only"):
        config = make_config(method)
        torch.manual_seed(0)
        model = methods.find(method).build(config, 10, 3).model.double().eval()
        x: TargetBatch | SourceBatch = batches()[1]
        together = model(x.features_BTD)
        alone = torch.cat([model(video[None]) for video in x.features_BTD.flip(0)]).flip(0)
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
