"""MA2L-TD: multi-level attentive adversarial learning with temporal dilation (Chen et al., WACV 2022).

Above 250 lines because every option is documented where it is declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adapt.config import ADVERSARY, ENCODER, TRAINING, AdaptConfig, names_of
from adapt.data import SourceBatch, TargetBatch
from adapt.discriminators import domains_of
from adapt.geometry import MOST_FRAMES, MOST_LEVELS, Geometry
from adapt.initialise import initialise
from adapt.losses import diversity, source_loss, target_entropy
from adapt.methods import Networks, Progress, StepLosses, TimeWeights
from adapt.model import VideoClassifier
from adapt.pyramid import AdaptationBranch, PyramidLosses
from adapt.schedule import reversal_coefficient
from adapt.settings import PAPER, ROBUST
from adapt.slot_attention import slot_attention
from store.errors import ConfigError, counted
from store.options import option


@dataclass(frozen=True, kw_only=True)
class Options(AdaptConfig):
    """The pyramid, its discriminators, and the losses on the target. Defaults are the paper's."""

    kernel: int = field(
        default=3,
        metadata=option("Slots that one aggregation joins, q.", least=2, most=MOST_FRAMES),
    )
    levels: int = field(
        default=4, metadata=option("Levels of the pyramid, M.", least=2, most=MOST_LEVELS)
    )
    discriminator_width: int = field(
        default=1024,
        metadata=option("Width of the discriminators' hidden layers.", least=1, most=65_536),
    )
    discriminators: str = field(
        default="slot",
        metadata=option(
            "One discriminator for each slot, or one for each level (ablation of table 4).",
            choices=("slot", "shared"),
        ),
    )
    adversarial_levels: str = field(
        default="all",
        metadata=option(
            "Levels with discriminators: all of them, or frames and video only (ablation of table 4).",
            choices=("all", "frame-video"),
        ),
    )
    first_level: bool = field(
        default=True, metadata=option("Put discriminators at level 1, the frames (eq. 3).")
    )
    reversal: str = field(
        default="discriminators",
        metadata=option(
            "Where the gradient is reversed: at the input of every discriminator, so that the "
            "aggregators play against them, or at the input of the first aggregator, so that they "
            "play with them.",
            choices=("discriminators", "aggregators"),
        ),
    )
    aggregation: str = field(
        default="attention",
        metadata=option(
            "Weights within a receptive field: by the slots' losses (eq. 12), or 1/q each.",
            choices=("attention", "mean"),
        ),
    )
    level_weights: str = field(
        default="loss",
        metadata=option(
            "Weights of the levels: by the losses of trained level discriminators (eq. 7), by the "
            "entropy of untrained ones (authors' code), or equal.",
            choices=("loss", "entropy", "equal"),
        ),
    )
    slot_reduction: str = field(
        default="sum",
        metadata=option(
            "How the slots' losses make a level's: the sum (eq. 3) or the mean.",
            choices=("sum", "mean"),
        ),
    )
    bound: str = field(
        default="layernorm",
        metadata=option(
            "What keeps the aggregators' output bounded: a layer norm after each, or nothing.",
            choices=("layernorm", "none"),
        ),
    )
    entropy_weight: float = field(
        default=1.0, metadata=option("Weight of the target entropy (1 in eq. 9).")
    )
    entropy_reduction: str = field(
        default="mean",
        metadata=option(
            "How the target entropy is taken over the classes: the sum (eq. 2) or the mean.",
            choices=("sum", "mean"),
        ),
    )
    diversity_weight: float = field(
        default=0.0,
        metadata=option("Weight of the reward for the entropy of the mean target prediction."),
    )

    @classmethod
    def derived(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The pyramid fixes the number of frames."""
        kernel, levels = (
            values.get(name, cls.__dataclass_fields__[name].default)
            for name in ("kernel", "levels")
        )
        return {"frames": Geometry(kernel, levels).frames}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adversarial_levels == "frame-video" and not self.first_level:
            raise ConfigError(
                "--adversarial-levels frame-video needs discriminators at the frames. Add "
                "--first-level."
            )
        if self.frames != self.geometry.frames:
            smaller = [Geometry(self.kernel, levels) for levels in range(2, self.levels)]
            fitting = [g for g in smaller if g.frames <= self.frames]
            hint = "".join(f" or --levels {g.levels} --frames {g.frames}" for g in fitting[-1:])
            raise ConfigError(
                f"kernel {self.kernel} with {counted(self.levels, 'level')} needs "
                f"{counted(self.geometry.frames, 'frame')}, "
                f"got frames={self.frames}. Use --frames {self.geometry.frames}{hint}."
            )

    @property
    def geometry(self) -> Geometry:
        """The pyramid that kernel and levels make."""
        return Geometry(self.kernel, self.levels)

    @property
    def discriminated_levels(self) -> tuple[int, ...]:
        """The numbers, counted from 1, of the levels that have slot discriminators."""
        if self.adversarial_levels == "frame-video":
            return (1, self.levels)
        return tuple(range(1 if self.first_level else 2, self.levels + 1))


READS = names_of(TRAINING, ADVERSARY, ENCODER)
BENCHMARKS = {"ucf-hmdb-full": {"levels": 5}}
_GAME = {"adversarial_weight": 0.1, "adversarial_ramp": "dann"}
_INFORMATION_MAXIMISATION = {
    "entropy_reduction": "sum",
    "entropy_weight": 0.1,
    "diversity_weight": 0.1,
}
SETTINGS = {
    # Every component of the paper, and what makes it train without a label of the target (ours).
    "robust": {**ROBUST, **_GAME, **_INFORMATION_MAXIMISATION, "adversarial_weight": 0.3},
    # One discriminator for the frames and one for the video: cheaper (ours, benchmarks/presets.md).
    "light": {
        **ROBUST,
        **_GAME,
        **_INFORMATION_MAXIMISATION,
        "adversarial_weight": 0.3,
        "discriminators": "shared",
        "adversarial_levels": "frame-video",
        "aggregation": "mean",
        "level_weights": "equal",
        "slot_reduction": "mean",
    },
    # Three deviations, without which it does not beat source-only on real features: the bound, the
    # adversarial weight (1 in eq. 9) and the mean of the entropy (eq. 2 sums), which as a sum hardens
    # early mistakes (benchmarks/README.md). Bound and mean are the defaults of the fields.
    "paper": {**PAPER, **_GAME},
    # As the authors' code does it.
    "released": {
        **_GAME,
        "initialisation": "xavier",
        "first_level": False,
        "reversal": "aggregators",
        "aggregation": "mean",
        "level_weights": "entropy",
        "slot_reduction": "mean",
        "bound": "none",
        "learning_rate": 3e-5,
        "rate_decay": "none",
        "weight_decay": 5e-4,
        "draws": 5,
        "eval_draws": 5,
        "source_sampling": "smallest-class",
    },
}


def build(config: Options, width: int, classes: int) -> Networks:
    """The predicting network, and the aggregators and discriminators of the training."""
    networks = Networks(VideoClassifier(config, width, classes), AdaptationBranch(config))
    initialise(networks, config.initialisation)
    return networks


def _level_names(config: Options) -> list[str]:
    """`level 1, 9 slots` of each level with discriminators."""
    slots = config.geometry.slots
    return [f"level {m}, {counted(slots[m - 1], 'slot')}" for m in config.discriminated_levels]


def losses(
    networks: Networks,
    source: SourceBatch,
    target: TargetBatch,
    config: Options,
    progress: Progress,
) -> StepLosses:
    """L = L_s + L_t + L_adv behind gradient reversal: one backward pass for both lines of eq. 9.

    L_adv = mean_b sum_m omega_b^m L_b^m (eq. 8). The level discriminators have a loss of their own,
    sum_m BCE(G^m(F^m), d) (eq. 6), which reaches nothing else because F^m is detached.
    """
    model = networks.model
    # Passed separately, so that each domain's batch norm sees its own statistics.
    source_BTC, target_BTC = model.encode(source.features_BTD), model.encode(target.features_BTD)
    pyramid: PyramidLosses = networks.branch(
        torch.cat([source_BTC, target_BTC]),
        domains_of(source, target),
        reversal_coefficient(config, progress.share),
        len(source_BTC),
    )
    target_BN = model.classify(target_BTC)
    parts = {
        "source": source_loss(model.classify(source_BTC), source.labels_B),
        "entropy": target_entropy(target_BN, config.entropy_reduction),
        "adversarial": pyramid.adversarial,
    }
    total = (
        parts["source"] + config.entropy_weight * parts["entropy"] + parts["adversarial"]
    )  # eq. 9
    if config.diversity_weight:
        parts["diversity"] = diversity(target_BN)
        total = total - config.diversity_weight * parts["diversity"]
    if pyramid.level_attention is not None:
        parts["level_attention"] = pyramid.level_attention
        total = total + pyramid.level_attention
    if config.level_weights != "equal":
        weights_L = pyramid.level_weights_BL.mean(dim=0)
        parts |= {f"level_weights/{n}": w for n, w in zip(_level_names(config), weights_L)}
    return StepLosses(total=total, parts=parts)


def attention(
    networks: Networks, features_BTD: Tensor, config: Options, *, source: bool
) -> TimeWeights | None:
    """The slots' attention (eq. 12), followed from the last level down to the frames.

    What is easily told apart weighs little. With `--aggregation mean` there is none.
    """
    if config.aggregation == "mean":
        return None
    return slot_attention(networks.branch, networks.model.encode(features_BTD), source=source)
