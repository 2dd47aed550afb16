"""ABG's graphs, losses and predictions against the formulas written out over all pairs."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for, slow, stopped_before, toy_arguments
from test_robust import outcome
from torch import Tensor, nn

from adapt import graph, methods, pairs
from adapt.bank import FeatureBank
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch, TrainingData
from adapt.graph import Graph, edge_weights
from adapt.methods import Progress

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 2, 1, 1])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "EDGE_WIDTHS", (12, 7))
    monkeypatch.setattr(graph, "NODE_WIDTH", 9)
    monkeypatch.setattr(graph, "DROPOUT", 0.0)
    monkeypatch.setattr(pairs, "CPU_BLOCK", 11)  # several blocks, the last one shorter


def nodes(seed: int = 0, width: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.randn(9, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x[:5].requires_grad_(), (x[5:] + 0.5).requires_grad_()


def made(width: int = 6) -> Graph:
    torch.manual_seed(0)
    whole = Graph(width).double()
    for part in whole.modules():
        if isinstance(part, nn.BatchNorm1d):  # away from the start
            nn.init.normal_(part.weight, 1.0, 0.2)
            nn.init.normal_(part.bias, 0.0, 0.2)
    return whole


def all_pairs(twin: Graph, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The graph with torch's own layers on a tensor of all pairs."""
    edges = twin.edges
    pairs = torch.stack([(s - t).abs() for s in source for t in target])
    layers = nn.Sequential(edges.first, edges.first_norm, nn.LeakyReLU(0.01))
    layers.extend([edges.second, edges.second_norm, nn.LeakyReLU(0.01), edges.last, nn.Sigmoid()])
    m = layers(pairs).view(len(source), len(target))
    S, T = range(len(source)), range(len(target))
    r = [[m[i, j] / sum(m[k, j] for k in S) for j in T] for i in S]
    e = [[r[i][j] / sum(r[i][k] for k in T) for j in T] for i in S]
    left = torch.stack([torch.cat([source[i], sum(e[i][j] * target[j] for j in T)]) for i in S])
    right = torch.stack([torch.cat([target[j], sum(e[i][j] * source[i] for i in S)]) for j in T])
    z_S = twin.nodes.layers(left)
    return m, z_S, twin.nodes.layers(right)


def test_the_weights_of_the_edges() -> None:
    m_TS = torch.tensor([[0.5, 0.9], [0.2, 0.1], [0.7, 0.3]]).double()
    expected = torch.tensor([[0.2072, 0.3867, 0.4061], [0.5037, 0.2612, 0.2351]]).double()
    found = edge_weights(m_TS.T)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2).double())


