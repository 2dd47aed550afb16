"""CORAL in front of everything: the frames of one domain get the other's mean and covariance.

Sun, Feng, Saenko (AAAI 2016). With m and C the mean and covariance of all frames of a domain's training
videos, no label looked at, the frames x of domain a are mapped towards domain b by

    x <- (x - m_a) C_a'^(-1/2) C_b'^(1/2) + m_b,    C' = C + epsilon lambda I,

with symmetric roots and lambda the largest eigenvalue of the same C, so that a domain's scale never decides
how much of its own covariance is seen. The map is computed once before training. Training, scores and
evaluation of a run read the mapped domain through `RecolouredBank`, so that no method has to know of it;
where it is the target, the map stands in front of the model in the checkpoint, for features as they are
stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapt.bank import Bank
from adapt.config import CORAL_WAYS, AdaptConfig
from adapt.data import TrainingData
from adapt.loading import Loaded
from adapt.losses import float64
from adapt.parallel import averaged, rank, world
from store.errors import RunError

SOURCE_TO_TARGET = CORAL_WAYS[0]
_BLOCK = 4096
"""Frames that are read and multiplied at once."""


@dataclass(frozen=True)
class Moments:
    """Mean (D,) and covariance (D, D) of the rows of one domain, float64."""

    mean_D: Tensor
    covariance_DD: Tensor


def moments(bank: Bank, device: torch.device) -> Moments:
    """The moments of all frames of all videos, in one pass that holds a block of frames at a time.

    Sums of products are float64: the number types of stores leave more than enough digits for them. Several
    processes read a share of the videos each.

    Args:
        device: where the bank's features come to.

    Raises:
        RunError: there is only one frame.
    """
    width = bank.width + 1
    sums = float64(torch.zeros(width, width, device=device))
    for block_RD in _blocks(bank):
        rows = float64(torch.cat([block_RD, block_RD.new_ones(len(block_RD), 1)], dim=1))
        sums.addmm_(rows.T, rows)
    sums = averaged(sums) * world()
    count = sums[-1, -1]
    if count < 2:
        raise RunError("--input-coral needs more than one frame of each domain. Add videos.")
    mean_D = sums[-1, :-1] / count
    centred_DD = sums[:-1, :-1] / count - mean_D.outer(mean_D)
    return Moments(mean_D, centred_DD * (count / (count - 1)))


def _blocks(bank: Bank) -> Iterator[Tensor]:
    """The frames of this process's share of the videos, (rows, D) at a time."""
    waiting: list[Tensor] = []
    for video in range(rank(), len(bank), world()):
        for frames_T in torch.arange(int(bank.counts_V[video])).split(_BLOCK):
            waiting.append(bank.gather(torch.tensor([video]), frames_T[None])[0])
            if sum(map(len, waiting)) >= _BLOCK:
                yield torch.cat(waiting)
                waiting = []
    if waiting:
        yield torch.cat(waiting)


def recolouring_matrix(a_DD: Tensor, b_DD: Tensor, epsilon: Callable[[Tensor], Tensor]) -> Tensor:
    """C_a'^(-1/2) C_b'^(1/2) of two covariances (D, D), C' = C + epsilon I, with symmetric roots.

    Args:
        epsilon: of a covariance's eigenvalues in ascending order, (D,), what is added to each of them.

    Raises:
        RunError: a covariance is zero.
    """
    roots = []
    for covariance_DD, exponent in ((a_DD, -0.5), (b_DD, 0.5)):
        values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
        if not values_D[-1] > 0:
            raise RunError("CORAL: a domain has no covariance, all its features are the same.")
        values_D = values_D.clamp_min(0) + epsilon(values_D)
        roots.append((vectors_DD * values_D**exponent) @ vectors_DD.T)
    return roots[0] @ roots[1]


