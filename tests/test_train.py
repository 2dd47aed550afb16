"""Where gradients go, what a step minimises, and what prediction depends on."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for, losses_of
from torch import Tensor, nn

from adapt import methods, pyramid
from adapt.bank import FeatureBank
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.loop import TrainingState
from adapt.losses import diversity, source_loss, target_entropy
from adapt.model import VideoClassifier
from adapt.prediction import take_statistics

COEFFICIENT = 0.3
SMALL = {
    **{"source": "a", "target": "b", "levels": 3, "width": 6, "discriminator_width": 8},
    "dropout": 0.0,
    "compute": "float32",
    "adversarial_weight": COEFFICIENT,
    "adversarial_ramp": "none",
}

# Parameters without a gradient, and why. Everything else must have one.
BATCH_NORM = "batch norm subtracts what the bias adds"
UNTRAINED = "the authors' level attention: a linear layer that no loss reaches"
WITHOUT_GRADIENT = {
    "paper": {"encoder.0.bias": BATCH_NORM, "encoder.4.bias": BATCH_NORM},
    "released": {
        "encoder.0.bias": BATCH_NORM,
        "encoder.4.bias": BATCH_NORM,
        **{
            f"level_discriminators.{m}.{part}": UNTRAINED
            for m in (2, 3)
            for part in ("weight", "bias")
        },
    },
}
# Numerically zero: sums that cancel leave rounding of this order in float64.
ZERO = 1e-12
WITH_PAPER = [name for name in methods.names() if "paper" in methods.find(name).settings]


def make_config(preset: str, **given: Any) -> AdaptConfig:
    return config_for(SMALL, preset=preset, **given)


def make_step(config: AdaptConfig) -> tuple[Any, Any, SourceBatch, TargetBatch]:
    torch.manual_seed(0)
    networks = methods.find(config.method).build(config, 10, 3).double()
    model, branch = networks.model, networks.branch
    if branch is not None:
        branch.eval()  # no dropout
    features = torch.randn(9, config.frames, 10, dtype=torch.float64)
    source = SourceBatch(features[:5], torch.tensor([0, 1, 2, 1, 0]))
    return model, branch, source, TargetBatch(features[5:])


def named(model: nn.Module, branch: nn.Module) -> dict[str, nn.Parameter]:
    return {**dict(model.named_parameters()), **dict(branch.named_parameters())}


@pytest.mark.parametrize("preset", WITHOUT_GRADIENT)
def test_every_parameter_has_a_gradient_but_those_on_the_list(preset: str) -> None:
    config = make_config(preset)
    step = make_step(config)
    losses_of(config, *step).total.backward()
    without = {
        name for name, p in named(*step[:2]).items() if p.grad is None or p.grad.abs().max() < ZERO
    }
    assert without == set(WITHOUT_GRADIENT[preset])


@pytest.mark.parametrize("preset", WITHOUT_GRADIENT)
def test_adversarial_gradients_against_those_without_reversal(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eq. 9: the extractor gets minus the coefficient times its plain gradient. The aggregators play
    against the discriminators in `paper` and with them in `released`; discriminators always descend."""
    config = make_config(preset)
    step = make_step(config)
    plain = copy.deepcopy(step)
    losses_of(config, *step).parts["adversarial"].backward()
    monkeypatch.setattr(pyramid, "reverse", lambda x, coefficient: x)
    losses_of(config, *plain).parts["adversarial"].backward()
    signs = {
        "encoder": -COEFFICIENT,
        "aggregators": -COEFFICIENT if preset == "paper" else 1.0,
        "discriminators": 1.0,
    }
    expected = named(*plain[:2])
    compared = set()
    for name, p in named(*step[:2]).items():
        part = name.split(".")[0]
        if part not in signs:
            assert p.grad is None
            continue
        torch.testing.assert_close(p.grad, signs[part] * expected[name].grad, rtol=1e-9, atol=1e-13)
        compared.add(part)
    assert compared == set(signs)