@pytest.mark.parametrize("training", [True, False])
def test_a_graph_over_all_pairs(training: bool) -> None:
    """Values, gradients of nodes and parameters, and the running statistics."""
    ours, twin = made().train(training), made().train(training)
    results = []
    for whole in (ours, twin):
        source, target = nodes()
        if whole is ours:
            z = whole(source, target)
        else:
            _, *z = all_pairs(whole, source, target)
        loss = (z[0] * torch.arange(512)).sum() + (z[1].square() * torch.arange(512)).sum()
        loss.backward()
        gradients = [p.grad for p in (source, target, *whole.parameters())]
        results.append([*z, *gradients, *whole.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_a_feature_is_dropped_for_the_whole_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "DROPOUT", 0.5)
    whole = made()
    whole(*nodes())[0].sum().backward()
    arrived = whole.edges.second.weight.grad
    assert arrived is not None
    arrived = arrived[(arrived != 0).any(dim=1)]  # features of the next layer are dropped too
    dropped = (arrived == 0).all(dim=0)  # of every pair of nodes
    assert len(arrived) and 0 < dropped.sum() < 12 and (arrived[:, ~dropped] != 0).all()


def test_a_video_joins_a_batch_that_is_kept() -> None:
    """As if it were the last target video of that batch, and whatever the other ones are."""
    whole = made().eval()
    source, target = (x.detach() for x in nodes())
    videos = torch.randn(3, 2, 6, dtype=torch.float64)
    found = whole.join(source, whole.row_sums(source, target), videos)
    for video, z in zip(videos, found):
        expected = whole(source, torch.cat([target, video]))[1][-2:]
        torch.testing.assert_close(z, expected)
    turned = whole.join(source, whole.row_sums(source, target), videos.flip(0))
    torch.testing.assert_close(turned.flip(0), found)


def step(**given: Any) -> tuple[AdaptConfig, Any, SourceBatch, TargetBatch]:
    base = {"source": "a", "target": "b", "frames": 3, "batch_size": 4, "compute": "float32"}
    config = config_for(base, method="abg", **given)
    torch.manual_seed(0)
    networks = methods.find("abg").build(config, 10, 3).double()
    with torch.no_grad():
        for p in (*networks.branch.parameters(), *networks.model.classifier.parameters()):
            p += 0.3 * torch.randn_like(p)
    networks.model.dropout.p = 0.0
    for part in networks.modules():
        if isinstance(part, graph.Nodes):
            part.layers[-1].p = 0.0
    x = torch.randn(8, 3, 10, dtype=torch.float64)
    networks.branch.class_weights.copy_(torch.tensor([0.5, 0.25, 1.0]))
    return config, networks, SourceBatch(x[:4], LABELS), TargetBatch(x[4:] + 1)


def take(config: AdaptConfig, networks: Any, source: SourceBatch, target: TargetBatch) -> Any:
    return methods.find("abg").function("losses")(networks, source, target, config, Progress())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"frame_loss": True, "pooling": "mean"},
        {"video_graph": False, "domain_weight": 0.7, "entropy_weight": 0.3},
    ],
)
def test_losses_of_a_step(given: dict[str, Any]) -> None:
    config, networks, source, target = step(**given)
    model, branch = copy.deepcopy(networks.model), networks.branch
    found = take(config, networks, source, target)
    with torch.no_grad():
        x_S, x_T = (
            nn.functional.batch_norm(b.features_BTD.flatten(0, 1), None, None, training=True)
            for b in (source, target)
        )
        _, *z = all_pairs(model.frame_graph, x_S, x_T)
        frames = [part.view(4, 3, 512) for part in z]
        videos = []
        for part in frames:
            if config.pooling == "mean":
                videos.append(part.mean(1))
                continue
            pooled = []
            for f in part:
                v = 0
                for size, network in zip((3, 2), model.relations.networks):
                    for chosen in itertools.combinations(range(3), size):
                        v = v + network(torch.cat([f[t] for t in chosen]))
                pooled.append(v)
            videos.append(torch.stack(pooled))
        if config.video_graph:
            _, *videos = all_pairs(model.video_graph, *videos)
        y = [model.classifier(v) for v in videos]
        p = y[1].softmax(1)
        w = torch.tensor([0.5, 0.25, 1.0]).double()
        label = sum(-w[n] * y[0][b].log_softmax(0)[n] for b, n in enumerate(LABELS))
        expected = {"source": (label / sum(w[n] for n in LABELS)).item()}
        told = [branch.embedding(torch.eye(3).double()[LABELS]), branch.embedding(p)]

        def domain(discriminator: nn.Module, rows: list[list[Tensor]]) -> float:
            costs = [
                -discriminator(x).log_softmax(0)[d].item()
                for d, part in enumerate(rows)
                for x in part
            ]
            return sum(costs) / len(costs)

        added = [[v + t for v, t in zip(*part)] for part in zip(videos, told)]
        expected["video"] = domain(branch.video, added)
        if config.frame_loss:
            rows = [[x + t for f, t in zip(*part) for x in f] for part in zip(frames, told)]
            expected["frame"] = domain(branch.frame, rows)
        expected["entropy"] = sum(-q * math.log(q) for row in p.tolist() for q in row) / 4
    assert {k: v.item() for k, v in found.parts.items()} == pytest.approx(expected, rel=1e-8)
    total = expected["source"] + config.entropy_weight * expected["entropy"]
    total += config.domain_weight * (expected["video"] + expected.get("frame", 0))
    assert found.total.item() == pytest.approx(total, rel=1e-8)
    found.total.backward()
    lacking = [name for name, p in networks.named_parameters() if p.grad is None]
    assert lacking == []


def data(labels: Tensor) -> TrainingData:
    draws = np.random.default_rng(0)
    banks = [
        FeatureBank([draws.normal(size=(6, 10)).astype(np.float16) for _ in range(9)], CPU)
        for _ in range(2)
    ]
    return TrainingData(
        source=banks[0], labels_V=labels, target=banks[1], classes="abc", device=CPU
    )


def test_predictions_depend_on_the_kept_companions_and_on_nothing_else() -> None:
    method, labels = methods.find("abg"), torch.arange(9) % 3
    videos = torch.randn(5, 3, 10)

    def predicted(seed: int, labels: Tensor, videos: Tensor) -> Tensor:
        config, networks, *_ = step(seed=seed)
        networks.float()
        method.function("remember")(networks, data(labels), config)
        with torch.no_grad():
            return networks.model(videos)

    found = predicted(0, labels, videos)
    torch.testing.assert_close(predicted(0, labels.flip(0), videos), found, rtol=0, atol=0)
    alone = torch.cat([predicted(0, labels, video[None]) for video in videos])
    torch.testing.assert_close(alone, found)
    torch.testing.assert_close(predicted(0, labels, videos.flip(0)).flip(0), found)
    assert not torch.allclose(predicted(1, labels, videos), found)