class Recolouring(nn.Module):
    """The map of one domain's features to the other's moments; its values are buffers."""

    before_D: Tensor
    matrix_DD: Tensor
    after_D: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("before_D", torch.zeros(width))
        self.register_buffer("matrix_DD", torch.zeros(width, width))
        self.register_buffer("after_D", torch.zeros(width))

    def fit(self, mapped: Bank, towards: Bank, share: float) -> None:
        """Take the values from the frames of both domains; see the module's formula.

        Raises:
            RunError: a domain has no covariance.
        """
        a, b = (moments(bank, self.matrix_DD.device) for bank in (mapped, towards))
        self.before_D.copy_(a.mean_D)
        self.after_D.copy_(b.mean_D)
        matrix_DD = recolouring_matrix(
            a.covariance_DD, b.covariance_DD, lambda values_D: share * values_D[-1]
        )
        self.matrix_DD.copy_(matrix_DD)

    def forward(self, features: Tensor) -> Tensor:
        """Features (..., D) of the domain that is mapped -> (..., D)."""
        mapped: Tensor = (features - self.before_D) @ self.matrix_DD + self.after_D
        return mapped


def recolouring_for(config: AdaptConfig, width: int) -> Recolouring | None:
    """A map that is to be fitted or loaded, None with `--input-coral none`."""
    return None if config.input_coral == "none" else Recolouring(width)


class RecolouredBank:
    """A bank whose features are mapped as they are read; see `adapt.bank.Bank`."""

    def __init__(self, bank: Bank, recolouring: Recolouring) -> None:
        self._bank, self._recolouring = bank, recolouring
        self.counts_V, self.width = bank.counts_V, bank.width

    def __len__(self) -> int:
        return len(self._bank)

    @torch.no_grad()
    def gather(self, videos_B: Tensor, frames_BT: Tensor) -> Tensor:
        """See `Bank`."""
        mapped: Tensor = self._recolouring(self._bank.gather(videos_B, frames_BT))
        return mapped


def _mapped_domain(config: AdaptConfig) -> str:
    return "source" if config.input_coral == SOURCE_TO_TARGET else "target"


def recoloured(
    config: AdaptConfig, loaded: Loaded, recolouring: Recolouring | None, *, fit: bool
) -> Loaded:
    """The same videos, those of one domain mapped wherever they are read; without a map `loaded` itself.

    Args:
        fit: compute the map from the training videos first; it was not loaded.

    Raises:
        RunError: as `Recolouring.fit`.
    """
    if recolouring is None:
        return loaded
    source, target = loaded.data.source, loaded.data.target
    if _mapped_domain(config) == "source":
        if fit:
            recolouring.fit(source, target, config.input_coral_epsilon)
        held_out = loaded.source_held_out_bank
        data = dataclasses.replace(loaded.data, source=RecolouredBank(source, recolouring))
        bank = None if held_out is None else RecolouredBank(held_out, recolouring)
        return dataclasses.replace(loaded, data=data, source_held_out_bank=bank)
    if fit:
        recolouring.fit(target, source, config.input_coral_epsilon)
    data = dataclasses.replace(loaded.data, target=RecolouredBank(target, recolouring))
    held_out_bank = RecolouredBank(loaded.held_out_bank, recolouring)
    return dataclasses.replace(loaded, data=data, held_out_bank=held_out_bank)


def check_recoloured(config: AdaptConfig, data: TrainingData) -> None:
    """Refuse to train on features as they are stored where they are to be mapped.

    Raises:
        ValueError: the data did not go through `recoloured`.
    """
    if config.input_coral == "none":
        return
    bank = data.source if _mapped_domain(config) == "source" else data.target
    if not isinstance(bank, RecolouredBank):
        raise ValueError("--input-coral: these features are not mapped, see adapt.recolour.")


class Recoloured(nn.Module):
    """A model of mapped features behind the map: features (B, T, D) of the target -> logits (B, N)."""

    def __init__(self, recolouring: Recolouring, model: nn.Module) -> None:
        super().__init__()
        self.recolouring = recolouring
        self.model = model

    def forward(self, features_BTD: Tensor) -> Tensor:
        """Map, then predict."""
        logits_BN: Tensor = self.model(self.recolouring(features_BTD))
        return logits_BN


def predicting(config: AdaptConfig, model: nn.Module, recolouring: Recolouring | None) -> nn.Module:
    """What predicts from the target's features as they are stored, for the checkpoint.

    That is the model itself unless the target is mapped; mapping the source leaves the target alone.
    """
    if recolouring is None or _mapped_domain(config) == "source":
        return model
    return Recoloured(recolouring, model)
