"""TransferAttn against its formulas in plain loops, and the properties that its structure has."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import config_for, losses_of, stopped_before, toy_arguments
from test_robust import outcome
from torch import Tensor, nn

from adapt import methods
from adapt.bottleneck import QUEUE, Bottleneck, bottleneck_loss
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.loop import learning_rate
from adapt.methods import Progress
from adapt.schedule import reversal_coefficient

SMALL = {
    "source": "a",
    "target": "b",
    "width": 16,
    "dropout": 0.0,
    "frames": 3,
    "compute": "float32",
}
LABELS = torch.tensor([0, 2, 1, 1, 0, 0])


def made(**given: Any) -> tuple[AdaptConfig, Any, Any, SourceBatch, TargetBatch]:
    given = {"draws": 1, "adversarial_ramp": "none", "adversarial_weight": 0.5, **given}
    config = config_for(SMALL, method="transferattn", **given)
    torch.manual_seed(0)
    networks = methods.find("transferattn").build(config, 10, 3).double()
    x = torch.randn(12, 3, 10, dtype=torch.float64)
    return (
        config,
        networks.model,
        networks.branch,
        SourceBatch(x[:6], LABELS),
        TargetBatch(x[6:] + 1),
    )


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def attended(attention: Any, x: Tensor, transferable: bool) -> Tensor:
    """One video, head by head and frame by frame: (T, C) -> (T, C)."""
    T, C = x.shape
    q, k, v = (attention.inputs(x)[:, i * C : (i + 1) * C] for i in range(3))
    heads, width = [], C // 8
    for h in range(8):
        part = slice(h * width, (h + 1) * width)
        scores = [[(q[i, part] @ k[j, part]).item() for j in range(T)] for i in range(T)]
        if transferable:
            cost = [
                [-math.log(sigmoid(attention.discriminator(x[i, part]).item())) for i in range(T)]
                for x in (q, k)
            ]
            scores = [[cost[0][i] * cost[1][j] for j in range(T)] for i in range(T)]
        rows = []
        for row in scores:
            e = [math.exp(s / math.sqrt(width)) for s in row]
            rows.append(sum(w / sum(e) * v[j, part] for j, w in enumerate(e)))
        heads.append(torch.stack(rows))
    return attention.output(torch.cat(heads, dim=1))


@torch.no_grad()
def test_the_network_head_by_head() -> None:
    _, model, _, source, _ = made()
    found = model.video(source.features_BTD, 0.7)
    for number, frames in enumerate(source.features_BTD):
        x = torch.stack([model.embedding(f) + model.position[t] for t, f in enumerate(frames)])
        for depth, block in enumerate(model.blocks):
            norms = [nn.functional.layer_norm(x, (16,), n.weight, n.bias) for n in block.norms]
            x = x + attended(block.attention, norms[0], depth == 3)
            z = block.inner(nn.functional.layer_norm(x, (16,), *block.norms[1].parameters()))
            x = x + block.outer(z / (1 + torch.exp(-1.702 * z)))
        v = x.mean(0)
        torch.testing.assert_close(found[number], v / (0.07 * v.norm()), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.norm(dim=1), torch.full((6,), 14.285714285714286).double())


@torch.no_grad()
def test_the_last_block_s_scores_have_rank_one_and_one_favourite() -> None:
    model = made()[1]
    attention = model.blocks[3].attention
    q, k = torch.randn(
        2, 4, 8, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    scores = attention.scores(q, k, 0.3)
    assert (torch.linalg.matrix_rank(scores) == 1).all()
    favourite = scores.argmax(dim=-1)
    assert (favourite == favourite[..., :1]).all()


def test_the_two_reversals() -> None:
    """At c = 0 neither the discriminator nor queries and keys learn; then -c for it, c^2 for them."""
    found = {}
    for c in (0.0, 1.0, 0.5):
        config, model, branch, source, target = made(adversarial_weight=c, bottleneck_weight=0.0)
        losses = losses_of(config, model, branch, source, target)
        losses.parts["source"].backward()
        attention = model.blocks[3].attention
        found[c] = (
            attention.discriminator[0].weight.grad.clone(),
            attention.inputs.weight.grad[:32].clone(),
            attention.inputs.weight.grad[32:].clone(),
        )
    assert not found[0.0][0].any() and not found[0.0][1].any() and found[0.0][2].any()
    torch.testing.assert_close(found[0.5][0], found[1.0][0] / 2)
    torch.testing.assert_close(found[0.5][1], found[1.0][1] / 4)
    plain = {}
    for sign in (
        1,
        -1,
    ):  # of the discriminator's last bias, by differences: the true gradient is -1/c of it
        config, model, branch, source, target = made(adversarial_weight=1.0)
        with torch.no_grad():
            model.blocks[3].attention.discriminator[6].bias += sign * 1e-5
        plain[sign] = losses_of(config, model, branch, source, target).parts["source"].item()
    config, model, branch, source, target = made(adversarial_weight=1.0)
    losses_of(config, model, branch, source, target).parts["source"].backward()
    reversed_ = model.blocks[3].attention.discriminator[6].bias.grad.item()
    assert reversed_ == pytest.approx(-(plain[1] - plain[-1]) / 2e-5, rel=1e-4)


def test_losses_of_a_step() -> None:
    config, model, branch, source, target = made(bottleneck_weight=0.2, entropy_weight=0.7)
    found = losses_of(config, model, branch, source, target)
    with torch.no_grad():
        v_s, v_t = (model.video(b.features_BTD, 0.5) for b in (source, target))
        y_s, y_t = model.classifier(v_s), model.classifier(v_t)
        p = y_t.softmax(1)
        d_s, d_t = branch.discriminator(v_s), branch.discriminator(v_t)
        expected = {
            "source": nn.functional.cross_entropy(y_s, LABELS).item(),
            "entropy": sum(-q * math.log(q) for row in p.tolist() for q in row) / (6 * 3),
            "domain": -sum(math.log(1 - sigmoid(z)) for z in d_s.flatten().tolist()) / 6
            - sum(math.log(sigmoid(z)) for z in d_t.flatten().tolist()) / 6,
        }
        head = branch.bottleneck.head
        expected["bottleneck"] = pair_by_pair(head(v_s), LABELS, head(v_t), y_t.argmax(1))
    assert {k: v.item() for k, v in found.parts.items()} == pytest.approx(expected, rel=1e-9)
    total = expected["source"] + 0.7 * expected["entropy"] + expected["domain"]
    assert found.total.item() == pytest.approx(total + 0.2 * expected["bottleneck"], rel=1e-9)


def pair_by_pair(z_s: Tensor, labels: Tensor, z_t: Tensor, pseudo: Tensor) -> float:
    pairs = [(a, b) for a, y in zip(z_s, labels) for b, u in zip(z_t, pseudo) if y == u]
    if len(pairs) < 3:
        return 0.0
    left, right = (torch.stack(part) for part in zip(*pairs))
    left, right = (
        (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in (left, right)
    )
    R = left.T @ right / len(pairs)
    eye = torch.eye(len(R), dtype=torch.bool)
    return ((R[eye] - 1).square().sum() + 0.005 * R[~eye].square().sum()).item()


def test_the_bottleneck_pair_by_pair() -> None:
    random = torch.Generator().manual_seed(0)
    z_s, z_t = torch.randn(2, 7, 5, generator=random, dtype=torch.float64)
    labels, pseudo = torch.tensor([0, 1, 1, 2, 0, 0, 3]), torch.tensor([1, 1, 0, 0, 0, 2, 5])
    found = bottleneck_loss(z_s, z_t, labels[:, None] == pseudo)
    assert found.item() == pytest.approx(pair_by_pair(z_s, labels, z_t, pseudo), rel=1e-10)
    assert bottleneck_loss(z_s, z_t, torch.zeros(7, 7)) == 0
    few = torch.zeros(7, 7)
    few[0, 0] = few[1, 2] = 1
    assert bottleneck_loss(z_s, z_t, few) == 0
    # Equal sides whose columns are uncorrelated: R is the identity but for the 1e-5.
    x = torch.linalg.qr(torch.randn(64, 6, generator=random, dtype=torch.float64))[0]
    x = torch.linalg.qr(x - x.mean(0))[0] * 8
    assert bottleneck_loss(x, x, torch.eye(64)).item() < 1e-6


def test_the_bottleneck_is_float32_where_products_are_bfloat16() -> None:
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    paired = torch.ones(300, 300)  # 300 partners: bfloat16 counts by twos from 256
    exact = bottleneck_loss(x, x + 1, paired)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = bottleneck_loss(x, x + 1, paired)
    assert found.dtype == torch.float32 and torch.equal(found, exact)


def test_the_queue_holds_the_last_projections_with_their_labels() -> None:
    torch.manual_seed(0)
    bottleneck = Bottleneck(4).double()
    assert (bottleneck.queue_labels == -1).all()
    seen = []
    for number in range(6):
        x = torch.randn(100, 4, dtype=torch.float64)
        labels = torch.full((100,), number)
        before = bottleneck.queue.clone(), bottleneck.queue_labels.clone()
        y = torch.randn(5, 4, dtype=torch.float64)
        pseudo = torch.tensor([number, number - 1, number - 1, 99, 0])
        found = bottleneck(x, labels, y, pseudo)
        with torch.no_grad():
            own = bottleneck.head(x)
            rows, known = torch.cat([own, before[0]]), torch.cat([labels, before[1]])
            expected = pair_by_pair(rows, known, bottleneck.head(y), pseudo)
        assert found.item() == pytest.approx(expected, rel=1e-9)
        assert not bottleneck.queue.requires_grad
        seen += [(number, row) for row in own]
    kept = {(int(y), tuple(r.tolist())) for y, r in zip(bottleneck.queue_labels, bottleneck.queue)}
    assert kept == {(y, tuple(row.tolist())) for y, row in seen[-QUEUE:]}


def test_two_draws_are_averaged() -> None:
    config, model, branch, *_ = made(draws=2)
    torch.manual_seed(1)
    draws = torch.randn(2, 2, 6, 3, 10, dtype=torch.float64)  # domain, draw, video
    both = losses_of(
        config,
        model,
        branch,
        SourceBatch(draws[0].transpose(0, 1).flatten(0, 1), LABELS.repeat_interleave(2)),
        TargetBatch(draws[1].transpose(0, 1).flatten(0, 1)),
    )
    config, model, branch, *_ = made(draws=1)
    one = [
        losses_of(config, model, branch, SourceBatch(draws[0, d], LABELS), TargetBatch(draws[1, d]))
        for d in (0, 1)
    ]
    for name, value in both.parts.items():
        mean = (one[0].parts[name] + one[1].parts[name]) / 2
        torch.testing.assert_close(value, mean, rtol=1e-9, atol=1e-12)


def test_what_is_trained() -> None:
    for preset, trained in (("own", True), ("fixed", True), ("released", False)):
        config, model, branch, source, target = made(preset=preset, bottleneck_weight=1.0)
        assert config.train_heads == trained
        losses_of(config, model, branch, source, target).total.backward()
        lacking = {
            name
            for part in (model, branch)
            for name, p in part.named_parameters()
            if p.grad is None or not p.grad.any()
        }
        frozen = {n for n in lacking if n.startswith(("classifier", "bottleneck.head"))}
        assert bool(frozen) != trained
        assert not {n for n in lacking if not n.startswith(("classifier", "bottleneck.head"))}


def test_the_authors_schedule_and_start() -> None:
    config = config_for({}, method="transferattn", source="ucf", target="hmdb")
    assert (config.frames, config.draws, config.eval_draws, config.batch_size) == (53, 2, 2, 32)
    rates = [learning_rate(config, Progress(e, 300, 0, 10)) for e in (0, 149, 299)]
    assert rates[0] == pytest.approx(3e-5 * (1 + math.cos(math.pi / 300)) / 2)
    assert rates[1] == pytest.approx(1.5e-5) and rates[2] == pytest.approx(0, abs=1e-20)
    assert reversal_coefficient(config, 0.0) == 0
    back = config_for({}, method="transferattn", source="hmdb", target="ucf")
    ramp = 2 / (1 + math.exp(-5)) - 1
    assert reversal_coefficient(back, 0.5) == pytest.approx(0.5 * ramp)
    networks = methods.find("transferattn").build(config, 64, 3)
    assert networks.model.position.std().item() == pytest.approx(0.01, rel=0.05)
    for part in (networks.model.blocks[3].attention.discriminator, networks.branch.discriminator):
        for layer in [m for m in part if isinstance(m, nn.Linear)]:
            expected = (2 / sum(layer.weight.shape)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert not layer.bias.any()


def test_prediction_needs_no_companion() -> None:
    _, model, _, _, target = made()
    model.eval()
    alone = torch.cat([model(x[None]) for x in target.features_BTD])
    torch.testing.assert_close(model(target.features_BTD), alone)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["released", "shared"])
def test_stopped_resumed_and_evaluated(cli, problem, preset: str) -> None:
    more = ("--method", "transferattn", "--preset", preset, "--frames", 4, "--checkpoint-every", 1)
    assert cli(*toy_arguments(problem, "calm", *more)).exit_code == 0
    with stopped_before(3):
        assert cli(*toy_arguments(problem, "run", *more)).exit_code == 130
    assert cli(*toy_arguments(problem, "run", *more, "--resume")).exit_code == 0
    assert outcome(problem / "run") == outcome(problem / "calm")
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output


def test_options_that_do_not_fit(cli, problem) -> None:
    width = cli(*toy_arguments(problem, "run", "--method", "transferattn", "--width", 12))
    assert width.exit_code == 2 and "--width must be a multiple of 8 heads, got 12" in width.output
    norm = ("--method", "transferattn", "--statistics", "target")
    result = cli(*toy_arguments(problem, "run", *norm))
    assert result.exit_code == 2 and "transferattn has none" in result.output
