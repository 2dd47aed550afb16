"""DAN (Long et al., ICML 2015) on videos: both domains' features get the same kernel means.

The preset `own` is as TA3N's authors compare with it: five frames, their encoder, optimiser and start,
and their estimate. `--mmd-estimate xlearn` and `tll` are those of the authors' group.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from adapt.config import ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.initialise import initialise
from adapt.kernels import ESTIMATES, discrepancy
from adapt.losses import source_loss
from adapt.methods import Networks, Progress, StepLosses
from adapt.model import VideoClassifier
from adapt.parallel import gathered
from adapt.schedule import slow_ramp
from adapt.settings import ROBUST, TA3N_FAMILY
from store.options import option


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """The weight and the estimate of the discrepancy."""

    mmd_weight: float = field(
        default=1.0,
        metadata=option("Weight of the discrepancy (TA3N's authors do not say theirs)."),
    )
    mmd_ramp: str = field(
        default="none",
        metadata=option(
            "slow: the weight grows as 2 / (1 + exp(-e / E)) - 1, e the epoch from 1 and E all of them, "
            "so that it ends at 0.462 of itself (TA3N's code); none: it is constant.",
            choices=("none", "slow"),
        ),
    )
    mmd_estimate: str = field(
        default="ta3n",
        metadata=option(
            "ta3n: means over all pairs, of the video feature before its dropout; xlearn, tll: without "
            "the pairs of a row with itself, of the feature after its dropout, with the bandwidths of "
            "these two libraries.",
            choices=tuple(ESTIMATES),
        ),
    )


READS = names_of(TRAINING, ENCODER)
LEAST_VIDEOS = 2  # the estimates compare pairs of a domain
SETTINGS = {"own": TA3N_FAMILY, "shared": ROBUST}


def build(config: Options, width: int, classes: int) -> Networks:
    """Nothing but the predicting network is trained."""
    model = VideoClassifier(config, width, classes)
    initialise(model, config.initialisation)
    return Networks(model)


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s + weight * MMD^2(source features, target features), see `adapt.kernels`."""
    return aligned(networks, source, target, config, progress, joint=False)


def aligned(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
    *,
    joint: bool,
) -> StepLosses:
    """The losses of DAN, or with `joint` those of JAN: the classifier's logits are a second layer.

    The batches are cut to the smaller one, as TA3N's authors do.
    """
    model = networks.model
    features, logits = [], []
    # Passed separately, so that each domain's batch norm, if there is one, sees its own statistics.
    for batch in (source, target):
        video_BC = model.encode(batch.features_BTD).mean(dim=1)
        dropped_BC = model.dropout(video_BC)
        logits.append(model.classify_video(dropped_BC))
        seen_BC = video_BC if config.mmd_estimate == "ta3n" else dropped_BC
        features.append(seen_BC.to(logits[-1].dtype))
    label = source_loss(logits[0], source.labels_B)
    joined = [
        [gathered(x) for x in layer] for layer in ((features, logits) if joint else (features,))
    ]
    rows = min(len(x) for x in joined[0])
    layers = [(s[:rows], t[:rows]) for s, t in joined]
    found = discrepancy(layers, ESTIMATES[config.mmd_estimate])
    weight = config.mmd_weight * (slow_ramp(progress) if config.mmd_ramp == "slow" else 1)
    return StepLosses(total=label + weight * found, parts={"source": label, "discrepancy": found})
