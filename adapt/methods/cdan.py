"""CDAN (Long et al., NeurIPS 2018): the discriminator sees each feature together with its prediction.

`cdan-e` is the same with weights by entropy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from adapt import conditional
from adapt.conditional import ConditionalOptions, play
from adapt.data import SourceBatch, TargetBatch
from adapt.methods import Networks, Progress, StepLosses


@dataclass(frozen=True, kw_only=True)
class Options(ConditionalOptions):
    """CDAN adds nothing to what it shares with CDAN-E."""


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
    """L = L_s + domain_weight mean_b BCE(D(h_b), d_b) over the videos of both domains."""
    game = play(networks, source, target, config, progress)
    domain = torch.cat(game.bce).mean()
    parts = {"source": game.label, "domain": domain}
    return StepLosses(total=game.label + config.domain_weight * domain, parts=parts)
