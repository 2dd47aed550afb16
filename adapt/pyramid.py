"""The adaptation branch: aggregation pyramid, slot discriminators, level attention. Training only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapt.discriminators import Discriminators, domain_losses, reverse

if TYPE_CHECKING:
    from adapt.methods.ma2l_td import Options

EPSILON = 1e-6
"""Added to losses before they are normalised to weights: a confident discriminator's can all be 0."""


class Aggregator(nn.Module):
    """H^m with its residual: from level m to level m+1 (eq. 10 and 12).

    H^m is Conv1d(C, C, q, dilation d_m), ReLU, Conv1d(C, C, 1).
    """

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.convolutions = nn.Sequential(
            nn.Conv1d(width, width, kernel, dilation=dilation),
            nn.ReLU(),
            nn.Conv1d(width, width, 1),
        )

    def receptive_fields(self, x: Tensor) -> Tensor:
        """Slots of every receptive field, (B, S, ...) -> (B, S', q, ...): j, j+d, ..., j+(q-1)d."""
        slots = x.shape[1] - (self.kernel - 1) * self.dilation
        return torch.stack(
            [x[:, s * self.dilation : s * self.dilation + slots] for s in range(self.kernel)], dim=2
        )

    def attention(self, losses_BS: Tensor) -> Tensor:
        """Slot losses (B, S) -> weights within every receptive field (B, S', q).

        What is confused (large loss) weighs more. No path for gradients.
        """
        return normalised(self.receptive_fields(losses_BS.detach()))

    def forward(self, features_BSC: Tensor, losses_BS: Tensor | None) -> Tensor:
        """Features of level m (B, S, C) and their slot losses, or None for equal weights -> (B, S', C)."""
        fields_BSqC = self.receptive_fields(features_BSC)
        if losses_BS is None:
            residual = fields_BSqC.mean(dim=2)
        else:
            residual = (self.attention(losses_BS)[..., None] * fields_BSqC).sum(dim=2)
        # The convolutions as products of whole receptive fields: on a CPU a small dilated Conv1d is slow.
        hidden = F.relu(_product(fields_BSqC, self.convolutions[0]))
        return _product(hidden[:, :, None], self.convolutions[2]) + residual  # eq. 12


def _product(fields_BSqC: Tensor, convolution: nn.Module) -> Tensor:
    """A Conv1d over receptive fields that are already gathered -> (B, S, C)."""
    assert isinstance(convolution, nn.Conv1d)
    weight = convolution.weight
    if weight.shape[2] > 1:  # a transposed gradient of a kernel of 1 makes DDP warn of its strides
        weight = weight.transpose(1, 2)
    weight = weight.flatten(1)  # (out, C, q) -> (out, q C)
    return F.linear(fields_BSqC.flatten(2), weight, convolution.bias)


def normalised(losses: Tensor) -> Tensor:
    """Non-negative losses -> weights that sum to 1 over the last dimension; equal where all are 0."""
    shifted = losses + EPSILON
    return shifted / shifted.sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class PyramidLosses:
    """What the branch computes of a batch. L levels with discriminators, S_m slots of level m."""

    adversarial: Tensor
    """L_adv, mean over the videos of both domains (eq. 8)."""
    level_attention: Tensor | None
    """Loss of the trained level discriminators, None where none are trained."""
    slot_losses: list[Tensor]
    """l_j^m, per level with discriminators (B, S_m)."""
    level_weights_BL: Tensor
    """omega^m per video."""