@pytest.mark.parametrize("given", [{}, {"pooling": "mean"}, {"video_graph": False}])
def test_a_prediction_written_out_with_its_companions(given: dict[str, Any]) -> None:
    """A video joins the kept frames; in the graph of videos it joins what they are without it."""
    _, networks, source, target = step(**given)
    model, videos = networks.model.eval(), torch.randn(2, 3, 10, dtype=torch.float64)
    model.keep_companions(source.features_BTD, target.features_BTD)

    def pooled(z: Tensor) -> Tensor:
        result: Tensor = model.pool(z.unflatten(0, (-1, 3)))
        return result

    def frames(x_BTD: Tensor, *, of_source: bool) -> Tensor:
        result: Tensor = model.nodes(x_BTD, source=of_source)
        return result

    known = frames(source.features_BTD, of_source=True)
    found = model(videos)
    for video, logits in zip(videos, found):
        others = all_pairs(model.frame_graph, known, frames(target.features_BTD, of_source=False))
        joined = torch.cat([target.features_BTD, video[None]])
        *_, with_it = all_pairs(model.frame_graph, known, frames(joined, of_source=False))
        own_1C = pooled(with_it)[-1:]
        if model.video_graph is not None:
            kept = [pooled(z) for z in others[1:]]
            *_, z_BC = all_pairs(model.video_graph, kept[0], torch.cat([kept[1], own_1C]))
            own_1C = z_BC[-1:]
        torch.testing.assert_close(logits[None], model.classify(own_1C))


def test_a_class_weighs_by_its_source_videos() -> None:
    config, networks, *_ = step()
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    methods.find("abg").function("prepare")(networks, data(labels), config)
    assert networks.branch.class_weights.tolist() == [0.25, pytest.approx(0.2), 0.0]


@pytest.mark.parametrize("preset", ["own", slow("shared")])
def test_stopped_resumed_and_evaluated(cli, problem, preset: str) -> None:
    more = ("--method", "abg", "--preset", preset, "--checkpoint-every", 1)
    assert cli(*toy_arguments(problem, "calm", *more)).exit_code == 0
    with stopped_before(3):
        assert cli(*toy_arguments(problem, "run", *more)).exit_code == 130
    assert cli(*toy_arguments(problem, "run", *more, "--resume")).exit_code == 0
    assert outcome(problem / "run") == outcome(problem / "calm")
    evaluated = cli("evaluate", problem / "run", "--device", "cpu")
    assert evaluated.exit_code == 0 and "the same as the run recorded" in evaluated.output


def test_the_authors_settings() -> None:
    config = config_for({}, method="abg", source="ucf", target="hmdb")
    assert (config.batch_size, config.target_batch, config.epochs) == (128, "equal", 40)
    assert (config.frames, config.train_sampling, config.learning_rate) == (5, "jittered", 0.03)
    back = config_for({}, method="abg", source="hmdb", target="ucf")
    assert (config.pooling, config.entropy_weight) == ("relations", 0.01)
    assert (back.pooling, back.entropy_weight) == ("mean", 0.1)
    networks = methods.find("abg").build(config, 64, 3)
    for linear in (networks.model.classifier, networks.branch.video[0], networks.branch.embedding):
        assert linear.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert networks.branch.frame is None


def test_a_target_batch_of_one_is_refused_before_training(cli, tmp_path) -> None:
    """A target that is much smaller than the source, with batches in proportion."""
    from test_robust import make_domains, split

    small = split(1, 1, 1) + split(1, 1, 1, of="eval")
    make_domains(tmp_path, {"left": split(9, 9, 9), "right": small})
    more = ("--method", "abg", "--target-batch", "proportional")
    result = cli(*toy_arguments(tmp_path, "run", *more))
    assert result.exit_code == 2, result.output
    assert "needs 2 of each in a step, got 1 of the target" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_a_batch_of_two_draws_of_a_single_target_video_keeps_that_video() -> None:
    """The target's batch less one was empty, and divided by the number of its frames."""
    config, networks, *_ = step(target_batch="proportional", draws=2)
    nine = data(torch.arange(9) % 3)
    one = FeatureBank([np.ones((6, 10), np.float16)], CPU)
    methods.find("abg").function("remember")(
        networks.float(), dataclasses.replace(nine, target=one), config
    )
    assert networks.model(torch.randn(2, 3, 10)).isfinite().all()
