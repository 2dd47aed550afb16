"""Options of the adapt stage. No torch here, so `--help` answers at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapt.geometry import Geometry
from adapt.presets import BENCHMARKS, DEFAULT_PRESETS, METHOD_SETTINGS, PAIR_SETTINGS, PRESETS
from store.errors import ConfigError
from store.options import check_options, option

METHODS = tuple(DEFAULT_PRESETS)
BANKS = ("auto", "device", "host", "mapped")
"""Where features are while training; see `adapt.bank`."""


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Everything that decides the outcome of a run, resolved. Make one with `make`.

    Raises:
        ConfigError: a value out of range, or values that contradict each other.
    """

    source: str = field(metadata=option("Labelled domain, e.g. ucf.", required=True))
    target: str = field(metadata=option("Unlabelled domain, e.g. hmdb.", required=True))
    benchmark: str = field(
        metadata=option("One of `manifest list`.", default_text="the fullest that has both domains")
    )
    method: str = field(default="ma2l-td", metadata=option("What to train.", *METHODS))
    preset: str = field(
        default="tuned",
        metadata=option(
            "MA2L-TD as in the paper, as in its authors' code or as tuned here, or TA3N's settings; any "
            "option below overrides a point.",
            *PRESETS,
            default_text="; ".join(f"{method}: {name}" for method, name in DEFAULT_PRESETS.items()),
        ),
    )
    seed: int = field(default=0, metadata=option("Seed of every random choice."))
    epochs: int = field(
        default=300,
        metadata=option(
            "Passes over the target's training videos (300: MA2L-TD's authors').", least=1
        ),
    )
    batch_size: int = field(default=32, metadata=option("Source videos per step.", least=1))
    target_batch: str = field(
        default="equal",
        metadata=option(
            "Target videos per step: as many, or in proportion to the domains' training videos, so that "
            "both end a pass together.",
            "equal",
            "proportional",
        ),
    )
    kernel: int = field(default=3, metadata=option("Slots that one aggregation joins, q.", least=1))
    levels: int = field(default=4, metadata=option("Levels of the pyramid, M.", least=1))
    frames: int = field(
        default=0,
        metadata=option(
            "Frames sampled per video; the pyramid fixes it.",
            default_text="from kernel and levels; ta3n: 5",
            least=1,
        ),
    )
    train_sampling: str = field(
        default="jittered",
        metadata=option(
            "Training frames: a random one of each segment, or its centre.", "jittered", "centred"
        ),
    )
    encoder: str = field(
        default="two-layer",
        metadata=option(
            "two-layer: twice Linear, BatchNorm, ReLU, dropout between (sec. 3.1); one-layer: Linear "
            "started from N(0, 0.001), ReLU, dropout (TA3N).",
            "two-layer",
            "one-layer",
        ),
    )
    input_norm: bool = field(
        default=False,
        metadata=option(
            "Batch norm of the backbone's features in front of the encoder, in training by each domain's "
            "own statistics."
        ),
    )
    width: int = field(
        default=256, metadata=option("Width of the task-driven features, C.", least=1)
    )
    dropout: float = field(
        default=0.5, metadata=option("Dropout of the encoder and of TA3N's video feature.")
    )
    discriminator_width: int = field(
        default=1024,
        metadata=option(
            "Hidden width of MA2L-TD's discriminators; those of dann and ta3n are as wide as what they "
            "look at.",
            least=1,
        ),
    )
    discriminators: str = field(
        default="slot",
        metadata=option(
            "One discriminator per slot, or one per level (ablation of table 4).", "slot", "shared"
        ),
    )
    adversarial_levels: str = field(
        default="all",
        metadata=option(
            "Levels with discriminators: all, or frame and video only (ablation of table 4).",
            "all",
            "frame-video",
        ),
    )
    first_level: bool = field(metadata=option("Discriminators at level 1, the frames (eq. 3)."))
    reversal: str = field(
        metadata=option(
            "Where the gradient turns: at every discriminator's input, so that the aggregators play "
            "against them, or at the first aggregator's input.",
            "discriminators",
            "aggregators",
        )
    )
    aggregation: str = field(
        metadata=option("Weights over a receptive field: eq. 12, or 1/q.", "attention", "mean")
    )
    level_weights: str = field(
        metadata=option(
            "Weights over levels: loss of trained level discriminators (eq. 7), entropy of untrained "
            "ones (authors' code), or equal.",
            "loss",
            "entropy",
            "equal",
        )
    )
    slot_reduction: str = field(
        metadata=option("A level's loss over its slots: eq. 3 sums.", "sum", "mean")
    )
    bound: str = field(
        metadata=option("Layer norm after every aggregation, or none.", "layernorm", "none")
    )
    adversarial_weight: float = field(metadata=option("Largest reversal coefficient."))
    adversarial_ramp: str = field(
        default="dann",
        metadata=option(
            "dann: the reversal coefficient grows as 2/(1+exp(-10p)) - 1, p the finished share of the "
            "epochs; none: constant.",
            "dann",
            "none",
        ),
    )
    frame_reversal: float = field(
        default=0.5,
        metadata=option("dann, ta3n: factor of the reversal coefficient at the frames."),
    )
    relation_reversal: float = field(
        default=0.75,
        metadata=option(
            "ta3n: the same at its relations.", default_text="0.75; ta3n, hmdb -> ucf: 1.0"
        ),
    )
    video_reversal: float = field(
        default=0.75, metadata=option("dann, ta3n: the same at the videos.")
    )
    entropy_reduction: str = field(
        metadata=option("Target entropy over the classes: eq. 2 sums.", "sum", "mean")
    )
    entropy_weight: float = field(
        default=1.0,
        metadata=option(
            "Weight of the target entropy; ta3n: of the attentive entropy of both domains.",
            default_text="1.0; preset tuned: 0.1; dann: 0.0; ta3n: 0.003, hmdb -> ucf: 0.3",
        ),
    )
    diversity_weight: float = field(
        default=0.0,
        metadata=option("ma2l-td, infomax: reward for the entropy of the mean target prediction."),
    )
    statistics: str = field(
        default="running",
        metadata=option(
            "Batch norm statistics that predict: the running ones of training, or those of the target's "
            "training videos, taken once training has ended (AdaBN).",
            "running",
            "target",
        ),
    )
    compute: str = field(
        default="auto",
        metadata=option(
            "Number type of products in training; auto: bfloat16 where a short trial says it pays. "
            "Parameters, losses and the optimiser stay float32.",
            *("auto", "float32", "bfloat16"),
        ),
    )
    optimiser: str = field(default="adam", metadata=option("Of all parameters.", "adam", "sgd"))
    momentum: float = field(
        default=0.9, metadata=option("Nesterov momentum of sgd; 0: plain gradient descent.")
    )
    learning_rate: float = field(metadata=option("Learning rate at the start."))
    rate_decay: str = field(
        metadata=option(
            "rate / (1+10p)^0.75 after a share p of the epochs (dann) or of the steps (dann-step).",
            "dann",
            "dann-step",
            "none",
        )
    )
    weight_decay: float = field(metadata=option("The optimiser's L2 penalty."))
    gradient_clip: float = field(
        default=0.0,
        metadata=option("Largest L2 norm of a step's whole gradient; 0: it is not clipped."),
    )
    draws: int = field(metadata=option("Random frame draws per video and step.", least=1))
    eval_draws: int = field(
        metadata=option("Seeded random draws at evaluation, logits averaged; 0: segment centres.")
    )
    source_sampling: str = field(
        metadata=option(
            "A pass over the source: every video once, or as many of every class as the smallest class "
            "has (authors' code), or as the largest has, the videos of smaller classes repeated.",
            *("shuffled", "smallest-class", "largest-class"),
        )
    )

    @classmethod
    def make(
        cls, *, benchmark: str, preset: str | None = None, given: Mapping[str, Any]
    ) -> AdaptConfig:
        """The tables of `adapt.presets`, then what was given (values that are not None).

        Args:
            benchmark: folder of the manifests.
            preset: None for the method's own.
            given: values by the names of the fields.

        Raises:
            ConfigError: as the class.
        """
        given = {name: value for name, value in given.items() if value is not None}
        method = given.get("method", _default("method"))
        if preset is None:
            preset = DEFAULT_PRESETS.get(method, _default("preset"))
        if preset not in PRESETS:
            raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
        pair = (method, given.get("source", ""), given.get("target", ""))
        values = {
            **BENCHMARKS.get(benchmark, {}),
            **PRESETS[preset],
            **METHOD_SETTINGS.get(method, {}),
            **PAIR_SETTINGS.get(pair, {}),
            **given,
        }
        if not values.get("frames"):
            kernel, levels = (values.get(n, _default(n)) for n in ("kernel", "levels"))
            values["frames"] = Geometry(kernel, levels).frames
        return cls(**{**values, "benchmark": benchmark, "preset": preset})

    def __post_init__(self) -> None:
        check_options(self)
        if self.dropout >= 1 or self.learning_rate == 0:
            raise ConfigError(
                f"--dropout must be below 1 and --learning-rate above 0, got {self.dropout} and "
                f"{self.learning_rate}."
            )
        if self.momentum >= 1:
            raise ConfigError(f"--momentum must be below 1, got {self.momentum}.")
        self._check_together()
        self._check_frames()

    def _check_together(self) -> None:
        if self.adversarial_levels == "frame-video" and not self.first_level:
            raise ConfigError(
                "--adversarial-levels frame-video needs discriminators at the frames: give "
                "--first-level."
            )
        if self.train_sampling == "centred" and self.draws > 1:
            raise ConfigError(
                f"--train-sampling centred takes the same frames in each of {self.draws} draws. Use "
                "--draws 1."
            )
        normed = self.encoder == "two-layer" or self.input_norm
        if normed and self.batch_size * self.frames * self.draws == 1:
            raise ConfigError(
                "--batch-size 1 with --frames 1 gives batch norm a single value. Raise either."
            )

    def _check_frames(self) -> None:
        if self.method == "ta3n" and self.frames < 2:
            raise ConfigError(
                f"--method ta3n relates frames to each other: --frames must be 2 or more, got "
                f"{self.frames}."
            )
        geometry = self.geometry
        if self.method == "ma2l-td" and self.frames != geometry.frames:
            smaller = [Geometry(self.kernel, m) for m in range(2, 9)]
            fitting = [g for g in smaller if g.frames <= self.frames]
            hint = "".join(f" or --levels {g.levels} --frames {g.frames}" for g in fitting[-1:])
            raise ConfigError(
                f"kernel {self.kernel} with {self.levels} levels needs {geometry.frames} frames, "
                f"got frames={self.frames}. Use --frames {geometry.frames}{hint}."
            )

    @property
    def geometry(self) -> Geometry:
        """The pyramid that kernel and levels make."""
        return Geometry(self.kernel, self.levels)

    @property
    def discriminated_levels(self) -> tuple[int, ...]:
        """Level numbers, counted from 1, that have slot discriminators."""
        levels = (
            (1, self.levels)
            if self.adversarial_levels == "frame-video"
            else range(1, self.levels + 1)
        )
        return tuple(level for level in levels if level > 1 or self.first_level)


def _default(name: str) -> Any:
    return AdaptConfig.__dataclass_fields__[name].default