class AdaptationBranch(nn.Module):
    """Levels 1..M over the encoder's features of both domains (sec. 3.2 and 3.3)."""

    def __init__(self, config: Options) -> None:
        super().__init__()
        self.config = config
        geometry = config.geometry
        width, hidden = config.width, config.discriminator_width
        self.aggregators = nn.ModuleList(
            Aggregator(width, config.kernel, dilation) for dilation in geometry.dilations
        )
        self.discriminators = nn.ModuleDict(
            {
                str(level): Discriminators(
                    geometry.slots[level - 1],
                    width,
                    hidden,
                    shared=config.discriminators == "shared",
                )
                for level in config.discriminated_levels
            }
        )
        self.level_discriminators = nn.ModuleDict(
            {str(level): _level_discriminator(config) for level in config.discriminated_levels}
            if config.level_weights != "equal"
            else {}
        )

    def forward(
        self,
        features_BTC: Tensor,
        domains_B: Tensor,
        coefficient: float,
        source_videos: int | None = None,
    ) -> PyramidLosses:
        """Losses of a batch of both domains.

        Args:
            features_BTC: f^1, the encoder's output.
            domains_B: d of every video, source 0, target 1.
            coefficient: of the gradient reversal.
            source_videos: how many videos, the first ones, are the source's; half if not given.
        """
        config = self.config
        at_discriminators = config.reversal == "discriminators"
        f_BSC = features_BTC if at_discriminators else reverse(features_BTC, coefficient)
        slot_losses: list[Tensor] = []
        level_features: list[Tensor] = []
        for level in range(1, config.levels + 1):
            losses_BS = None
            if str(level) in self.discriminators:
                seen = reverse(f_BSC, coefficient) if at_discriminators else f_BSC
                logits_BS = self.discriminators[str(level)](seen, source_videos)
                losses_BS = domain_losses(logits_BS, domains_B)  # eq. 11
                slot_losses.append(losses_BS)
                level_features.append(f_BSC.mean(dim=1).detach())  # eq. 5
            if level < config.levels:
                # A level without discriminators has no losses to attend by: equal weights.
                attention = losses_BS if config.aggregation == "attention" else None
                f_BSC = self.aggregators[level - 1](f_BSC, attention)
                if config.bound == "layernorm":
                    f_BSC = F.layer_norm(f_BSC, f_BSC.shape[-1:])
        reduce = torch.sum if config.slot_reduction == "sum" else torch.mean
        level_losses_BL = torch.stack(
            [reduce(loss_BS, dim=1) for loss_BS in slot_losses], dim=1
        )  # eq. 3
        weights_BL, trained = self._level_weights(level_features, domains_B, source_videos)
        return PyramidLosses(
            adversarial=(weights_BL * level_losses_BL).sum(dim=1).mean(),  # eq. 8
            level_attention=trained,
            slot_losses=slot_losses,
            level_weights_BL=weights_BL,
        )

    def _level_weights(
        self, features: list[Tensor], domains_B: Tensor, source_videos: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """omega (B, L) and, where G^m is trained, its loss."""
        if self.config.level_weights == "equal":
            return domains_B.new_full((len(domains_B), len(features)), 1 / len(features)), None
        # In the order of the levels, which is the order of `features`.
        pairs = list(zip(self.level_discriminators.values(), features))
        if self.config.level_weights == "entropy":
            z_BL = torch.cat([g(F_BC) for g, F_BC in pairs], dim=1).detach().to(domains_B.dtype)
            entropy_BL = F.binary_cross_entropy_with_logits(
                z_BL, torch.sigmoid(z_BL), reduction="none"
            )
            return normalised(entropy_BL), None
        logits_BL = torch.cat([g(F_BC, source_videos) for g, F_BC in pairs], dim=1)
        losses_BL = domain_losses(logits_BL, domains_B)  # eq. 6
        return normalised(losses_BL.detach()), losses_BL.sum(dim=1).mean()  # eq. 7


class _LevelDiscriminator(nn.Module):
    """G^m: the same three layers as a slot discriminator, (B, C) -> (B, 1)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = Discriminators(1, width, hidden)

    def forward(self, features_BC: Tensor, source_videos: int | None) -> Tensor:
        logits: Tensor = self.layers(features_BC[:, None], source_videos)
        return logits


def _level_discriminator(config: Options) -> nn.Module:
    if config.level_weights == "entropy":
        # The authors' is one linear layer that no loss reaches: it keeps its random start.
        return nn.Linear(config.width, 1).requires_grad_(False)
    return _LevelDiscriminator(config.width, config.discriminator_width)
