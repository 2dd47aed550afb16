"""AdaBN against loops: each domain's statistics, what they are taken of, and that nothing else moves."""

from __future__ import annotations

import copy
import json
import statistics
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
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.domain_norm import DomainBatchNorm
from adapt.loop import TrainingState, step, train
from adapt.methods import Progress
from adapt.prediction import as_source, as_target, predict, take_statistics
from adapt.runs import RunFolder
from store.errors import ConfigError

CPU = torch.device("cpu")
LABELS = [0, 2, 1, 1, 0]


def make_config(**given: Any) -> AdaptConfig:
    small = {"source": "a", "target": "b", "width": 6, "compute": "float32", "dropout": 0.0}
    small |= {"video_dropout": 0.0, "epochs": 3, "batch_size": 6}
    return config_for(small, **{"method": "adabn", **given})


def make_data(shift: float = 2.0) -> TrainingData:
    random = np.random.default_rng(0)
    banks = [
        FeatureBank([(random.normal(size=(7, 10)) + s).astype(np.float16) for _ in range(12)], CPU)
        for s in (0.0, shift)
    ]
    return TrainingData(
        source=banks[0],
        labels_V=torch.arange(12) % 3,
        target=banks[1],
        classes="abc",
        device=CPU,
    )


def batches(frames: int, dtype: torch.dtype = torch.float64) -> tuple[SourceBatch, TargetBatch]:
    random = torch.Generator().manual_seed(1)
    features = torch.randn(9, frames, 10, dtype=dtype, generator=random)
    return SourceBatch(features[:5], torch.tensor(LABELS)), TargetBatch(2 * features[5:] + 1)


def test_a_step_of_ta3ns_form_in_plain_loops() -> None:
    """Linear, the source's batch norm, ReLU, mean over frames, Linear; the target moves its averages."""
    config = make_config()
    torch.manual_seed(0)
    networks = methods.find("adabn").build(config, 10, 3).double()
    with torch.no_grad():
        for p in networks.parameters():
            if p.requires_grad:
                p += 0.3 * torch.randn_like(p)
    source, target = batches(config.frames)
    twin = copy.deepcopy(networks.model)
    p = dict(twin.named_parameters())
    w, b = p["encoder.0.weight"], p["encoder.0.bias"]
    rows = {
        "source": [w @ frame + b for video in source.features_BTD for frame in video],
        "target": [w @ frame + b for video in target.features_BTD for frame in video],
    }
    normal, means, variances = {}, {}, {}
    for domain, seen in rows.items():
        means[domain] = sum(seen) / len(seen)
        variances[domain] = sum((x - means[domain]) ** 2 for x in seen) / len(seen)
        normal[domain] = [(x - means[domain]) / (variances[domain] + 1e-5).sqrt() for x in seen]
    scale, shift = p["encoder.1.source.weight"], p["encoder.1.source.bias"]
    frames = [(scale * x + shift).clamp(min=0) for x in normal["source"]]
    T, loss = config.frames, torch.zeros((), dtype=torch.float64)
    for number, label in enumerate(LABELS):
        v = sum(frames[number * T : (number + 1) * T]) / T
        y = p["classifier.weight"] @ v + p["classifier.bias"]
        loss = loss - (y[label] - y.exp().sum().log()) / len(LABELS)
    found = losses_of(config, networks.model, None, source, target)
    torch.testing.assert_close(found.total, loss, rtol=1e-9, atol=1e-12)
    found.total.backward()
    loss.backward()
    for name, q in networks.model.named_parameters():
        if name.startswith("encoder.1.target"):
            assert q.grad is None and not q.requires_grad
        else:
            torch.testing.assert_close(q.grad, p[name].grad, rtol=1e-9, atol=1e-12, msg=name)
    for domain, norm in networks.model.encoder[1].named_children():
        n = len(rows[domain])
        average = 0.9 + 0.1 * variances[domain] * n / (n - 1)
        torch.testing.assert_close(norm.running_mean, 0.1 * means[domain])
        torch.testing.assert_close(norm.running_var, average)


def norms_of(state: TrainingState) -> list[DomainBatchNorm]:
    return [m for m in state.networks.modules() if isinstance(m, DomainBatchNorm)]


def test_the_targets_scale_and_shift_stay_where_ta3n_leaves_them() -> None:
    config, data = make_config(), make_data()
    state = TrainingState(config, data)
    for number in range(4):
        step(config, state, *batches(config.frames, torch.float32), Progress(0, 3, number, 4))
    [norm] = norms_of(state)
    assert torch.equal(norm.target.weight, torch.ones(6)) and not norm.target.bias.any()
    assert not torch.equal(norm.source.weight, torch.ones(6))  # trained, and decayed


@pytest.mark.parametrize("given", [{"target_scale": "source"}, {"when": "after"}], ids=str)
def test_the_source_trains_scale_and_shift_of_both(given: dict[str, Any]) -> None:
    config, data = make_config(**given), make_data()
    state = TrainingState(config, data)
    step(config, state, *batches(config.frames, torch.float32), Progress())
    [norm] = norms_of(state)
    assert torch.equal(norm.target.weight, norm.source.weight)
    assert torch.equal(norm.target.bias, norm.source.bias) and norm.source.bias.any()
    moved = not torch.equal(norm.target.running_mean, torch.zeros(6))
    assert moved == (given != {"when": "after"})  # before the end the target is not looked at


def test_prediction_normalises_by_the_target() -> None:
    config, data = make_config(), make_data()
    state = TrainingState(config, data)
    train(config, data, state, lambda metrics: None)
    before = predict(state.model, data.target, config)
    [norm] = norms_of(state)
    for broken in (norm.source.running_mean, norm.source.running_var, norm.source.weight.data):
        broken.fill_(float("nan"))
    assert torch.equal(predict(state.model, data.target, config), before)


