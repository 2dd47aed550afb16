"""CDAN-E (Long et al., NeurIPS 2018): CDAN in which sure predictions count more, w = 1 + exp(-H(g)).

Its authors' code and their later library (Transfer-Learning-Library, TLL) differ in what the weights are
divided by and in whether the classifier learns through them; both can be had.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from adapt import conditional
from adapt.conditional import ConditionalOptions, play, reversal
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import reverse
from adapt.methods import Networks, Progress, StepLosses
from adapt.parallel import averaged
from store.options import option

TINY = 1e-5
"""Added to probabilities before their logarithm, as in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class Options(ConditionalOptions):
    """How videos are weighted by the entropy of their predictions."""

    weighting: str = field(
        default="authors",
        metadata=option(
            "authors: the weights of each domain sum to 1/2, and a reversed gradient through them trains "
            "the classifier; tll: constants with mean 1 over both domains.",
            choices=("authors", "tll"),
        ),
    )


READS = conditional.READS
SETTINGS = conditional.SETTINGS
build = conditional.build_conditional


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s + domain_weight L_d, with w_b = 1 + exp(-H(g_b)).

    `authors`: L_d = 1/2 sum_(b of source) w_b BCE_b / W_s + 1/2 sum_(b of target) w_b BCE_b / W_t, where the
    sums W of a domain's weights are constants and the w are not: behind gradient reversal they reach encoder
    and classifier. `tll`: L_d = mean_b (w_b / mean w) BCE_b over both domains, all weights constants.
    """
    game = play(networks, source, target, config, progress)
    weights = [1 + torch.exp(-_entropy(y_BN, config, progress)) for y_BN in game.logits]
    if config.weighting == "authors":
        halves = [
            (w_B * bce_B).mean() / averaged(w_B.detach().mean())
            for w_B, bce_B in zip(weights, game.bce)
        ]
        domain = (halves[0] + halves[1]) / 2
    else:
        w_B = torch.cat(weights)
        domain = (w_B * torch.cat(game.bce)).mean() / averaged(w_B.mean())
    parts = {"source": game.label, "domain": domain}
    return StepLosses(total=game.label + config.domain_weight * domain, parts=parts)


def _entropy(logits_BN: Tensor, config: Options, progress: Progress) -> Tensor:
    """H(g) = -sum_n g_n log(g_n + 1e-5), (B, N) -> (B,): reversed, or with `tll` a constant."""
    if config.weighting == "tll":
        logits_BN = logits_BN.detach()
    g_BN = logits_BN.softmax(dim=1)
    return reverse(-(g_BN * (g_BN + TINY).log()).sum(dim=1), reversal(config, progress, 0))
