"""The adaptation branch with one module per slot, as the paper draws it and its authors wrote it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.discriminators import DROPOUT, Discriminators, reverse
from adapt.methods.ma2l_td import Options
from adapt.pyramid import AdaptationBranch, Aggregator, PyramidLosses, normalised


class LoopBranch(nn.Module):
    """The preset `paper` slot by slot, started with the parameters of a stacked branch."""

    def __init__(self, config: Options, stacked: AdaptationBranch) -> None:
        super().__init__()
        self.config = config
        self.slots = nn.ModuleDict({m: _modules(d) for m, d in stacked.discriminators.items()})
        self.levels = nn.ModuleDict(
            {m: _modules(g.layers)[0] for m, g in stacked.level_discriminators.items()}
        )
        self.aggregators = nn.ModuleList(
            Aggregator(config.width, config.kernel, d) for d in config.geometry.dilations
        )
        self.aggregators.load_state_dict(stacked.aggregators.state_dict())

    def forward(
        self,
        features_BTC: Tensor,
        domains_B: Tensor,
        coefficient: float,
        source_videos: int | None = None,
    ) -> PyramidLosses:
        """See `AdaptationBranch.forward`."""
        f = list(features_BTC.unbind(1))
        slot_losses: list[Tensor] = []
        level_logits: list[Tensor] = []
        for level in range(1, self.config.levels + 1):
            losses = []
            for module, f_BC in zip(self.slots[str(level)], f, strict=True):
                z_B = module(reverse(f_BC, coefficient)).to(domains_B.dtype).squeeze(1)
                losses.append(F.binary_cross_entropy_with_logits(z_B, domains_B, reduction="none"))
            slot_losses.append(torch.stack(losses, dim=1))
            mean_BC = torch.stack(f).mean(dim=0).detach()
            level_logits.append(self.levels[str(level)](mean_BC).to(domains_B.dtype).squeeze(1))
            if level < self.config.levels:
                f = self._aggregate(self.aggregators[level - 1], f, losses)
        level_losses_BL = torch.stack(
            [
                F.binary_cross_entropy_with_logits(z_B, domains_B, reduction="none")
                for z_B in level_logits
            ],
            dim=1,
        )
        weights_BL = normalised(level_losses_BL.detach())
        L_BL = torch.stack([losses_BS.sum(dim=1) for losses_BS in slot_losses], dim=1)
        return PyramidLosses(
            adversarial=(weights_BL * L_BL).sum(dim=1).mean(),
            level_attention=level_losses_BL.sum(dim=1).mean(),
            slot_losses=slot_losses,
            level_weights_BL=weights_BL,
        )

    def _aggregate(self, a: nn.Module, f: list[Tensor], losses: list[Tensor]) -> list[Tensor]:
        assert isinstance(a, Aggregator)
        convolved = a.convolutions(torch.stack(f, dim=2)).unbind(2)
        after = []
        for j, H_BC in enumerate(convolved):
            field = [j + s * a.dilation for s in range(a.kernel)]
            w_Bq = normalised(torch.stack([losses[i].detach() for i in field], dim=1))
            residual = sum(w_Bq[:, s, None] * f[i] for s, i in enumerate(field))
            after.append(F.layer_norm(H_BC + residual, (self.config.width,)))
        return after

    def gradients(self) -> dict[str, Tensor]:
        """Gradients by the names that the stacked branch's parameters have."""
        found = {f"aggregators.{n}": _grad(p) for n, p in self.aggregators.named_parameters()}
        for level, modules in self.slots.items():
            found |= _stacked(f"discriminators.{level}", list(modules))
        for level, module in self.levels.items():
            found |= _stacked(f"level_discriminators.{level}.layers", [module])
        return found


def _modules(stacked: Discriminators) -> nn.ModuleList:
    modules = nn.ModuleList()
    for slot in range(stacked.slots):
        layers: list[nn.Module] = []
        for weight, bias in zip(stacked.weights, stacked.biases):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            linear.weight.data = weight.data[slot].T.contiguous()
            linear.bias.data = bias.data[slot, 0].clone()
            layers += [linear, nn.ReLU(), nn.Dropout(DROPOUT)]
        modules.append(nn.Sequential(*layers[:-2]))
    return modules


def _stacked(name: str, modules: list[nn.Module]) -> dict[str, Tensor]:
    linears = [[layer for layer in m.children() if isinstance(layer, nn.Linear)] for m in modules]
    found = {}
    for layer in range(len(linears[0])):
        column = [row[layer] for row in linears]
        found[f"{name}.weights.{layer}"] = torch.stack([_grad(m.weight).T for m in column])
        found[f"{name}.biases.{layer}"] = torch.stack([_grad(m.bias)[None] for m in column])
    return found


def _grad(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