def test_statistics_after_the_training_are_those_of_all_target_videos() -> None:
    config, data = make_config(when="after"), make_data()
    state = TrainingState(config, data)
    train(config, data, state, lambda metrics: None)
    model = as_target(config, state.networks, data)
    norm = model.encoder[1]
    w, b = (p.detach().double().numpy() for p in model.encoder[0].parameters())
    centres = [(2 * i + 1) * 7 // 10 for i in range(5)]
    rows = np.concatenate([x.reshape(-1, 7, 10)[0][centres] for x in data.target.block.split(7)])
    rows = rows.astype(np.float64) @ w.T + b
    np.testing.assert_allclose(norm.target.running_mean, rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.target.running_var, rows.var(0, ddof=1), rtol=1e-4)


def test_after_is_source_only_with_the_statistics_of_the_target() -> None:
    """The `shared` presets train the same network, and `--statistics target` does the same afterwards."""
    data = make_data()
    logits = []
    for given in (
        {"when": "after", "preset": "shared", "dropout": 0.5},
        {"method": "source-only", "preset": "shared", "dropout": 0.5},
    ):
        config = make_config(**given)
        state = TrainingState(config, data)
        train(config, data, state, lambda metrics: None)
        logits.append(predict(as_target(config, state.networks, data), data.target, config))
    assert torch.equal(*logits)


@pytest.mark.parametrize("preset", ["own", "shared"])
def test_a_gain_and_a_shift_of_what_the_norm_sees_vanish(preset: str) -> None:
    """A target that is shifted as a whole is predicted as before."""
    found = []
    for shift in (2.0, 6.0):
        config = make_config(when="after", preset=preset, epochs=30)
        data = make_data(shift)
        state = TrainingState(config, data)
        train(config, data, state, lambda metrics: None)
        found.append(predict(as_target(config, state.networks, data), data.target, config))
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02)  # float16 rounds 6 more than 2
    assert found[0].std() > 0.1


@pytest.mark.parametrize("given", [{}, {"when": "after"}, {"preset": "shared"}], ids=str)
def test_scores_on_the_source_normalise_by_the_source(given: dict[str, Any]) -> None:
    config, data = make_config(initialisation="default", **given), make_data(5.0)
    state = TrainingState(config, data)
    train(config, data, state, lambda metrics: None)
    found = predict(as_source(config, state.networks, data), data.source, config)
    model, T = state.model.eval(), config.frames
    centres = torch.tensor([[(2 * i + 1) * 7 // (2 * T) for i in range(T)]] * 12)
    videos_BTD = data.source.gather(torch.arange(12), centres)
    expected = model.classify(model.encode(videos_BTD, source=True))
    torch.testing.assert_close(found, expected)
    on_target = predict(as_target(config, state.networks, data), data.source, config)
    assert (found - on_target).abs().max() > 0.05


def test_every_batch_norm_of_the_shared_encoder_has_two_domains() -> None:
    state = TrainingState(make_config(preset="shared"), make_data())
    layers = [type(layer).__name__ for layer in state.model.encoder]
    assert layers == [
        *("DomainBatchNorm", "Linear", "DomainBatchNorm", "ReLU", "Dropout", "Linear"),
        *("DomainBatchNorm", "ReLU"),
    ]
    own = TrainingState(make_config(), make_data()).model.encoder
    assert [type(layer).__name__ for layer in own] == [
        "Linear",
        "DomainBatchNorm",
        "ReLU",
        "Dropout",
    ]


def test_the_start_and_the_settings_of_ta3ns_authors() -> None:
    config = config_for({}, method="adabn", source="a", target="b")
    assert (config.preset, config.when, config.target_scale) == ("own", "during", "start")
    assert (config.width, config.frames, config.learning_rate) == (512, 5, 0.03)
    torch.manual_seed(0)
    model = methods.find("adabn").build(config, 2048, 12).model
    for layer in (model.encoder[0], model.classifier):
        assert statistics.pstdev(layer.weight.flatten().tolist()) == pytest.approx(1e-3, rel=0.03)
        assert not layer.bias.any()
    for norm in model.encoder[1].children():
        assert torch.equal(norm.weight, torch.ones(512)) and not norm.bias.any()


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="--target-scale is read only with --when during"):
        make_config(when="after", target_scale="source")
    with pytest.raises(ConfigError, match="--method adabn does not read --statistics"):
        make_config(statistics="target")
    with pytest.raises(ConfigError, match="gives batch norm a single value"):
        make_config(batch_size=1, frames=1)


@pytest.mark.parametrize("more", [(), ("--when", "after"), ("--preset", "shared")], ids=str)
def test_a_run_is_resumed_and_evaluated(cli, problem: Path, more: tuple[str, ...]) -> None:
    more = ("--method", "adabn", *more, "--checkpoint-every", "1")
    assert cli(*toy_arguments(problem, "calm", *more)).exit_code == 0
    with stopped_before(3):
        assert cli(*toy_arguments(problem, "run", *more)).exit_code == 130
    assert cli(*toy_arguments(problem, "run", *more, "--resume")).exit_code == 0
    assert outcome(problem / "run") == outcome(problem / "calm")
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output
    line = json.loads((problem / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "source" in line
    assert RunFolder(problem / "run").is_finished()


def test_other_norms_keep_their_statistics() -> None:
    """`take_statistics` leaves a norm alone that prediction does not use."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = DomainBatchNorm(10)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x.flatten(0, 1))
            return y

    model, data = Two(), make_data()
    take_statistics(model, data.target, 4)
    assert torch.equal(model.norm.source.running_mean, torch.zeros(10))
    assert model.norm.target.running_mean.abs().min() > 0.5
