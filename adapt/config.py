"""Options that the methods share, and how a config is resolved. No torch here.

A method's own options are the fields that its `Options` adds to these (`adapt.methods`). This file is
long because every option is documented where it is declared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapt.rules import CHOICES, LAST, RULES
from adapt.settings import BENCHMARKS
from store.errors import ConfigError, printable
from store.options import check_options, check_type, flag, option, type_name

if TYPE_CHECKING:
    from adapt.methods import Method

BANKS = ("auto", "device", "host", "mapped")
"""Where features are while training; see `adapt.bank`."""
CORAL_WAYS = ("source-to-target", "target-to-source")
"""Which domain's features `--input-coral` maps; see `adapt.recolour`."""
DEFAULT_METHOD = "ma2l-td"
DATA, RUN, TRAINING, ADVERSARY, ENCODER = "Data", "Run", "Training", "Adversary", "Encoder"
"""Groups of the shared options, in the order of `--help`."""


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Everything that decides the outcome of a run, resolved. Make one with `AdaptConfig.make`.

    Raises:
        ConfigError: a value out of range, or values that contradict each other.
    """

    source: str = field(
        metadata=option(
            "Labelled domain, e.g. ucf; several are joined: studio,cctv.", group=DATA, required=True
        )
    )
    target: str = field(metadata=option("Unlabelled domain, e.g. hmdb.", group=DATA, required=True))
    benchmark: str = field(
        metadata=option(
            "Which benchmark's lists of videos to use (see `manifest list`).",
            group=DATA,
            default_text="the one with most videos that has both domains",
        )
    )
    classes: str = field(
        default="",
        metadata=option(
            "Use these classes of the benchmark alone, e.g. run,walk. A name with a comma in it stands in "
            "double quotes.",
            group=DATA,
            default_text="all",
        ),
    )
    method: str = field(default=DEFAULT_METHOD, metadata=option("The method to train.", group=RUN))
    preset: str = field(
        default="",
        metadata=option(
            "A named set of values for the options below. Options that you give override it.",
            group=RUN,
        ),
    )
    seed: int = field(
        default=0,
        metadata=option("Seed of every random choice.", group=RUN, most=2**63 - 1),
    )
    select: str = field(
        default=LAST,
        metadata=option(
            "Which epoch's model is kept. "
            + "; ".join(f"{name}: {rule.what}" for name, rule in RULES.items())
            + f"; {LAST}: the last one.",
            choices=CHOICES,
            group=RUN,
        ),
    )
    score_every: int = field(
        default=10,
        metadata=option(
            "Epochs between two times that all these scores are computed; the last epoch always has "
            "them. 0: never.",
            group=RUN,
        ),
    )
    epochs: int = field(
        default=300,
        metadata=option(
            "Passes over the target's training videos (MA2L-TD's authors take 300).",
            group=TRAINING,
            least=1,
        ),
    )
    batch_size: int = field(
        default=32, metadata=option("Source videos in a step.", group=TRAINING, least=1)
    )
    target_batch: str = field(
        default="equal",
        metadata=option(
            "Target videos in a step: equal takes as many as of the source; proportional takes the "
            "same share of the target's training videos as of the source's, rounded down, so that a "
            "pass over either takes the same number of steps.",
            choices=("equal", "proportional"),
            group=TRAINING,
        ),
    )
    source_sampling: str = field(
        default="shuffled",
        metadata=option(
            "What a pass over the source contains: shuffled takes every video once; smallest-class "
            "takes as many videos of every class as the smallest class has (MA2L-TD's authors); "
            "largest-class takes as many as the largest has and repeats videos of the others.",
            choices=("shuffled", "smallest-class", "largest-class"),
            group=TRAINING,
        ),
    )
    train_sampling: str = field(
        default="jittered",
        metadata=option(
            "Which frame of each segment of a video trains: a random one or its centre.",
            choices=("jittered", "centred"),
            group=TRAINING,
        ),
    )
    draws: int = field(
        default=1,
        metadata=option(
            "Random draws of frames per video and step.", group=TRAINING, least=1, most=1000
        ),
    )
    eval_draws: int = field(
        default=0,
        metadata=option(
            "Seeded random draws of frames per video at evaluation, whose logits are averaged; 0 "
            "takes the centres of the segments instead.",
            group=TRAINING,
            most=1000,
        ),
    )
    compute: str = field(
        default="auto",
        metadata=option(
            "Number type of matrix products in training. auto: bfloat16 where the hardware has it (AMX "
            "or AVX512-BF16; a GPU of compute capability 8.0 or higher), else float32. Parameters, "
            "losses and the optimiser are always float32.",
            choices=("auto", "float32", "bfloat16"),
            group=TRAINING,
        ),
    )
    optimiser: str = field(
        default="adam",
        metadata=option("Optimiser of all parameters.", choices=("adam", "sgd"), group=TRAINING),
    )
    momentum: float = field(
        default=0.9,
        metadata=option(
            "Nesterov momentum; 0 means plain gradient descent.",
            group=TRAINING,
            read_with={"optimiser": "sgd"},
        ),
    )
    learning_rate: float = field(
        default=3e-4, metadata=option("Learning rate at the start.", group=TRAINING)
    )
    rate_decay: str = field(
        default="dann",
        metadata=option(
            "dann: the learning rate is rate / (1 + 10 p)^0.75, p being the finished share of the "
            "epochs; ta3n: the same formula as TA3N's authors apply it, set after every step with the "
            "epochs counted from 1; inverse: rate / (1 + g i)^0.75 after i steps, g being --rate-gamma; "
            "cosine: half a cosine over the epochs, set one epoch ahead as TransferAttn's authors do, "
            "so that the last epoch's rate is 0; none: a constant rate.",
            choices=("dann", "ta3n", "inverse", "cosine", "none"),
            group=TRAINING,
        ),
    )
    rate_gamma: float = field(
        default=0.001,
        metadata=option(
            "How quickly the learning rate falls from step to step.",
            group=TRAINING,
            read_with={"rate_decay": "inverse"},
        ),
    )
    weight_decay: float = field(
        default=0.0, metadata=option("L2 penalty of the optimiser.", group=TRAINING)
    )
    gradient_clip: float = field(
        default=0.0,
        metadata=option(
            "Largest L2 norm of the gradient of all parameters together; 0 means no limit.",
            group=TRAINING,
        ),
    )
    adversarial_weight: float = field(
        default=1.0,
        metadata=option("Largest coefficient of the gradient reversal.", group=ADVERSARY),
    )
    adversarial_ramp: str = field(
        default="none",
        metadata=option(
            "dann: the coefficient grows as 2 / (1 + exp(-10 p)) - 1, p being the finished share of "
            "the epochs; none: it is constant.",
            choices=("dann", "none"),
            group=ADVERSARY,
        ),
    )
    frames: int = field(
        default=23,
        metadata=option("Frames sampled per video.", group=ENCODER, least=1, most=10_000),
    )
    encoder: str = field(
        default="two-layer",
        metadata=option(
            "two-layer: Linear, BatchNorm, ReLU, Dropout, Linear, BatchNorm, ReLU (MA2L-TD, section "
            "3.1); one-layer: Linear, ReLU, Dropout (TA3N).",
            choices=("two-layer", "one-layer"),
            group=ENCODER,
        ),
    )
    input_norm: bool = field(
        default=False,
        metadata=option(
            "Normalise the backbone's features with a batch norm in front of the encoder; in "
            "training each domain is normalised by its own statistics.",
            group=ENCODER,
        ),
    )
    input_coral: str = field(
        default="none",
        metadata=option(
            "Give the frames of one domain the mean and covariance that the other's have, in front of "
            "everything else and without labels (CORAL): source-to-target maps the source in training; "
            "target-to-source maps the target, at prediction too; none maps neither.",
            choices=("none", *CORAL_WAYS),
            group=ENCODER,
        ),
    )
    input_coral_epsilon: float = field(
        default=0.01,
        metadata=option(
            "Added to the diagonal of each domain's covariance, as a share of its largest eigenvalue; "
            "small values trust directions in which a domain hardly varies.",
            group=ENCODER,
            read_with={"input_coral": CORAL_WAYS},
        ),
    )
    width: int = field(
        default=256,
        metadata=option("Width of the encoder's features.", group=ENCODER, least=1, most=65_536),
    )
    dropout: float = field(
        default=0.5, metadata=option("Dropout rate within the encoder.", group=ENCODER)
    )
    video_dropout: float = field(
        default=0.0,
        metadata=option(
            "Dropout rate of the video feature, in front of the classifier.", group=ENCODER
        ),
    )
    initialisation: str = field(
        default="default",
        metadata=option(
            "Values before training. default: torch's; small-normal: weights from N(0, 0.001) and "
            "zero biases, as TA3N's authors start all but the relations; xavier: Xavier normal "
            "weights with zero biases and batch norm scales from N(1, 0.02), as MA2L-TD's authors do.",
            choices=("default", "small-normal", "xavier"),
            group=ENCODER,
        ),
    )
    statistics: str = field(
        default="running",
        metadata=option(
            "Batch norm statistics at prediction: the running averages of training, or those of the "
            "target's training videos, computed after training (AdaBN).",
            choices=("running", "target"),
            group=ENCODER,
        ),
    )

    @staticmethod
    def make(*, benchmark: str, preset: str | None = None, given: Mapping[str, Any]) -> AdaptConfig:
        """Resolve a config: benchmark, then preset, then the pair of domains, then what is given.

        Args:
            benchmark: folder of the manifests.
            preset: one of the method's `SETTINGS`, None for the first of them.
            given: values by name of field; None stands for "not given".

        Raises:
            ConfigError: no such method, preset or option, an option that the method does not read,
                a value out of range, or values that contradict each other.
        """
        from adapt import methods

        given = {name: value for name, value in given.items() if value is not None}
        method = methods.find(given.get("method", DEFAULT_METHOD))
        preset = method.default_preset if preset is None else preset
        if preset not in tuple(method.settings):  # of a file it may be anything
            raise ConfigError(
                f"--preset must be one of {', '.join(method.settings)} with --method {method.name}, "
                f"got {preset!r}."
            )
        _refuse_unread(method, given)
        for f in dataclasses.fields(method.options):
            if f.name in given:
                check_type(f.name, type_name(f), given[f.name])  # what follows computes with them
        pair = (given.get("source", ""), given.get("target", ""))
        values = {
            **BENCHMARKS.get(benchmark, {}),
            **method.benchmarks.get(benchmark, {}),
            **method.settings[preset],
            **method.pairs.get(pair, {}),
            **given,
        }
        values = {
            name: value for name, value in values.items() if name in method.reads or name in given
        }
        names = {"benchmark": benchmark, "preset": preset, "method": method.name}
        derived = {k: v for k, v in method.options.derived(values).items() if k not in given}
        config = method.options(**{**values, **derived, **names})
        _refuse_unread_values(config, given)
        return config

    @property
    def sources(self) -> tuple[str, ...]:
        """The labelled domains, whose videos are joined."""
        return tuple(self.source.split(","))

    @property
    def lists(self) -> str:
        """What accuracies are printed beside: the benchmark, and its classes if not all are used."""
        return f"{self.benchmark}, classes {self.classes}" if self.classes else self.benchmark

    @staticmethod
    def load(record: Mapping[str, Any]) -> AdaptConfig:
        """A config as `as_dict` gave it.

        Raises:
            ConfigError: as `make`, or a value that every config records is missing.
        """
        lacking = [name for name in ("benchmark", "preset", "method") if name not in record]
        if lacking:
            raise ConfigError(f"The config has no value for {', '.join(lacking)}.")
        given = {k: v for k, v in record.items() if k not in ("benchmark", "preset")}
        return AdaptConfig.make(benchmark=record["benchmark"], preset=record["preset"], given=given)

    @classmethod
    def derived(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values that follow from others unless they are given; a method may override this."""
        return {}

    def __post_init__(self) -> None:
        check_options(self)
        if len(set(self.sources)) < len(self.sources):
            raise ConfigError(f"--source {self.source} names a domain twice. Leave one out.")
        for name in ("dropout", "video_dropout", "momentum"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"{flag(name)} must be below 1, got {getattr(self, name)}.")
        if self.learning_rate == 0:
            raise ConfigError("--learning-rate must be above 0, got 0.")
        if self.select != LAST and not self.score_every:
            raise ConfigError(
                f"--select {self.select} needs its score, and --score-every 0 computes none. Give "
                "--score-every a number of epochs."
            )
        if self.input_coral_epsilon == 0:
            raise ConfigError("--input-coral-epsilon must be above 0, got 0.")
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
        if self.statistics == "target" and not normed:
            raise ConfigError(
                "--statistics target replaces the statistics of batch norms, and --encoder one-layer "
                "has none. Add --input-norm, or leave --statistics out."
            )

    @property
    def reads_target_labels(self) -> bool:
        """Whether the method trains on the target's labels, or the rule of the epoch looks at them."""
        from adapt import methods

        rule = RULES.get(self.select)
        looked_at = rule is not None and rule.reads_target_labels
        return methods.find(self.method).reads_target_labels or looked_at

    def as_dict(self) -> dict[str, Any]:
        """The values that the method reads, by name; `load` makes the same config of them."""
        from adapt import methods

        reads = methods.find(self.method).reads
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name in reads and not unmet(vars(self), f)
        }

    def as_method(self, name: str) -> AdaptConfig:
        """The config of another method that agrees with this one in all that both of them read."""
        from adapt import methods

        method = methods.find(name)
        shared = {
            key: value
            for key, value in self.as_dict().items()
            if key in method.reads and key not in ("benchmark", "preset", "method")
        }
        return AdaptConfig.make(benchmark=self.benchmark, given={**shared, "method": name})


