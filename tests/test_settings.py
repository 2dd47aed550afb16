"""Presets by method, and each option of TA3N's settings against what it says."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adapt import train as training
from adapt.bank import FeatureBank
from adapt.config import METHODS, AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.losses import source_loss
from adapt.model import make_encoder
from adapt.presets import METHOD_SETTINGS, PAIR_SETTINGS, PRESETS
from adapt.train import State, TrainingData, step, train
from store.errors import ConfigError

CPU = torch.device("cpu")
FRAMES = 20


def make_config(**given: Any) -> AdaptConfig:
    preset = given.pop("preset", None)
    base = {"source": "a", "target": "b", "width": 8, "compute": "float32"}
    return AdaptConfig.make(benchmark="toy", preset=preset, given={**base, **given})


def make_data(source: int = 20, target: int = 8, frames: int = FRAMES) -> TrainingData:
    """Features whose first entry is the number of the video and whose second that of the frame."""
    random = np.random.default_rng(0)

    def bank(videos: int) -> FeatureBank:
        features = []
        for video in range(videos):
            x = random.normal(size=(frames, 10))
            x[:, 0], x[:, 1] = video, np.arange(frames)
            features.append(x.astype(np.float16))
        return FeatureBank(features, CPU)

    return TrainingData(
        source=bank(source),
        labels_V=torch.arange(source) % 3,
        target=bank(target),
        classes="abc",
        device=CPU,
    )


def test_a_method_has_its_own_preset_and_takes_another() -> None:
    presets = {method: make_config(method=method).preset for method in METHODS}
    assert presets == {
        "ma2l-td": "tuned",
        "source-only": "paper",
        "infomax": "tuned",
        "dann": "ta3n",
        "ta3n": "ta3n",
    }
    assert make_config(method="source-only", preset="ta3n").frames == 5
    shared = make_config(method="dann", preset="paper")
    ours = make_config(preset="paper")
    for name in ("frames", "encoder", "optimiser", "learning_rate", "batch_size", "train_sampling"):
        assert getattr(shared, name) == getattr(ours, name)
    # Its reversals are the method itself, not settings of MA2L-TD.
    assert (shared.adversarial_weight, shared.adversarial_ramp) == (1.0, "none")
    assert (ours.adversarial_weight, ours.adversarial_ramp) == (0.1, "dann")


def test_ta3n_settings_stand_on_every_benchmark() -> None:
    for benchmark in ("ucf-hmdb-full", "kinetics-gameplay"):
        given = {"source": "a", "target": "b", "method": "ta3n"}
        config = AdaptConfig.make(benchmark=benchmark, given=given)
        assert (config.batch_size, config.frames, config.epochs) == (128, 5, 30)
        assert AdaptConfig.make(benchmark=benchmark, given={**given, "frames": 7}).frames == 7


def test_ta3n_weighs_entropy_by_direction() -> None:
    seen = {}
    for source, target in (("ucf", "hmdb"), ("hmdb", "ucf")):
        config = make_config(method="ta3n", source=source, target=target)
        seen[source] = (config.entropy_weight, config.relation_reversal)
        assert make_config(method="dann", source=source, target=target).entropy_weight == 0
    assert seen == {"ucf": (0.003, 0.75), "hmdb": (0.3, 1.0)}
    assert make_config(method="ta3n", source="hmdb", target="ucf", entropy_weight=0.1) == (
        make_config(
            method="ta3n", source="hmdb", target="ucf", entropy_weight=0.1, relation_reversal=1.0
        )
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"preset": "ta3n"},
            "kernel 3 with 4 levels needs 23 frames, got frames=5. Use --frames 23 or --levels 2 "
            "--frames 3.",
        ),
        ({"momentum": 1.0}, "--momentum must be below 1, got 1.0."),
        ({"gradient_clip": -1.0}, "--gradient-clip must be 0 or more, got -1.0."),
        (
            {"preset": "released", "train_sampling": "centred"},
            "--train-sampling centred takes the same frames in each of 5 draws. Use --draws 1.",
        ),
        (
            {"method": "ta3n", "frames": 1},
            "--method ta3n relates frames to each other: --frames must be 2 or more, got 1.",
        ),
        ({"optimiser": "rmsprop"}, "--optimiser must be one of adam, sgd, got 'rmsprop'."),
        ({"method": "best"}, None),
    ],
    ids=str,
)
def test_refusals(given: dict[str, Any], text: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(**given)
    if text is None:
        text = "--method must be one of ma2l-td, source-only, infomax, dann, ta3n, got 'best'."
    assert str(caught.value) == text


def test_the_encoder_of_one_layer() -> None:
    torch.manual_seed(0)
    encoder = make_encoder("one-layer", 2048, 512, 0.5)
    weight, bias = encoder[0].weight, encoder[0].bias
    assert weight.shape == (512, 2048) and (bias == 0).all()
    assert weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-5)
    assert weight.abs().max() > 0.004  # a normal's tail, where a uniform's ends at 0.0017
    x = torch.randn(3, 2048)
    rows = [(weight @ row + bias).clamp(min=0) for row in x]
    torch.testing.assert_close(encoder.eval()(x), torch.stack(rows), rtol=1e-4, atol=1e-6)
    encoder.train()
    kept = torch.stack([encoder(x) for _ in range(400)])
    assert ((kept == 0) | torch.isclose(kept, 2 * encoder.eval()(x), rtol=1e-4)).all()


def watched(config: AdaptConfig, data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Train, and return each step's rate and batches."""
    steps: list[Any] = []

    def watch(config: AdaptConfig, state: State, source: Any, target: Any, *rest: Any) -> Any:
        steps.append((state.optimiser.param_groups[0]["lr"], source, target))
        return step(config, state, source, target, *rest)

    monkeypatch.setattr(training, "step", watch)
    train(config, data, State(config, data), lambda metrics: None)
    return steps


