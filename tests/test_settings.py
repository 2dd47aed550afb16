"""Presets by method, and each option of TA3N's settings against what it says."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for
from torch import Tensor

from adapt import loop, methods
from adapt.bank import FeatureBank
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.initialise import initialise
from adapt.loop import TrainingState, step, train
from adapt.losses import source_loss
from adapt.methods import Progress
from adapt.model import make_encoder
from adapt.schedule import learning_rate
from store.errors import ConfigError

CPU = torch.device("cpu")
FRAMES = 20


def make_config(**given: Any) -> AdaptConfig:
    base = {"source": "a", "target": "b", "width": 8, "compute": "float32"}
    return config_for(base, **given)


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


def test_a_method_has_presets_of_its_own() -> None:
    presets = {name: make_config(method=name).preset for name in methods.names()}
    assert presets == {
        "ma2l-td": "robust",
        "source-only": "paper",
        "infomax": "shared",
        "mcc": "shared",
        "target-only": "paper",
        "dan": "own",
        "jan": "own",
        "mcd": "own",
        "dann": "own",
        "ta3n": "own",
        "abg": "own",
        "tcon": "own",
        "transferattn": "own",
        "adabn": "own",
        "cdan": "own",
        "cdan-e": "own",
        "coral": "own",
        "gfk": "own",
        "sa": "own",
    }
    assert make_config(method="source-only", preset="own").frames == 5
    for preset, name in (("shared", "robust"), ("paper", "paper")):
        shared, ours = make_config(method="dann", preset=preset), make_config(preset=name)
        for f in dataclasses.fields(AdaptConfig):
            # The game is the method itself, not a setting of MA2L-TD.
            if f.name not in ("method", "preset", "adversarial_weight", "adversarial_ramp"):
                assert getattr(shared, f.name) == getattr(ours, f.name), f.name
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
            {"frames": 5},
            "kernel 3 with 4 levels needs 23 frames, got frames=5. Use --frames 23 or --levels 2 "
            "--frames 3.",
        ),
        ({"optimiser": "sgd", "momentum": 1.0}, "--momentum must be below 1, got 1.0."),
        ({"gradient_clip": -1.0}, "--gradient-clip must be 0 or more, got -1.0."),
        (
            {"preset": "released", "train_sampling": "centred"},
            "--train-sampling centred takes the same frames in each of 5 draws. Use --draws 1.",
        ),
        (
            {"method": "ta3n", "frames": 1},
            "--method ta3n relates up to all frames to each other: --frames must be from 2 to 100, got 1.",
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
        text = f"--method must be one of {', '.join(sorted(methods.names()))}, got 'best'."
    assert str(caught.value) == text


def test_the_encoder_of_one_layer() -> None:
    torch.manual_seed(0)
    encoder = make_encoder(make_config(method="dann", width=512), 2048)
    initialise(encoder, "small-normal")
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

    def watch(config: AdaptConfig, state: TrainingState, source: Any, target: Any, p: Any) -> Any:
        parts = step(config, state, source, target, p)
        steps.append((state.optimiser.param_groups[0]["lr"], source, target))
        return parts

    monkeypatch.setattr(loop, "step", watch)
    train(config, data, TrainingState(config, data), lambda metrics: None)
    return steps


@pytest.mark.parametrize("rate_decay", ["dann", "ta3n", "inverse", "cosine", "none"])
def test_learning_rates(rate_decay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gamma = {"rate_gamma": 0.3} if rate_decay == "inverse" else {}
    config = make_config(
        method="dann", epochs=3, batch_size=5, rate_decay=rate_decay, learning_rate=0.02, **gamma
    )
    rates = [rate for rate, *_ in watched(config, make_data(), monkeypatch)]
    assert len(rates) == 12
    rate = 0.02  # TA3N's loop: epochs from 1, and the rate is set when a step is done
    for number, found in enumerate(rates):
        if rate_decay == "inverse":
            rate = 0.02 * (1 + 0.3 * number) ** -0.75
        elif rate_decay == "cosine":
            rate = (0.015, 0.005, 0.0)[number // 4]  # cos of 60, 120 and 180 degrees
        elif rate_decay != "ta3n":
            p = {"dann": number // 4 / 3, "none": 0.0}[rate_decay]
            rate = 0.02 / (1 + 10 * p) ** 0.75
        assert found == pytest.approx(rate, abs=1e-12)
        epoch, i = number // 4 + 1, number % 4
        rate = 0.02 / (1 + 10 * (i + epoch * 4) / (3 * 4)) ** 0.75


def test_the_rates_that_ta3n_s_authors_have() -> None:
    """methods.md, section 1: 0.03 at step 1, 0.02418 at step 2, about 0.0049 at the last."""
    config = make_config(method="ta3n")

    def rate(epoch: int, step: int) -> float:
        return learning_rate(config, Progress(epoch, 30, step, 12))

    assert rate(0, 0) == 0.03
    assert rate(0, 1) == pytest.approx(0.02418, abs=5e-6)
    assert rate(29, 11) == pytest.approx(0.0049, abs=5e-5)


@pytest.mark.parametrize(("target", "videos"), [(8, 2), (60, 15), (11, 2), (1, 1)])
def test_both_domains_end_a_pass_together(
    target: int, videos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(method="dann", epochs=1, batch_size=5)
    steps = watched(config, make_data(target=target), monkeypatch)
    sizes = {(len(s.features_BTD), len(t.features_BTD)) for _, s, t in steps}
    assert sizes == {(5, videos)} and len(steps) == math.ceil(target / videos)
    if target in (8, 60):  # one pass of each: every video once
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
    config: AdaptConfig, state: TrainingState, batches: list[tuple[SourceBatch, TargetBatch]]
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
        **{
            "method": "source-only",
            "preset": "own",
            "dropout": 0.0,
            "learning_rate": 0.1,
            "rate_decay": "none",
        },
        **{
            "video_dropout": 0.0,
            "initialisation": "default",
            "momentum": momentum,
            "gradient_clip": clip,
            "weight_decay": decay,
        },
    )
    state = TrainingState(config, make_data())
    random = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(4):
        x = torch.randn(6, 5, 10, generator=random)
        batches.append((SourceBatch(x, torch.arange(6) % 3), TargetBatch(x)))
    expected, norms = plain_descent(config, state, batches)
    assert (min(norms) > clip > 0) == (clip == 0.1)  # there it does clip
    for source, target in batches:
        step(config, state, source, target, Progress())
    for name, p in state.model.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-4, atol=1e-6)


def test_help_shows_what_the_presets_set(cli) -> None:
    def shown(method: str) -> str:
        return " ".join(cli("adapt", "--method", method, "-h").output.split())

    ours = shown("ma2l-td")
    assert "[default: 0.3; paper: 0.1; released: 0.1]" in ours  # --adversarial-weight
    assert "[default: 0.0003; released: 3e-05]" in ours
    assert "[default: robust]" in ours and "--kernel INTEGER" in ours
    theirs = shown("dann")
    assert "[default: sgd; shared: adam; paper: adam]" in theirs and "--kernel" not in theirs


STARTS = {
    # Standard deviation of every linear layer's weights, None for torch's own values.
    "dann": {"model.encoder.0": 0.001, "model.classifier": 0.001, "branch": 0.001},
    "ta3n": {
        **{"model.encoder.0": 0.001, "model.classifier": 0.001, "branch": 0.001},
        **{"model.relations": None, "model.relation_discriminators": None},
    },
}


@pytest.mark.parametrize("method", STARTS)
def test_the_starts_of_ta3n_s_authors(method: str) -> None:
    torch.manual_seed(0)
    networks = methods.find(method).build(make_config(method=method, width=512), 2048, 12)
    seen = set()
    for name, layer in networks.named_modules():
        if not isinstance(layer, torch.nn.Linear):
            continue
        [(part, deviation)] = [i for i in STARTS[method].items() if name.startswith(i[0])]
        seen.add(part)
        if deviation is None:  # uniform within 1 / sqrt(inputs)
            deviation = 1 / math.sqrt(3 * layer.in_features)
            assert layer.bias.abs().max() > 0
            assert layer.weight.abs().max() <= 1 / math.sqrt(layer.in_features)
        else:
            assert (layer.bias == 0).all()
        few = layer.weight.numel() < 5000
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.15 if few else 0.03)
    assert seen == set(STARTS[method])


def test_the_starts_of_the_released_code() -> None:
    """Linear layers Xavier normal with zero biases, batch norm scales N(1, 0.02), convolutions torch's."""
    torch.manual_seed(0)
    config = make_config(preset="released", width=256)
    networks = methods.find("ma2l-td").build(config, 2048, 12)
    weights = [
        (m.weight, m.bias, m.in_features, m.out_features)
        for m in networks.modules()
        if isinstance(m, torch.nn.Linear)
    ]
    for discriminators in networks.branch.discriminators.values():
        for stacked, bias in zip(discriminators.weights, discriminators.biases):
            weights += [(w, b, *w.shape) for w, b in zip(stacked, bias)]
    assert len(weights) == 3 + 3 + 3 * (21 + 15 + 1)
    for weight, bias, inputs, outputs in weights:
        assert (bias == 0).all()
        expected = math.sqrt(2 / (inputs + outputs))
        few = weight.numel() < 5000
        assert weight.std().item() == pytest.approx(expected, rel=0.2 if few else 0.03)
    norms = [m for m in networks.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    scales = torch.cat([norm.weight for norm in norms])
    assert scales.std().item() == pytest.approx(0.02, rel=0.15)
    assert scales.mean().item() == pytest.approx(1, abs=0.005)
    for m in networks.modules():
        if isinstance(m, torch.nn.Conv1d):
            bound = 1 / math.sqrt(m.in_channels * m.kernel_size[0])
            assert 0.99 * bound < m.weight.abs().max() <= bound and m.bias.abs().max() > 0


def test_a_start_changes_nothing_else() -> None:
    """`paper` starts as torch does; the same layers of `released` differ only where its authors differ."""
    for preset in ("paper", "robust", "light"):
        assert make_config(preset=preset).initialisation == "default"
