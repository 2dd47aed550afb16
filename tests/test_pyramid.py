"""The adaptation branch against the paper's equations written out as plain loops.

The reference goes video by video and slot by slot, with one module per slot rebuilt from the stacked
weights. It has no gradient reversal: eq. 9 says what the reversed gradients must be.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import config_for
from torch import Tensor, nn

from adapt.config import AdaptConfig
from adapt.discriminators import DROPOUT, Discriminators, reverse
from adapt.dropout import drop, relu_drop
from adapt.pyramid import EPSILON, AdaptationBranch

COEFFICIENT = 0.3
SMALL = {"source": "a", "target": "b", "levels": 3, "width": 5, "discriminator_width": 7}
VARIANTS: list[dict[str, Any]] = [
    {"preset": "paper"},
    {"preset": "released"},
    {"preset": "paper", "bound": "none"},
    {"preset": "paper", "discriminators": "shared"},
    {"preset": "paper", "adversarial_levels": "frame-video"},
    {"preset": "paper", "level_weights": "equal"},
    {"preset": "paper", "aggregation": "mean"},
    {"preset": "paper", "kernel": 2, "levels": 4},
    {"preset": "paper", "first_level": False, "reversal": "aggregators"},
    {"preset": "released", "first_level": True, "slot_reduction": "sum"},
    {"preset": "released", "aggregation": "attention", "level_weights": "loss"},
]


def make_config(**given: Any) -> AdaptConfig:
    return config_for(SMALL, **{"preset": "paper", **given})


def make_branch(config: AdaptConfig) -> AdaptationBranch:
    torch.manual_seed(1)
    branch = AdaptationBranch(config).double()
    for p in branch.parameters():  # away from the start, where losses hardly differ from log 2
        p.data += 0.3 * torch.randn_like(p)
    return branch.eval()  # no dropout


def make_batch(config: AdaptConfig) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    shape = (4, config.frames, config.width)
    f_BTC = torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()
    return f_BTC, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)


def slot_modules(stacked: Discriminators) -> list[nn.Sequential]:
    """One module per slot; a shared set of parameters is one module that stands in every slot."""
    modules = []
    for slot in range(len(stacked.weights[0])):
        layers: list[nn.Module] = []
        for weight, bias in zip(stacked.weights, stacked.biases):
            linear = nn.Linear(weight.shape[1], weight.shape[2]).double()
            linear.weight.data = weight.data[slot].T.clone()
            linear.bias.data = bias.data[slot, 0].clone()
            layers += [linear, nn.ReLU()]
        modules.append(nn.Sequential(*layers[:-1]))
    return modules if len(modules) > 1 else modules * stacked.slots


@dataclasses.dataclass
class Reference:
    """Eq. 3 to 12 for one batch; lists are indexed [video][level][slot]."""

    features: list[list[list[Tensor]]] = dataclasses.field(default_factory=list)
    slot_losses: list[dict[int, list[Tensor]]] = dataclasses.field(default_factory=list)
    weights: list[dict[tuple[int, int], list[Tensor]]] = dataclasses.field(default_factory=list)
    omega: list[list[Tensor]] = dataclasses.field(default_factory=list)
    adversarial: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    level_attention: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))
    slots: dict[int, list[nn.Sequential]] = dataclasses.field(default_factory=dict)
    levels: dict[int, nn.Module] = dataclasses.field(default_factory=dict)
    convolutions: list[dict[str, Tensor]] = dataclasses.field(default_factory=list)


def bce(z: Tensor, d: float) -> Tensor:
    p = 1 / (1 + torch.exp(-z))
    return -(d * torch.log(p) + (1 - d) * torch.log(1 - p))


def share(values: list[Tensor]) -> list[Tensor]:
    total = sum(v.detach() + EPSILON for v in values)
    return [(v.detach() + EPSILON) / total for v in values]


def reference(
    config: AdaptConfig, branch: AdaptationBranch, f_BTC: Tensor, domains_B: Tensor
) -> Reference:
    q, M = config.kernel, config.levels
    r = Reference()
    r.slots = {int(m): slot_modules(d) for m, d in branch.discriminators.items()}
    for m, g in branch.level_discriminators.items():
        trained = config.level_weights == "loss"
        r.levels[int(m)] = slot_modules(g.layers)[0] if trained else g
    r.convolutions = [
        {n: p.detach().clone().requires_grad_() for n, p in a.named_parameters()}
        for a in branch.aggregators
    ]
    adversarial, attention = [], []
    for f_TC, d in zip(f_BTC, domains_B.tolist()):
        f = [f_TC[j] for j in range(config.frames)]
        r.features.append([])
        r.slot_losses.append({})
        r.weights.append({})
        L, level_losses = {}, {}
        dilation = 1
        for m in range(1, M + 1):
            r.features[-1].append(f)
            if m in r.slots:
                losses = [bce(r.slots[m][j](f[j]).squeeze(), d) for j in range(len(f))]  # eq. 11
                r.slot_losses[-1][m] = losses
                L[m] = sum(losses)  # eq. 3
                if config.slot_reduction == "mean":
                    L[m] = L[m] / len(f)
                if r.levels:
                    F_m = sum(f).detach() / len(f)  # eq. 5
                    z = r.levels[m](F_m).squeeze()
                    if config.level_weights == "entropy":
                        level_losses[m] = bce(z, torch.sigmoid(z).item())
                    else:
                        level_losses[m] = bce(z, d)  # eq. 6
            if m == M:
                break
            H = r.convolutions[m - 1]
            after = []
            for j in range(len(f) - (q - 1) * dilation):
                field = [j + s * dilation for s in range(q)]
                if config.aggregation == "attention" and m in r.slots:
                    w = share([losses[i] for i in field])
                else:
                    w = [torch.tensor(1 / q, dtype=torch.float64)] * q
                r.weights[-1][m, j] = w
                hidden = H["convolutions.0.bias"] + sum(
                    H["convolutions.0.weight"][:, :, s] @ f[i] for s, i in enumerate(field)
                )
                H_j = H["convolutions.2.weight"][:, :, 0] @ hidden.clamp(min=0)
                y = H_j + H["convolutions.2.bias"] + sum(w[s] * f[i] for s, i in enumerate(field))
                if config.bound == "layernorm":
                    centred = y - y.mean()
                    y = centred / (centred.square().mean() + 1e-5).sqrt()
                after.append(y)  # eq. 12
            f, dilation = after, (q - 1) * dilation + 1
        if r.levels:
            omega = share(list(level_losses.values()))  # eq. 7
        else:
            omega = [torch.tensor(1 / len(L), dtype=torch.float64)] * len(L)
        r.omega.append(omega)
        adversarial.append(sum(w * L_m for w, L_m in zip(omega, L.values())))  # eq. 8
        if config.level_weights == "loss":
            attention.append(sum(level_losses.values()))
    r.adversarial = sum(adversarial) / len(adversarial)
    if attention:
        r.level_attention = sum(attention) / len(attention)
    return r


def close(actual: Tensor | None, expected: Tensor | None, factor: float = 1.0) -> None:
    assert actual is not None and expected is not None
    torch.testing.assert_close(actual, factor * expected, rtol=1e-9, atol=1e-12)


def check_stack(stacked: Discriminators, modules: list[nn.Sequential], factor: float) -> None:
    """Gradients of the stacked parameters are those of the modules of the slots."""
    for slot in range(len(stacked.weights[0])):
        linears = [layer for layer in modules[slot] if isinstance(layer, nn.Linear)]
        for linear, weight, bias in zip(linears, stacked.weights, stacked.biases):
            assert linear.weight.grad is not None and weight.grad is not None
            close(weight.grad[slot], linear.weight.grad.T, factor)
            close(bias.grad[slot, 0], linear.bias.grad, factor)


@pytest.mark.parametrize("given", VARIANTS, ids=lambda g: "-".join(map(str, g.values())))
def test_branch_is_the_equations(given: dict[str, Any]) -> None:
    config = make_config(**given)
    branch = make_branch(config)
    f_BTC, domains_B = make_batch(config)
    inputs: list[Any] = []  # features of every level, and the slot losses given to its aggregator
    for module in (*branch.aggregators, branch.discriminators[str(config.levels)]):
        module.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments))
    actual = branch(f_BTC, domains_B, COEFFICIENT)

    g_BTC = f_BTC.detach().clone().requires_grad_()
    expected = reference(config, branch, g_BTC, domains_B)
    for b in range(len(domains_B)):
        for features, level in zip(inputs, expected.features[b], strict=True):
            close(features[0][b], torch.stack(level))
        for (m, j), weights in expected.weights[b].items():
            losses_BS = inputs[m - 1][1]
            if losses_BS is None:  # equal weights
                assert set(torch.stack(weights).tolist()) == {1 / config.kernel}
            else:
                close(branch.aggregators[m - 1].attention(losses_BS)[b, j], torch.stack(weights))
    for i, m in enumerate(config.discriminated_levels):
        for b in range(len(domains_B)):
            close(actual.slot_losses[i][b], torch.stack(expected.slot_losses[b][m]))
    close(actual.level_weights_BL, torch.stack([torch.stack(o) for o in expected.omega]))
    close(actual.adversarial, expected.adversarial)

    actual.adversarial.backward()
    expected.adversarial.backward()
    # Eq. 9: the extractor ascends on what the discriminators descend on; the aggregators go with
    # the extractor (paper) or with the discriminators (released).
    close(f_BTC.grad, g_BTC.grad, -COEFFICIENT)
    sign = -COEFFICIENT if config.reversal == "discriminators" else 1.0
    for aggregator, parameters in zip(branch.aggregators, expected.convolutions):
        for name, parameter in aggregator.named_parameters():
            close(parameter.grad, parameters[name].grad, sign)
    for m, modules in expected.slots.items():
        check_stack(branch.discriminators[str(m)], modules, 1.0)
    assert all(p.grad is None for p in branch.level_discriminators.parameters())


@pytest.mark.parametrize("given", [{"preset": "paper"}, {"preset": "released"}], ids=str)
def test_level_attention_is_trained_in_paper_and_never_reaches_the_features(given: Any) -> None:
    config = make_config(**given)
    branch = make_branch(config)
    f_BTC, domains_B = make_batch(config)
    actual = branch(f_BTC, domains_B, COEFFICIENT)
    if config.level_weights == "entropy":
        assert actual.level_attention is None
        assert not any(p.requires_grad for p in branch.level_discriminators.parameters())
        return
    expected = reference(config, branch, f_BTC, domains_B)
    close(actual.level_attention, expected.level_attention)
    assert actual.level_attention is not None
    actual.level_attention.backward()
    expected.level_attention.backward()
    for m, module in expected.levels.items():
        check_stack(branch.level_discriminators[str(m)].layers, [module], 1.0)
    reached = {name for name, p in branch.named_parameters() if p.grad is not None}
    assert reached and all(name.startswith("level_discriminators.") for name in reached)
    assert f_BTC.grad is None


def test_none_is_the_letter_of_the_paper_and_layernorm_bounds() -> None:
    """The bound is the one difference, and without it the output grows with the aggregators."""
    letter, bounded = make_config(bound="none"), make_config()
    assert dataclasses.replace(letter, bound="layernorm") == bounded
    sizes = {}
    for config in (letter, bounded):
        branch = make_branch(config)
        f_BTC, _ = make_batch(config)
        for factor in (1, 100):
            last = []
            branch.discriminators["3"].register_forward_pre_hook(
                lambda _, x, to=last: to.append(x[0])
            )
            for a in branch.aggregators:
                a.convolutions[2].weight.data *= factor
            branch(f_BTC, make_batch(config)[1], 1.0)
            sizes[config.bound, factor] = last[-1].norm(dim=-1).max().item()
    assert sizes["none", 100] > 50 * sizes["none", 1]
    assert sizes["layernorm", 100] <= math.sqrt(letter.width) + 1e-6


def test_weights_when_every_slot_loss_is_zero() -> None:
    config = make_config()
    branch = make_branch(config)
    f_BTC, domains_B = make_batch(config)
    for d in branch.discriminators.values():
        d.weights[2].data.zero_()
        d.biases[2].data.fill_(-2000)
    actual = branch(f_BTC, domains_B * 0, COEFFICIENT)  # every video is confidently source
    assert all((losses == 0).all() for losses in actual.slot_losses)
    assert torch.isfinite(actual.level_weights_BL).all() and actual.adversarial == 0


def test_released_with_full_size_has_128_discriminators_and_paper_181() -> None:
    counts = {}
    for preset in ("paper", "released"):
        with torch.device("meta"):
            branch = AdaptationBranch(
                AdaptConfig.make(
                    benchmark="ucf-hmdb-full",
                    preset=preset,
                    given={"source": "ucf", "target": "hmdb"},
                )
            )
        slots = sum(d.slots for d in branch.discriminators.values())
        size = sum(p.numel() for p in branch.discriminators.parameters())
        counts[preset] = (slots, size // slots, size % slots)
    assert counts == {"paper": (181, 1_313_793, 0), "released": (128, 1_313_793, 0)}


def test_reversal_is_identity_forward_and_minus_coefficient_backward() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse(x, 0.25)
    assert torch.equal(y, x)
    (3 * y).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [-0.75, -0.75]


def test_wrong_number_of_slots() -> None:
    with pytest.raises(ValueError) as caught:
        Discriminators(3, 4, 5)(torch.zeros(2, 7, 4))
    assert str(caught.value) == "3 slot discriminators got features of 7 slots."


def test_stacked_start_is_that_of_linear() -> None:
    torch.manual_seed(0)
    stacked = Discriminators(40, 16, 24)
    linear = nn.ModuleList(nn.Linear(16, 24) for _ in range(40))
    for ours, theirs in (
        (stacked.weights[0], torch.stack([m.weight for m in linear])),
        (stacked.biases[0], torch.stack([m.bias for m in linear])),
    ):
        assert ours.abs().max() <= 0.25 and ours.std().item() == pytest.approx(
            theirs.std().item(), rel=0.05
        )


@pytest.mark.parametrize("p", [DROPOUT, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(7, 301, 101, dtype=dtype, requires_grad=True)
    dropped = drop(x, p, domains=[x.shape[1]])
    zero, factor = dropped.unique().tolist()
    assert dropped.dtype == dtype and zero == 0
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / x.numel()))
    assert factor == pytest.approx(1 / (1 - p), rel=1e-5)
    dropped.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, dropped.detach())
    # Neighbours share random words, yet are independent; and every call draws anew.
    kept = (dropped != 0).double().flatten()
    both = (1 - p) ** 2
    for distance in (1, 2, 3, 4, 101):
        together = (kept[distance:] * kept[:-distance]).mean().item()
        assert together == pytest.approx(both, abs=5 * math.sqrt(both * (1 - both) / x.numel()))
    assert not torch.equal(drop(x, p, domains=[x.shape[1]]), dropped)
    assert drop(x, 1 - 1e-9, domains=[x.shape[1]]).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu_and_dropout_in_one_are_both_one_after_the_other(dtype: torch.dtype) -> None:
    """Values by the plain operations, gradients by torch's own; there are entries of several chunks."""
    shape = (3, 301, 401)
    x = torch.randn(shape, dtype=dtype)
    x[0, 0, :9] = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, math.inf, -math.inf, 2.0])
    upstream = torch.randn(shape, dtype=dtype)
    torch.manual_seed(5)
    mask = drop(torch.ones(shape, dtype=dtype), DROPOUT, domains=[shape[1]])
    plain = x.clone().requires_grad_()
    expected = plain.relu() * mask
    expected.backward(upstream)
    ours = x.clone().requires_grad_()
    torch.manual_seed(5)
    actual = relu_drop(ours * 1, DROPOUT, domains=[shape[1]])
    actual.backward(upstream)
    finite = x != math.inf  # inf times a mask of 0 is no number, in both
    assert torch.equal(actual[finite], expected[finite]) and not actual[~finite].isfinite().any()
    assert ours.grad is not None and plain.grad is not None
    assert torch.equal(ours.grad[finite], plain.grad[finite])
    ours.grad = None
    relu_drop(ours * 1, DROPOUT, domains=[shape[1]]).sum().backward()  # an expanded gradient
    assert 0 < (ours.grad == 0).double().mean() - 0.5 < 0.2