@pytest.mark.parametrize("rate_decay", ["dann", "dann-step", "none"])
def test_learning_rates(rate_decay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(
        method="dann", epochs=3, batch_size=5, rate_decay=rate_decay, learning_rate=0.02
    )
    rates = [rate for rate, *_ in watched(config, make_data(), monkeypatch)]
    assert len(rates) == 12
    for number, rate in enumerate(rates):
        p = {"dann": number // 4 / 3, "dann-step": number / 12, "none": 0.0}[rate_decay]
        assert rate == pytest.approx(0.02 / (1 + 10 * p) ** 0.75)


@pytest.mark.parametrize(("target", "videos"), [(8, 2), (60, 15), (1, 1)])
def test_both_domains_end_a_pass_together(
    target: int, videos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(method="dann", epochs=1, batch_size=5)
    steps = watched(config, make_data(target=target), monkeypatch)
    sizes = {(len(s.features_BTD), len(t.features_BTD)) for _, s, t in steps}
    assert sizes == {(5, videos)} and len(steps) == math.ceil(target / videos)
    if target > 1:  # one pass of each: every video once
        for place, count in ((1, 20), (2, target)):
            taken = torch.cat([each[place].features_BTD[:, 0, 0] for each in steps])
            assert sorted(taken.tolist()) == list(range(count))


def test_equal_batches_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(method="dann", epochs=1, batch_size=5, target_batch="equal")
    steps = watched(config, make_data(), monkeypatch)
    assert {(len(s.features_BTD), len(t.features_BTD)) for _, s, t in steps} == {(5, 5)}
    assert len(steps) == 2  # ceil(8 / 5)


def test_frames_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    centres = [2, 6, 10, 14, 18]  # of 20 frames in 5 segments of 4
    for sampling in ("centred", "jittered"):
        config = make_config(method="dann", epochs=2, batch_size=5, train_sampling=sampling)
        batches = [b for _, *pair in watched(config, make_data(), monkeypatch) for b in pair]
        frames = torch.cat([b.features_BTD[:, :, 1] for b in batches])
        assert (frames // 4 == torch.arange(5)).all()
        assert (frames == torch.tensor(centres)).all().item() == (sampling == "centred")


def plain_descent(
    config: AdaptConfig, state: State, batches: list[tuple[SourceBatch, TargetBatch]]
) -> tuple[dict[str, Tensor], list[float]]:
    """SGD written out: clip, L2 penalty, momentum, Nesterov's look ahead; and the gradients' norms."""
    model = copy.deepcopy(state.model)
    velocity: dict[str, Tensor] = {}
    norms = []
    for source, _ in batches:
        model.zero_grad()
        source_loss(model(source.features_BTD), source.labels_B).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        norms.append(math.sqrt(sum(float((g * g).sum()) for g in gradients.values())))
        shrink = 1.0
        if config.gradient_clip and norms[-1] > config.gradient_clip:
            shrink = config.gradient_clip / norms[-1]
        with torch.no_grad():
            for name, p in model.named_parameters():
                g = shrink * gradients[name] + config.weight_decay * p
                velocity[name] = config.momentum * velocity[name] + g if name in velocity else g
                p -= config.learning_rate * (g + config.momentum * velocity[name])
    return dict(model.named_parameters()), norms


@pytest.mark.parametrize(
    ("momentum", "clip", "decay"), [(0.9, 0.0, 1e-4), (0.5, 0.1, 0.1), (0.0, 20.0, 0.0)]
)
def test_sgd_and_clipping_written_out(momentum: float, clip: float, decay: float) -> None:
    config = make_config(
        **{"method": "source-only", "preset": "ta3n", "dropout": 0.0, "learning_rate": 0.1},
        **{"momentum": momentum, "gradient_clip": clip, "weight_decay": decay},
    )
    state = State(config, make_data())
    random = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(4):
        x = torch.randn(6, 5, 10, generator=random)
        batches.append((SourceBatch(x, torch.arange(6) % 3), TargetBatch(x)))
    expected, norms = plain_descent(config, state, batches)
    assert (min(norms) > clip > 0) == (clip == 0.1)  # there it does clip
    for source, target in batches:
        step(config, state, source, target, 0.0)
    for name, p in state.model.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-4, atol=1e-6)


def test_help_shows_what_the_tables_set() -> None:
    from cli import main

    shown = {p.name: p.show_default for p in main.commands["adapt"].params}
    expected = {
        "preset": "ma2l-td: tuned; source-only: paper; infomax: tuned; dann: ta3n; ta3n: ta3n",
        "batch_size": "32, ta3n: 128, kinetics-gameplay: 64",
        "levels": "4, ucf-hmdb-full: 5",
        "optimiser": "adam, ta3n: sgd",
        "adversarial_ramp": "dann, --method dann: none, --method ta3n: none",
        "learning_rate": "paper: 0.0003, released: 3e-05, tuned: 0.0003, ta3n: 0.03",
    }
    assert {name: shown[name] for name in expected} == expected


def test_texts_of_defaults_by_method_are_those_of_the_tables() -> None:
    """Typed, because they depend on the direction too."""
    texts = {f.name: f.metadata.get("default_text", "") for f in dataclasses.fields(AdaptConfig)}
    for (method, source, target), values in PAIR_SETTINGS.items():
        for name, value in values.items():
            assert f"{source} -> {target}: {value}" in texts[name]
            general = METHOD_SETTINGS[method].get(name, getattr(make_config(), name))
            assert f"{general}" in texts[name]
    for preset, values in PRESETS.items():
        for name in set(values) & {name for name, text in texts.items() if text} - {"frames"}:
            assert f"preset {preset}: {values[name]}" in texts[name]
