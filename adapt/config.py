"""Options of the adapt stage and the presets. No torch here, so `--help` answers at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapt.geometry import Geometry
from extract.errors import ConfigError

METHODS = ("ma2l-td", "infomax", "source-only")
BANKS = ("auto", "device", "host", "mapped")
"""Where features are while training; see `adapt.bank`."""

# Where the paper and its authors' code disagree, both are kept. Every key is an option of its own.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "first_level": True,
        "reversal": "discriminators",
        "aggregation": "attention",
        "level_weights": "loss",
        "slot_reduction": "sum",
        # Three deviations, without which the preset does not beat source-only on real features
        # (benchmarks/README.md). The letters are bound none (the aggregators grow without limit),
        # adversarial weight 1 (eq. 9) and the entropy's sum (eq. 2), which hardens early mistakes.
        "bound": "layernorm",
        "adversarial_weight": 0.1,
        "entropy_reduction": "mean",
        "learning_rate": 3e-4,
        "rate_decay": "dann",
        "weight_decay": 0.0,
        "draws": 1,
        "eval_draws": 0,
        "source_sampling": "shuffled",
    },
    "released": {
        "first_level": False,
        "reversal": "aggregators",
        "aggregation": "mean",
        "level_weights": "entropy",
        "slot_reduction": "mean",
        "bound": "none",
        "adversarial_weight": 0.1,
        "entropy_reduction": "mean",
        "learning_rate": 3e-5,
        "rate_decay": "none",
        "weight_decay": 5e-4,
        "draws": 5,
        "eval_draws": 5,
        "source_sampling": "smallest-class",
    },
}

# Sec. 4.2 of the paper; every other benchmark trains with the defaults of the fields.
BENCHMARKS: dict[str, dict[str, Any]] = {
    "ucf-hmdb-full": {"levels": 5},
    "kinetics-gameplay": {"batch_size": 64},
}


def _option(help_: str, *choices: str, **more: Any) -> dict[str, Any]:
    return {"help": help_, **({"choices": choices} if choices else {}), **more}


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Everything that decides the outcome of a run, resolved. Make one with `make`.

    Raises:
        ConfigError: a value out of range, or values that contradict each other.
    """

    source: str = field(metadata=_option("Labelled domain, e.g. ucf.", required=True))
    target: str = field(metadata=_option("Unlabelled domain, e.g. hmdb.", required=True))
    benchmark: str = field(
        metadata=_option(
            "Folder of data/manifests.", default_text="the fullest that has both domains"
        )
    )
    method: str = field(default="ma2l-td", metadata=_option("What to train.", *METHODS))
    preset: str = field(
        default="paper",
        metadata=_option(
            "MA2L-TD as in the paper or as in its authors' code; any option below overrides a point.",
            *PRESETS,
        ),
    )
    seed: int = field(default=0, metadata=_option("Seed of every random choice."))
    epochs: int = field(
        default=300,
        metadata=_option("Passes over the target's training videos (300: the authors')."),
    )
    batch_size: int = field(
        default=32,
        metadata=_option("Videos per domain and step.", default_text="32; kinetics-gameplay: 64"),
    )
    kernel: int = field(default=3, metadata=_option("Slots that one aggregation joins, q."))
    levels: int = field(
        default=4,
        metadata=_option("Levels of the pyramid, M.", default_text="4; ucf-hmdb-full: 5"),
    )
    frames: int = field(
        default=0,
        metadata=_option(
            "Frames sampled per video; the pyramid fixes it.", default_text="from kernel and levels"
        ),
    )
    width: int = field(default=256, metadata=_option("Width of the task-driven features, C."))
    dropout: float = field(default=0.5, metadata=_option("Dropout of the encoder."))
    discriminator_width: int = field(
        default=1024, metadata=_option("Hidden width of every discriminator.")
    )
    discriminators: str = field(
        default="slot",
        metadata=_option(
            "One discriminator per slot, or one per level (ablation of table 4).", "slot", "shared"
        ),
    )
    adversarial_levels: str = field(
        default="all",
        metadata=_option(
            "Levels with discriminators: all, or frame and video only (ablation of table 4).",
            "all",
            "frame-video",
        ),
    )
    first_level: bool = field(metadata=_option("Discriminators at level 1, the frames (eq. 3)."))
    reversal: str = field(
        metadata=_option(
            "Where the gradient turns: at every discriminator's input, so that the aggregators play "
            "against them, or at the first aggregator's input.",
            "discriminators",
            "aggregators",
        )
    )
    aggregation: str = field(
        metadata=_option("Weights over a receptive field: eq. 12, or 1/q.", "attention", "mean")
    )
    level_weights: str = field(
        metadata=_option(
            "Weights over levels: loss of trained level discriminators (eq. 7), entropy of untrained "
            "ones (authors' code), or equal.",
            "loss",
            "entropy",
            "equal",
        )
    )
    slot_reduction: str = field(
        metadata=_option("A level's loss over its slots: eq. 3 sums.", "sum", "mean")
    )
    bound: str = field(
        metadata=_option("Layer norm after every aggregation, or none.", "layernorm", "none")
    )
    adversarial_weight: float = field(
        metadata=_option("Largest reversal coefficient; it ramps up as 2/(1+exp(-10p)) - 1.")
    )
    entropy_reduction: str = field(
        metadata=_option("Target entropy over the classes: eq. 2 sums.", "sum", "mean")
    )
    entropy_weight: float = field(default=1.0, metadata=_option("Weight of the target entropy."))
    diversity_weight: float = field(
        default=0.0,
        metadata=_option(
            "Reward for the entropy of the mean target prediction (information maximisation)."
        ),
    )
    statistics: str = field(
        default="running",
        metadata=_option(
            "Batch norm statistics that predict: the running ones of training, or those of the target's "
            "training videos, taken once training has ended (AdaBN).",
            "running",
            "target",
        ),
    )
    compute: str = field(
        default="float32",
        metadata=_option(
            "Number type of products in training; auto: bfloat16 where a short trial says it pays. "
            "Parameters, losses and the optimiser stay float32.",
            *("float32", "bfloat16", "auto"),
        ),
    )
    learning_rate: float = field(metadata=_option("Adam's rate at the start."))
    rate_decay: str = field(
        metadata=_option("dann: rate / (1+10p)^0.75 after a share p of the epochs.", "dann", "none")
    )
    weight_decay: float = field(metadata=_option("Adam's L2 penalty."))
    draws: int = field(metadata=_option("Random frame draws per video and step."))
    eval_draws: int = field(
        metadata=_option("Seeded random draws at evaluation, logits averaged; 0: segment centres.")
    )
    source_sampling: str = field(
        metadata=_option(
            "A pass over the source: every video once, or as many of every class as the smallest class "
            "has (authors' code), or as the largest has, the videos of smaller classes repeated.",
            *("shuffled", "smallest-class", "largest-class"),
        )
    )

    @classmethod
    def make(
        cls, *, benchmark: str, preset: str = "paper", given: Mapping[str, Any]
    ) -> AdaptConfig:
        """Preset, then the benchmark's settings, then what was given (values that are not None).

        Raises:
            ConfigError: as the class.
        """
        if preset not in PRESETS:
            raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
        values = {**PRESETS[preset], **BENCHMARKS.get(benchmark, {})}
        values |= {name: value for name, value in given.items() if value is not None}
        if not values.get("frames"):
            kernel, levels = (values.get(n, _default(n)) for n in ("kernel", "levels"))
            values["frames"] = Geometry(kernel, levels).frames
        return cls(**{**values, "benchmark": benchmark, "preset": preset})

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, choices = getattr(self, f.name), f.metadata.get("choices")
            flag = "--" + f.name.replace("_", "-")
            if choices and value not in choices:
                raise ConfigError(f"{flag} must be one of {', '.join(choices)}, got {value!r}.")
            least = 0 if f.name in ("seed", "eval_draws") else 1
            if f.type == "int" and value < least:
                raise ConfigError(f"{flag} must be {least} or more, got {value}.")
            if f.type == "float" and not 0 <= value < float("inf"):
                raise ConfigError(f"{flag} must be 0 or more, got {value}.")
        if self.dropout >= 1 or self.learning_rate == 0:
            raise ConfigError(
                f"--dropout must be below 1 and --learning-rate above 0, got {self.dropout} and "
                f"{self.learning_rate}."
            )
        if self.adversarial_levels == "frame-video" and not self.first_level:
            raise ConfigError(
                "--adversarial-levels frame-video needs discriminators at the frames: give "
                "--first-level."
            )
        if self.batch_size * self.frames * self.draws == 1:
            raise ConfigError(
                "--batch-size 1 with --frames 1 gives batch norm a single value. Raise either."
            )
        geometry = self.geometry
        if self.method == "ma2l-td" and self.frames != geometry.frames:
            fitting = [m for m in range(2, 9) if Geometry(self.kernel, m).frames <= self.frames]
            hint = f" or --levels {fitting[-1]}" if fitting else ""
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