def test_masks_are_those_of_numpys_generator() -> None:
    """Written out once more, whole: runs of earlier versions can be repeated."""
    torch.manual_seed(7)
    seed = torch.randint(2**63 - 1, (1,)).numpy()
    size = 2 * 300_001
    words = np.random.SFC64(seed).random_raw(size // 4 + 1).view(np.int16)[:size]
    kept = words.astype(int) + 2**15 >= round(0.2 * 2**16)
    torch.manual_seed(7)
    dropped = drop(torch.ones(2, 300_001, 1), DROPOUT, domains=[300_001])
    assert np.array_equal(dropped.flatten().numpy() != 0, kept)


def test_discriminators_drop_in_training_only() -> None:
    torch.manual_seed(0)
    stacked = Discriminators(2, 4, 4096)
    x = torch.randn(3, 2, 4)
    exact = stacked.eval()(x)
    assert torch.equal(stacked(x), exact)
    stacked.train()
    draws = torch.stack([stacked(x) for _ in range(200)])
    assert (draws.std(dim=0) > 0).all()
    # Unbiased up to the second layer's ReLU: the mean over draws comes close to the exact logit.
    torch.testing.assert_close(draws.mean(dim=0), exact, rtol=0, atol=0.02)


def test_dropout_refuses_domains_that_are_not_all_rows() -> None:
    with pytest.raises(ValueError, match=r"Domains of \[2, 3\] rows make no tensor of 6 rows"):
        drop(torch.ones(1, 6, 4), 0.5, domains=[2, 3])
