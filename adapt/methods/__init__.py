"""The methods. Every file of this folder is one, and nothing elsewhere names it (docs/methods.md).

The file `my_method.py` is the method `my-method`. It offers

    Options(AdaptConfig)   a frozen dataclass; the fields that it adds are the method's own options
    READS                  the names of the shared options that the method reads
    SETTINGS               presets: name -> values of options; the first one is the default
    build(config, width, classes) -> Networks
                           the networks with their initial values
    losses(networks, source, target, config, progress) -> StepLosses
                           the losses of one pair of batches

and, where it needs them,

    READS_TARGET_LABELS    True if the labelled batches are to be the target's: a bound, not adaptation; it
                           is refused for a target without labels
    LEAST_VIDEOS           how many videos of each domain a step needs at least, 1 if it does not say
    ONE_PROCESS            why the method cannot train on several processes
    BENCHMARKS             benchmark -> values of options
    PAIRS                  (source domain, target domain) -> values of options
    paces(networks, config) -> [(module, rate, decay), ...]
                           parts whose learning rate and weight decay are these multiples of the config's
    step(networks, source, target, config, progress, descend) -> parts
                           in place of `losses`: several descents in a step, each on some of the networks
    prepare(networks, data, config)
                           before the first step: what the losses need of the training videos
    fit(networks, data, config)
                           in place of `losses`: a fit without gradients; it may return numbers that it
                           chose, by name, for the log
    remember(networks, data, config)
                           before the model predicts: keep in it what it needs of the training videos
    attention(networks, features_BTD, config, *, source) -> TimeWeights | None
                           when training has ended: what each frame of each video weighs, for `report`
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from adapt.config import DATA, RUN, AdaptConfig, names_of
from store.errors import ConfigError, printable

_ALWAYS = names_of(DATA, RUN)
"""Shared options that the program itself reads, whatever the method."""
_REQUIRED = ("Options", "READS", "SETTINGS", "build")


class Networks(nn.Module):
    """What a method trains.

    Attributes:
        model: predicts, features (B, T, D) -> logits (B, N); the checkpoint holds its state.
        branch: exists in training only.
    """

    def __init__(self, model: nn.Module, branch: nn.Module | None = None) -> None:
        super().__init__()
        self.model: Any = model
        self.branch: Any = branch


@dataclass(frozen=True)
class StepLosses:
    """The losses of one step: `total` is minimised, `parts` are logged by name.

    Numbers that belong together share what stands before a slash: `level_weights/level 2` is logged as the
    number `level 2` of the group `level_weights`.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TimeWeights:
    """How much the moments of videos weigh in a method's attention. Rows sum to 1."""

    what: str
    """What the weights are, as a sentence."""
    weights_BT: Tensor
    """Of each sampled frame, in the order of time."""
    even_T: Tensor
    """What they would be if the method weighed all alike."""


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        epoch: finished epochs; epochs: all of them.
        step: finished steps of this epoch; steps: all of its steps.
    """

    epoch: int = 0
    epochs: int = 1
    step: int = 0
    steps: int = 1

    @property
    def share(self) -> float:
        """The finished share of the epochs, which does not change within an epoch."""
        return self.epoch / self.epochs


Descend = Callable[[Tensor, Sequence[nn.Module]], None]
"""Minimise a loss by one step of the optimiser on the parameters of some modules alone."""


@dataclass(frozen=True)
class Method:
    """A file of this folder, checked."""

    name: str
    module: ModuleType

    @property
    def summary(self) -> str:
        """The first line of the file's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def options(self) -> type[AdaptConfig]:
        """The class of its configs."""
        options: type[AdaptConfig] = self.module.Options
        return options

    @property
    def own(self) -> tuple[str, ...]:
        """The names of its own options, in the order of their declaration."""
        return tuple(n for n in self.options.__dataclass_fields__ if n not in _shared())

    @property
    def reads(self) -> frozenset[str]:
        """The names of all options that have an effect."""
        return _ALWAYS | frozenset(self.module.READS) | frozenset(self.own)

    @property
    def reads_target_labels(self) -> bool:
        """Whether it trains on the target's labels."""
        return getattr(self.module, "READS_TARGET_LABELS", False)

    @property
    def least_videos(self) -> int:
        """How many videos of each domain a step needs at least."""
        return getattr(self.module, "LEAST_VIDEOS", 1)

    @property
    def one_process(self) -> str:
        """Why it cannot train on several processes, "" if it can."""
        if self.function("losses") is None:
            return "its step is not one descent of one loss"
        return getattr(self.module, "ONE_PROCESS", "")

    @property
    def for_target_alone(self) -> bool:
        """Whether its model is made for the target's videos, so that it predicts no others."""
        return self.function("fit") is not None or self.function("remember") is not None

    @property
    def settings(self) -> Mapping[str, Mapping[str, Any]]:
        """Presets by name; the first is the default."""
        settings: Mapping[str, Mapping[str, Any]] = self.module.SETTINGS
        return settings

    @property
    def default_preset(self) -> str:
        """The preset where none is given."""
        return next(iter(self.settings))

    @property
    def benchmarks(self) -> Mapping[str, Mapping[str, Any]]:
        """Values that a benchmark sets for this method."""
        return getattr(self.module, "BENCHMARKS", {})

    @property
    def pairs(self) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """Values that a pair of domains (source, target) sets for this method."""
        return getattr(self.module, "PAIRS", {})

    def function(self, name: str) -> Any:
        """One of the file's optional functions, None if it has none of that name."""
        return getattr(self.module, name, None)

    def build(self, config: AdaptConfig, width: int, classes: int) -> Networks:
        """The method's networks, for features of `width` numbers."""
        networks: Networks = self.module.build(config, width, classes)
        return networks


def _shared() -> frozenset[str]:
    return frozenset(AdaptConfig.__dataclass_fields__)


def names() -> tuple[str, ...]:
    """The names of all methods, in alphabetical order."""
    found = (m.name for m in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))


@functools.cache
def find(name: str) -> Method:
    """The method of a name.

    Raises:
        ConfigError: there is none, or its file lacks something that a method must have.
    """
    if name not in names():
        raise ConfigError(f"--method must be one of {', '.join(names())}, got {printable(name)!r}.")
    method = Method(name, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
    _check(method)
    return method


def _check(method: Method) -> None:
    file = f"adapt/methods/{method.name.replace('-', '_')}.py"
    lacking = [part for part in _REQUIRED if not hasattr(method.module, part)]
    if not any(method.function(way) for way in ("losses", "step", "fit")):
        lacking.append("losses")
    if lacking:
        raise ConfigError(f"{file} lacks {', '.join(lacking)} (see docs/methods.md).")
    if not issubclass(method.options, AdaptConfig):
        raise ConfigError(f"{file}: Options must be a subclass of adapt.config.AdaptConfig.")
    used = {*method.module.READS}
    for values in (*method.settings.values(), *method.benchmarks.values(), *method.pairs.values()):
        used |= values.keys()
    unknown = sorted(used - method.reads) + sorted(set(method.module.READS) - _shared())
    if unknown:
        raise ConfigError(f"{file} sets or reads options that it does not have: {unknown[0]}.")