SHARED_FIELDS = {f.name: f for f in dataclasses.fields(AdaptConfig)}


def names_of(*groups: str) -> frozenset[str]:
    """The names of the shared options of some groups, e.g. of `TRAINING`, for a method's `READS`."""
    return frozenset(n for n, f in SHARED_FIELDS.items() if f.metadata["group"] in groups)


def _refuse_unread(method: Method, given: Iterable[str]) -> None:
    from adapt import methods

    for name in given:
        if name in method.reads:
            continue
        readers = [other for other in methods.names() if name in methods.find(other).reads]
        if not readers:
            raise ConfigError(f"There is no option {flag(printable(name))}.")
        raise ConfigError(
            f"--method {method.name} does not read {flag(name)}; {', '.join(readers)} "
            f"{'do' if len(readers) > 1 else 'does'}. Leave it out or choose another method."
        )


def unmet(values: Mapping[str, Any], f: dataclasses.Field[Any]) -> dict[str, tuple[str, ...]]:
    """Return, of the values with which alone an option is read, those of which the config has none.

    Args:
        values: the config's options by name.
    """
    needed: dict[str, str | tuple[str, ...]] = f.metadata.get("read_with", {})
    choices = {name: (v,) if isinstance(v, str) else v for name, v in needed.items()}
    return {name: v for name, v in choices.items() if values[name] not in v}


def _refuse_unread_values(config: AdaptConfig, given: Iterable[str]) -> None:
    """Refuse a given option that is read only with another value of a second option."""
    for f in dataclasses.fields(config):
        for other, values in unmet(vars(config), f).items() if f.name in given else ():
            value = f" or {flag(other)} ".join(values)
            raise ConfigError(
                f"{flag(f.name)} is read only with {flag(other)} {value}, and {flag(other)} is "
                f"{getattr(config, other)}. Leave it out, or give {flag(other)} {value}."
            )
