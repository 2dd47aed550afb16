"""JAN (Long et al., ICML 2017) on videos: the joint distribution of features and predictions is aligned.

The preset `own` is as TA3N's authors compare with it: raw logits with two kernels, the video feature with
five. `--mmd-estimate xlearn` and `tll` are those of the authors' group, with probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapt.config import ENCODER, TRAINING, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.methods import Networks, Progress, StepLosses, dan
from adapt.settings import ROBUST, TA3N_FAMILY


@dataclass(frozen=True, kw_only=True)
class Options(dan.Options):
    """The same options as DAN's."""


READS = names_of(TRAINING, ENCODER)
LEAST_VIDEOS = 2  # the estimates compare pairs of a domain
SETTINGS = {"own": TA3N_FAMILY, "shared": ROBUST}
build = dan.build


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s + weight * JMMD^2, whose kernel is k(feature, feature') k(output, output')."""
    return dan.aligned(networks, source, target, config, progress, joint=True)
