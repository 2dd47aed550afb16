"""TCoN (after the paper's description) against its formulas in plain loops, and what its attention keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import config_for, losses_of, stopped_before, toy_arguments
from test_robust import outcome
from torch import nn

from adapt import methods
from adapt.config import AdaptConfig
from adapt.data import SourceBatch, TargetBatch
from adapt.methods import tcon

SMALL = {
    **{"source": "a", "target": "b", "width": 6, "dropout": 0.0, "video_dropout": 0.0},
    **{"compute": "float32", "initialisation": "default", "frames": 4},
}
LABELS = torch.tensor([0, 2, 1, 1, 0])


def made(**given: Any) -> tuple[AdaptConfig, Any, Any, SourceBatch, TargetBatch]:
    config = config_for(SMALL, method="tcon", **{"adversarial_ramp": "none", **given})
    torch.manual_seed(0)
    networks = methods.find("tcon").build(config, 10, 3).double()
    x = torch.randn(9, config.frames, 10, dtype=torch.float64)
    return (
        config,
        networks.model,
        networks.branch,
        SourceBatch(x[:5], LABELS),
        TargetBatch(x[5:] + 1),
    )


def softmax(values: list[float]) -> list[float]:
    return [math.exp(v) / sum(map(math.exp, values)) for v in values]


@pytest.mark.parametrize("preset", ["own", "shared"])
def test_losses_pair_by_pair(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    partner = torch.tensor([3, 0, 3, 4])
    monkeypatch.setattr(tcon, "partners", lambda *_: partner)
    more = {"segment_weight": 0.3, "video_weight": 0.6, "attention_weight": 0.9}
    config, model, branch, source, target = made(preset=preset, **more)
    found = losses_of(config, model, branch, source, target)
    with torch.no_grad():
        f_s, f_t = (model.encode(b.features_BTD) for b in (source, target))
        T = range(config.frames)

        def score(f: torch.Tensor) -> list[float]:
            return softmax([model.attention(f[t]).item() for t in T])

        def cross_entropy(logits: torch.Tensor, label: int) -> float:
            return -math.log(softmax(logits.tolist())[label])

        label = sum(
            cross_entropy(model.classifier(sum(a * f[t] for t, a in enumerate(score(f)))), int(y))
            for f, y in zip(f_s, LABELS)
        )
        segment, video, truths = 0.0, 0.0, {}
        for b, f in enumerate(f_t):
            s = f_s[partner[b]]
            A = [
                softmax([(branch.query(s[i]) @ branch.key(f[j])).item() / 16 for i in T]) for j in T
            ]
            aligned = [sum(A[j][i] * s[i] for i in T) for j in T]
            segment += sum(cross_entropy(branch.segment(aligned[j]), 0) for j in T)
            segment += sum(cross_entropy(branch.segment(f[j]), 1) for j in T)
            a = score(f)
            video += cross_entropy(branch.video(sum(a[j] * aligned[j] for j in T)), 0)
            video += cross_entropy(branch.video(sum(a[j] * f[j] for j in T)), 1)
            truths.setdefault(int(partner[b]), []).append(A)
        divergences = []
        for number, found_A in truths.items():
            a = [sum(A[j][i] for A in found_A for j in T) / (len(found_A) * len(T)) for i in T]
            predicted = score(f_s[number])
            divergences.append(sum(p * math.log(p / q) for p, q in zip(a, predicted)))
    expected = {
        "source": label / 5,
        "segment": segment / (8 * len(T)),
        "video": video / 8,
        "attention": sum(divergences) / 3,
    }
    assert {k: v.item() for k, v in found.parts.items()} == pytest.approx(expected, rel=1e-9)
    total = label / 5 + 0.3 * segment / (8 * len(T)) + 0.6 * video / 8
    total += 0.9 * sum(divergences) / 3
    assert found.total.item() == pytest.approx(total, rel=1e-9)
    found.total.backward()
    without = [
        n for n, p in [*model.named_parameters(), *branch.named_parameters()] if p.grad is None
    ]
    assert without == []


def test_the_reversal_turns_the_encoder_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcon, "partners", lambda *_: torch.tensor([3, 0, 3, 4]))
    gradients = []
    for coefficient in (0.0, 1.0, 2.0):
        more = {"attention_weight": 0.0, "adversarial_weight": coefficient}
        config, model, branch, source, target = made(**more)
        found = losses_of(config, model, branch, source, target)
        (found.total - found.parts["source"]).backward()
        gradients.append(
            [p.grad.clone() for part in (model.encoder, branch.segment) for p in part.parameters()]
        )
    encoder = len(list(model.encoder.parameters()))
    for none, once, twice in zip(*(g[:encoder] for g in gradients)):
        assert not none.any() and once.any()
        torch.testing.assert_close(twice, 2 * once)
    for none, once, _ in zip(*(g[encoder:] for g in gradients)):
        torch.testing.assert_close(none, once)


def test_what_the_coattention_keeps() -> None:
    _, model, branch, source, target = made()
    f_s, f_t = (model.encode(b.features_BTD)[:4] for b in (source, target))
    A = branch.coattention(f_s, f_t)
    torch.testing.assert_close(A.sum(dim=1), torch.ones(4, 4).double())
    aligned = A.transpose(1, 2) @ f_s
    turned = f_s.flip(1)
    torch.testing.assert_close(branch.coattention(turned, f_t).transpose(1, 2) @ turned, aligned)
    one = branch.coattention(f_s[:, :1], f_t[:, :1])
    torch.testing.assert_close(one.transpose(1, 2) @ f_s[:, :1], f_s[:, :1])
    torch.testing.assert_close(model.attend(f_t).sum(dim=1), torch.ones(4).double())


def test_prediction_needs_no_source_video_and_no_companion() -> None:
    _, model, _, _, target = made()
    model.eval()
    whole = model(target.features_BTD)
    alone = torch.cat([model(x[None]) for x in target.features_BTD])
    torch.testing.assert_close(whole, alone)


def test_partners() -> None:
    P = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.3, 0.3], [0.0, 0.05, 0.95]])
    torch.manual_seed(0)
    drawn = torch.stack([tcon.partners(P, torch.tensor([0, 1, 0, 1]), 0.8) for _ in range(400)])
    assert set(drawn[:, 0].tolist()) == {0, 2}  # sure of class 0
    assert set(drawn[:, 1].tolist()) == {0, 1, 2, 3}  # not sure
    assert set(drawn[:, 2].tolist()) == {0, 1, 2, 3}  # sure of a class that the batch lacks
    anywhere = torch.stack([tcon.partners(P, torch.tensor([0, 1, 0, 1]), 1.1) for _ in range(400)])
    assert set(anywhere[:, 0].tolist()) == {0, 1, 2, 3}


def test_equal_seeds_pair_equally_and_a_resumed_run_too(cli, problem) -> None:
    more = ("--method", "tcon", "--frames", 4, "--checkpoint-every", 1)
    assert cli(*toy_arguments(problem, "calm", *more)).exit_code == 0
    with stopped_before(3):
        assert cli(*toy_arguments(problem, "run", *more)).exit_code == 130
    assert cli(*toy_arguments(problem, "run", *more, "--resume")).exit_code == 0
    assert outcome(problem / "run") == outcome(problem / "calm")
    again = cli("evaluate", problem / "run", "--device", "cpu")
    assert again.exit_code == 0 and "the same as the run recorded" in again.output


def test_several_processes_are_refused(cli, problem, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapt import parallel

    monkeypatch.setattr(parallel, "world", lambda: 2)
    monkeypatch.setattr(parallel, "from_first", lambda function: function())
    result = cli(*toy_arguments(problem, "run", "--method", "tcon"))
    assert result.exit_code == 2
    assert "--method tcon trains in one process" in result.output


def test_the_start_is_that_of_its_family() -> None:
    config = config_for({}, method="tcon", source="a", target="b")
    networks = methods.find("tcon").build(config, 64, 3)
    assert (config.frames, config.width, config.epochs) == (5, 512, 30)
    for linear in [m for m in networks.modules() if isinstance(m, nn.Linear)]:
        assert linear.weight.std().item() == pytest.approx(0.001, rel=0.1)