@pytest.mark.parametrize("preset", WITHOUT_GRADIENT)
def test_the_total_is_the_sum_of_its_losses(preset: str) -> None:
    config = make_config(preset, entropy_weight=0.7)
    model, branch, source, target = make_step(config)
    losses = losses_of(config, model, branch, source, target)
    # Each domain's batch norm sees its own batch, so the two are passed one after the other.
    source_BTC = model.encode(source.features_BTD)
    target_BTC = model.encode(target.features_BTD)
    parts = losses.parts
    assert torch.equal(
        parts["source"], source_loss(model.classifier(source_BTC.mean(1)), source.labels_B)
    )
    assert torch.equal(
        parts["entropy"],
        target_entropy(model.classifier(target_BTC.mean(1)), config.entropy_reduction),
    )
    total = parts["source"] + 0.7 * parts["entropy"] + parts["adversarial"]
    if preset == "paper":
        total = total + parts["level_attention"]
    assert ("level_attention" in parts) == (preset == "paper")
    torch.testing.assert_close(losses.total, total)


def test_domains_are_told_apart_as_source_0_and_target_1(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    forward = pyramid.AdaptationBranch.forward

    def watch(self: Any, features: Tensor, domains_B: Tensor, *more: Any) -> Any:
        seen.append(domains_B)
        return forward(self, features, domains_B, *more)

    monkeypatch.setattr(pyramid.AdaptationBranch, "forward", watch)
    config = make_config("paper")
    losses_of(config, *make_step(config))
    assert seen[0].tolist() == [0.0] * 5 + [1.0] * 4


def test_source_only_has_no_branch_and_never_reads_the_target() -> None:
    config = make_config("paper", method="source-only")
    model, branch, source, target = make_step(config)
    assert branch is None
    poisoned = TargetBatch(target.features_BTD * float("nan"))
    losses_of(config, model, branch, source, poisoned).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(torch.isfinite(b).all() for b in model.buffers())


@pytest.mark.parametrize("preset", WITHOUT_GRADIENT)
def test_prediction_never_touches_the_branch(preset: str) -> None:
    config = make_config(preset)
    model, branch, source, target = make_step(config)
    losses_of(config, model, branch, source, target).total.backward()
    model.eval()
    before = model(target.features_BTD)
    with torch.no_grad():
        for p in (*branch.parameters(), *branch.buffers()):
            p.fill_(float("nan"))
    assert torch.equal(model(target.features_BTD), before)
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder", "classifier"}


def test_the_predicting_network_is_under_a_million_parameters() -> None:
    config = config_for({}, preset="paper", source="a", target="b")
    model = VideoClassifier(config, 2048, 12)
    assert sum(p.numel() for p in model.parameters()) == 594_444


def test_prediction_is_the_mean_over_frames_of_the_encoder_then_linear() -> None:
    model, _, source, _ = make_step(make_config("paper"))
    model.eval()
    for video, logits in zip(source.features_BTD, model(source.features_BTD)):
        encoded = [model.encoder(frame[None])[0] for frame in video]
        expected = model.classifier(sum(encoded) / len(encoded))
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("method", WITH_PAPER)
def test_input_norm_undoes_a_gain_and_a_shift_of_each_channel_of_a_domain(method: str) -> None:
    """In training each domain has its own statistics, so that no loss sees such a gap."""
    # At the start predictions are nearly uniform, and MCC's temperature makes them more so.
    own = {"ta3n": {"frames": 5}, "mcc": {"confusion_temperature": 0.1}}
    given = {"method": method, **own.get(method, {})}

    def parts(gain: Any, shift: Any, input_norm: bool) -> dict[str, float]:
        config = make_config("paper", input_norm=input_norm, **given)
        model, branch, source, target = make_step(config)
        target = TargetBatch(gain * target.features_BTD + shift)
        found = losses_of(config, model, branch, source, target)
        return {name: loss.item() for name, loss in found.parts.items()}

    random = torch.Generator().manual_seed(0)
    gain, shift = (torch.rand(10, generator=random, dtype=torch.float64) + 0.5 for _ in range(2))
    same = parts(1.0, 0.0, True)
    assert parts(gain, shift, True) == pytest.approx(same, rel=1e-4)
    if method not in ("source-only", "target-only"):  # their losses see the labelled batch alone
        assert parts(gain, shift, False) != pytest.approx(parts(1.0, 0.0, False), rel=1e-4)


def test_every_method_is_found() -> None:
    for name in WITH_PAPER:
        config = make_config("paper", method=name, **({"frames": 5} if name == "ta3n" else {}))
        assert losses_of(config, *make_step(config)).total.isfinite()


SIZES = {0: 5, 1: 2, 2: 1}


@pytest.mark.parametrize(
    ("sampling", "per_class"),
    [
        ("shuffled", SIZES),
        ("smallest-class", dict.fromkeys(SIZES, 1)),
        ("largest-class", dict.fromkeys(SIZES, 5)),
    ],
)
def test_what_a_pass_over_the_source_takes(sampling: str, per_class: dict[int, int]) -> None:
    labels = [label for label, size in SIZES.items() for _ in range(size)]
    bank = FeatureBank([np.zeros((9, 10), np.float16)] * len(labels), torch.device("cpu"))
    data = TrainingData(
        source=bank,
        labels_V=torch.tensor(labels),
        target=bank,
        classes="abc",
        device=torch.device("cpu"),
    )
    stream = TrainingState(make_config("paper", source_sampling=sampling), data).source
    taken = Counter()
    orders = set()
    for _ in range(60):
        videos = stream.take(sum(per_class.values())).tolist()
        orders.add(tuple(videos))
        assert Counter(labels[video] for video in videos) == per_class
        # Within a class no video comes twice more often than another.
        for label, wanted in per_class.items():
            times = Counter(video for video in videos if labels[video] == label).values()
            assert max(times) <= -(-wanted // SIZES[label])
        taken.update(videos)
    assert set(taken) == set(range(len(labels))) and len(orders) > 1


@pytest.mark.parametrize("method", ["ma2l-td", "infomax"])
def test_information_maximisation_rewards_diverse_predictions(method: str) -> None:
    """The total falls by the entropy of the mean prediction; batch norm sees each domain alone."""
    given = {"method": method, "entropy_weight": 0.7}
    with_weight = make_config("paper", **given, diversity_weight=0.3)
    model, branch, source, target = make_step(with_weight)
    losses = losses_of(with_weight, model, branch, source, target)
    without = losses_of(
        make_config("paper", **given, diversity_weight=0.0), model, branch, source, target
    )
    probabilities = [
        [math.exp(z) / sum(math.exp(other) for other in row) for z in row]
        for row in model(target.features_BTD).tolist()
    ]
    mean = [sum(column) / len(column) for column in zip(*probabilities)]
    expected = -sum(p * math.log(p) for p in mean)
    assert losses.parts["diversity"].item() == pytest.approx(expected)
    assert (without.total - losses.total).item() == pytest.approx(0.3 * expected)
    assert expected < math.log(3)


def test_a_sure_prediction_of_one_class_is_not_diverse() -> None:
    sure = torch.tensor([[200.0, 0.0, 0.0]]).repeat(4, 1).requires_grad_()
    assert diversity(sure).item() == 0
    diversity(sure).backward()
    assert sure.grad is not None and sure.grad.isfinite().all()
    assert diversity(50 * torch.eye(3)).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("input_norm", [False, True])
def test_statistics_of_the_target_are_taken_layer_by_layer(input_norm: bool) -> None:
    config = make_config("paper", input_norm=input_norm)
    torch.manual_seed(0)
    model = VideoClassifier(config, 10, 3)
    features = [
        (3 + 2 * np.random.default_rng(v).normal(size=(9 + v, 10))).astype(np.float16)
        for v in range(300)  # more than one batch
    ]
    take_statistics(model, FeatureBank(features, torch.device("cpu")), 4)
    picked = [f[[(2 * i + 1) * len(f) // 8 for i in range(4)]] for f in features]
    rows = np.concatenate(picked).astype(np.float64)
    for layer in model.encoder:
        if isinstance(layer, nn.Linear):
            weight, bias = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
            rows = rows @ weight.T + bias
        elif isinstance(layer, nn.BatchNorm1d):
            np.testing.assert_allclose(layer.running_mean, rows.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(layer.running_var, rows.var(0, ddof=1), rtol=1e-4)
            rows = (rows - rows.mean(0)) / np.sqrt(rows.var(0, ddof=1) + layer.eps)
        elif isinstance(layer, nn.ReLU):
            rows = np.maximum(0, rows)
    assert not model.training
