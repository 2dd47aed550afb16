"""Target only, READS TARGET LABELS: source only's training on the target's labelled training videos.

It is the bound of what adaptation could reach with this encoder, not a way to adapt.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.methods import source_only
from adapt.settings import PAPER, ROBUST, TA3N_FAMILY

READS_TARGET_LABELS = True


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """Target only has no options of its own."""


READS = names_of(TRAINING, ENCODER)
SETTINGS = {"paper": PAPER, "own": TA3N_FAMILY, "shared": ROBUST}
build = source_only.build
losses = source_only.losses  # of the labelled batch, which here is the target's
