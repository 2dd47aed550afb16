"""DANN and TA3N against their formulas written out video by video, frame by frame and tuple by tuple.

The references take a copy of the encoder, which has tests of its own, and every other parameter by
name. Their reversal is arithmetic: (1 + c) x, taken as a constant, minus c x.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import config_for, losses_of, stopped_before, toy_arguments
from test_robust import outcome
from torch import Tensor, nn

from adapt import discriminators, methods
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.methods import ta3n
from adapt.methods.ta3n import combination, frame_tuples
from adapt.runs import RunFolder

COEFFICIENT = 0.6
SMALL = {
    "source": "a",
    "target": "b",
    "levels": 2,
    "width": 6,
    "dropout": 0.0,
    "compute": "float32",
    "adversarial_weight": COEFFICIENT,
    "adversarial_ramp": "none",
    "video_dropout": 0.0,
    "initialisation": "default",
}
LABELS = [0, 2, 1, 1, 0]
# Of 5 frames, in lexicographic order: the 1st, 3rd and 5th of 5; the 1st, 5th and 8th of 10.
TUPLES_OF_5 = {
    5: ["01234"],
    4: ["0123", "0134", "1234"],
    3: ["012", "024", "124"],
    2: ["01", "12", "23"],
}
VARIANTS = [
    {"method": "dann"},
    {"method": "dann", "preset": "paper"},
    {"method": "dann", "entropy_weight": 0.4, "entropy_reduction": "mean"},
    {"method": "ta3n"},
    {"method": "ta3n", "preset": "paper", "frames": 5},
    {"method": "ta3n", "source": "hmdb", "target": "ucf"},
    {
        **{"method": "ta3n", "entropy_weight": 0.9, "entropy_reduction": "mean"},
        **{"frame_reversal": 0.2, "relation_reversal": 0.3, "video_reversal": 1.1},
    },
]


def make_config(**given: Any) -> AdaptConfig:
    return config_for(SMALL, **given)


Step = tuple[nn.Module, nn.Module, SourceBatch, TargetBatch]


def make_step(config: AdaptConfig) -> Step:
    torch.manual_seed(0)
    networks = methods.find(config.method).build(config, 10, 3).double()
    model, branch = networks.model, networks.branch
    with torch.no_grad():  # away from the start, where every discriminator is undecided
        for p in (*model.parameters(), *branch.parameters()):
            p += 0.2 * torch.randn_like(p)
    features = torch.randn(9, config.frames, 10, dtype=torch.float64)
    return model, branch, SourceBatch(features[:5], torch.tensor(LABELS)), TargetBatch(features[5:])


class Reference:
    """The total loss of a step in plain loops, with its own copy of the parameters."""

    def __init__(self, config: AdaptConfig, step: Step) -> None:
        self.config = config
        self.model, self.branch = copy.deepcopy(step[0]), copy.deepcopy(step[1])
        self.p = {**dict(self.model.named_parameters()), **dict(self.branch.named_parameters())}
        self.frame: list[Tensor] = []
        self.relation: list[Tensor] = []
        self.video: list[Tensor] = []
        self.source: list[Tensor] = []
        self.entropy: list[Tensor] = []
        for domain, batch in enumerate(step[2:]):
            for number, frames_TC in enumerate(self.model.encode(batch.features_BTD)):
                label = LABELS[number] if domain == 0 else None
                self.add([frames_TC[t] for t in range(config.frames)], domain, label)
        mean = {
            name: sum(terms) / len(terms)
            for name, terms in vars(self).items()
            if isinstance(terms, list) and terms
        }
        self.parts = mean
        self.total = sum(mean[name] for name in mean if name != "entropy")
        if "entropy" in mean:
            self.total = self.total + config.entropy_weight * mean["entropy"]

    def add(self, frames: list[Tensor], domain: int, label: int | None) -> None:
        c, config = COEFFICIENT, self.config
        for f in frames:
            d = self.two_layers("frame", turned(f, config.frame_reversal * c))
            self.frame.append(cross_entropy(d, domain))
        if config.method == "dann":
            v = sum(frames) / len(frames)
        else:
            v = self.attended(frames, domain, config.relation_reversal * c)
        d = self.two_layers("video", turned(v, config.video_reversal * c))
        self.video.append(cross_entropy(d, domain))
        y = self.linear("classifier", v)
        if label is not None:
            self.source.append(cross_entropy(y, label))
        H_y = entropy(y) / (len(y) if config.entropy_reduction == "mean" else 1)
        if config.method == "ta3n":
            self.entropy.append((1 + entropy(d)) * H_y)
        elif label is None and config.entropy_weight > 0:
            self.entropy.append(H_y)

    def attended(self, frames: list[Tensor], domain: int, coefficient: float) -> Tensor:
        v = 0
        for place, (size, tuples) in enumerate(TUPLES_OF_5.items()):
            r = 0
            for chosen in tuples:
                assert len(chosen) == size
                x = torch.cat([frames[int(t)].clamp(min=0) for t in chosen])
                r = r + self.linear(f"relations.{place}.1", x).clamp(min=0)
            d = self.two_layers(f"relation_discriminators.{place}", turned(r, coefficient))
            self.relation.append(cross_entropy(d, domain))
            w = 1 - entropy(d)
            v = v + (1 + w) * r
        return v

    def linear(self, name: str, x: Tensor) -> Tensor:
        return self.p[f"{name}.weight"] @ x + self.p[f"{name}.bias"]

    def two_layers(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.2", self.linear(f"{name}.0", x).clamp(min=0))


def turned(x: Tensor, c: float) -> Tensor:
    return (1 + c) * x.detach() - c * x


def probabilities(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum()


def cross_entropy(z: Tensor, label: int) -> Tensor:
    return -probabilities(z)[label].log()


def entropy(z: Tensor) -> Tensor:
    return -sum(p * p.log() for p in probabilities(z))


@pytest.mark.parametrize("given", VARIANTS, ids=lambda g: "-".join(map(str, g.values())))
def test_a_step_is_the_formulas(given: dict[str, Any]) -> None:
    config = make_config(**given)
    step = make_step(config)
    actual, expected = losses_of(config, *step), Reference(config, step)
    assert set(actual.parts) == set(expected.parts)
    for name, value in expected.parts.items():
        torch.testing.assert_close(actual.parts[name], value)
    torch.testing.assert_close(actual.total, expected.total)
    actual.total.backward()
    expected.total.backward()
    ours = {**dict(step[0].named_parameters()), **dict(step[1].named_parameters())}
    assert set(ours) == set(expected.p)
    for name, p in expected.p.items():
        torch.testing.assert_close(ours[name].grad, p.grad, rtol=1e-7, atol=1e-11, msg=name)


# Zero but for rounding: batch norm subtracts what these add.
WITHOUT_GRADIENT = {"own": set(), "paper": {"encoder.0.bias", "encoder.4.bias"}}


@pytest.mark.parametrize("preset", WITHOUT_GRADIENT)
@pytest.mark.parametrize("method", ["dann", "ta3n"])
def test_every_parameter_has_a_gradient_but_those_on_the_list(method: str, preset: str) -> None:
    config = make_config(method=method, preset=preset, frames=5)
    step = make_step(config)
    losses_of(config, *step).total.backward()
    named = [*step[0].named_parameters(), *step[1].named_parameters()]
    without = {name for name, p in named if p.grad is None or p.grad.abs().max() < 1e-12}
    assert without == WITHOUT_GRADIENT[preset]


@pytest.mark.parametrize(
    ("method", "part", "factor"),
    [
        ("dann", "frame", 0.5),
        ("dann", "video", 0.75),
        ("ta3n", "frame", 0.5),
        ("ta3n", "relation", 0.75),
    ],
)
def test_factors_act_on_what_goes_back_and_never_on_a_discriminator(
    method: str, part: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(method=method)
    step = make_step(config)
    plain = copy.deepcopy(step)
    losses_of(config, *step).parts[part].backward()
    for module in (discriminators, ta3n):
        monkeypatch.setattr(module, "reverse", lambda x, coefficient: x)
    losses_of(config, *plain).parts[part].backward()
    compared = set()
    for ours, without in zip(step[:2], plain[:2]):
        for (name, p), q in zip(ours.named_parameters(), without.parameters()):
            if p.grad is None:
                assert q.grad is None
                continue
            top = name.split(".")[0]
            sign = -factor * COEFFICIENT if top in ("encoder", "relations") else 1.0
            torch.testing.assert_close(p.grad, sign * q.grad)
            compared.add(top)
    seen = {"relation": {"relations", "relation_discriminators"}}.get(part, {part})
    assert compared == {"encoder", *seen}


def test_the_videos_attention_is_between_1_31_and_2() -> None:
    """w = 1 - H in nats: an undecided discriminator leaves 1 - log 2, a certain one 1."""
    config = make_config(method="ta3n")
    model, _, source, _ = make_step(config)
    frames_BTC = model.encode(source.features_BTD)
    sizes = {}
    for name, bias in (("undecided", 0.0), ("certain", 50.0)):
        with torch.no_grad():
            for d in model.relation_discriminators:
                d[2].weight.zero_()
                d[2].bias.copy_(torch.tensor([bias, 0.0]))
        sizes[name] = model.relate(frames_BTC, 0.0).video_BR
    torch.testing.assert_close(sizes["undecided"] / (2 - math.log(2)), sizes["certain"] / 2)


def test_tuples_are_evenly_chosen_from_all_in_lexicographic_order() -> None:
    for size, expected in TUPLES_OF_5.items():
        assert ["".join(map(str, chosen)) for chosen in frame_tuples(5, size)] == expected
    for frames in range(2, 10):
        for size in range(2, frames + 1):
            every = list(itertools.combinations(range(frames), size))
            assert [combination(i, frames, size) for i in range(len(every))] == every
            taken = min(3, len(every))
            chosen = [every[math.ceil(i * len(every) / taken)] for i in range(taken)]
            assert frame_tuples(frames, size) == chosen
    assert frame_tuples(53, 26)[0] == tuple(range(26))  # 10^15 of them: never listed


@pytest.mark.parametrize("method", ["dann", "ta3n"])
def test_prediction_is_the_class_branch_alone(method: str) -> None:
    config = make_config(method=method, dropout=0.5, video_dropout=0.5)
    step = make_step(config)
    model, branch, source, _ = step
    model.eval()
    before = model(source.features_BTD)
    for part in branch.parameters():
        part.data.fill_(float("nan"))
    assert torch.equal(model(source.features_BTD), before)
    reference = Reference(config, (model, *make_step(config)[1:]))
    for video, logits in zip(source.features_BTD, before):
        frames = list(model.encode(video[None])[0])
        v = sum(frames) / 5 if method == "dann" else reference.attended(frames, 0, 0.0)
        torch.testing.assert_close(logits, reference.linear("classifier", v))


@pytest.mark.parametrize("method", ["dann", "ta3n"])
def test_classifier_and_video_discriminator_see_the_same_dropout(method: str) -> None:
    config = make_config(method=method, video_dropout=0.5)
    model, branch, source, target = make_step(config)
    seen = []
    for module in (model.classifier, branch.video):
        module.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach()))
    losses_of(config, model, branch, source, target)
    by_classifier, by_discriminator = sorted(
        seen, key=len
    )  # of dann the first sees the source alone
    assert torch.equal(by_classifier, by_discriminator[: len(by_classifier)])
    assert 0.4 < (by_discriminator == 0).double().mean() < 1


PREDICTING = {
    "dann": {"encoder", "classifier"},
    "ta3n": {"encoder", "classifier", "relations", "relation_discriminators"},
}


@pytest.mark.parametrize("preset", [None, "paper", "shared"])
@pytest.mark.parametrize("method", PREDICTING)
def test_a_run_is_evaluated_again_from_its_checkpoint(
    cli, problem: Path, method: str, preset: str | None
) -> None:
    more = ("--method", method, *(("--preset", preset) if preset else ()))
    result = cli(*toy_arguments(problem, "run", *more))
    assert result.exit_code == 0, result.output
    said = method if preset is None else f"{method} ({preset})"
    assert f"(toy), {said}, seed 0, last epoch" in result.output
    config, _ = RunFolder(problem / "run").read()
    assert (config.preset, config.frames) == (("own", 5) if preset is None else (preset, 23))
    checkpoint = torch.load(problem / "run" / "checkpoint.pt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["model"]} == PREDICTING[method]
    line = json.loads((problem / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["reversal"] == 1.0
    assert {"relation", "entropy"} <= set(line) or method == "dann"
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output


@pytest.mark.parametrize("method", PREDICTING)
def test_stopped_and_resumed_is_as_undisturbed(cli, problem: Path, method: str) -> None:
    more = ("--method", method, "--epochs", 5, "--checkpoint-every", 2)
    assert cli(*toy_arguments(problem, "calm", *more)).exit_code == 0
    with stopped_before(4):
        assert cli(*toy_arguments(problem, "stopped", *more)).exit_code != 0
    assert (problem / "stopped" / "progress.pt").is_file()
    assert cli(*toy_arguments(problem, "stopped", *more, "--resume")).exit_code == 0
    assert outcome(problem / "stopped") == outcome(problem / "calm")


@pytest.mark.slow
def test_both_learn_what_they_are_for(cli, tmp_path: Path) -> None:
    """Not a benchmark: on a shifted target they gain over source-only with the same settings.

    By the median of three seeds: now and then a seed of TA3N pairs the classes wrongly.
    """
    from conftest import make_problem

    make_problem(tmp_path, shift=3.0, per_class=24, classes=4)
    more = ("--preset", "own", "--epochs", 40, "--batch-size", 16, "--width", 64)
    more = (*more, "--learning-rate", 0.03, "--seeds", "0,1,2")
    overall = {}
    for method in ("source-only", "dann", "ta3n"):
        result = cli(*toy_arguments(tmp_path, method, *more, "--method", method))
        assert result.exit_code == 0, result.output
        runs = [RunFolder(tmp_path / method / f"seed{seed}") for seed in range(3)]
        overall[method] = statistics.median(run.result().overall for run in runs)
    assert min(overall["dann"], overall["ta3n"]) >= overall["source-only"] + 10, overall
