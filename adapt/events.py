"""RUN/tensorboard: the numbers of metrics.jsonl as TensorBoard shows them. The only place that needs it.

Tags: `loss/<name>`, `rate/learning_rate` and `rate/reversal`, `accuracy/<on what>`, `score/<name>`, and
`<group>/<name>` of groups such as the level weights. The step is the epoch. metrics.jsonl stays what a run
goes on from: the events are written anew from it, so that no step stands there twice.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from adapt.run_files import GO_ON
from adapt.runs import RunFolder
from store.errors import ConfigError, RunError
from store.files import explained

FOLDER = "tensorboard"
_RATES = ("learning_rate", "reversal")
_ACCURACIES = {
    "source-val": "held-out source",
    "oracle": "target",
    "oracle-class-mean": "target class mean",
}


def check_available() -> None:
    """Refuse before anything is trained.

    Raises:
        ConfigError: the package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError(
            "--tensorboard needs the package tensorboard, which is not installed. Run: pip install "
            "'.[tensorboard]' (or pip install tensorboard), or leave --tensorboard out."
        )


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by their tags; letters that a tag may not have become `_`."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if name == "scores":
            for score, number in value.items():
                known = _ACCURACIES.get(score)
                found[f"accuracy/{known}" if known else f"score/{score}"] = number
        elif isinstance(value, Mapping):
            found |= {f"{name}/{member}": number for member, number in value.items()}
        elif name in _RATES:
            found[f"rate/{name}"] = value
        elif name not in ("epoch", "seconds") and type(value) in (int, float):
            found[f"loss/{name}"] = value
    return {re.sub(r"[^-/\w.]+", "_", tag): float(number) for tag, number in found.items()}


class Events:
    """Writes the event file of a run."""

    def __init__(self, run: RunFolder) -> None:
        self._folder = run.path / FOLDER
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        tensorboard = importlib.import_module("torch.utils.tensorboard")
        self._writer = tensorboard.SummaryWriter(str(self._folder))
        for metrics in run.metrics():
            self.add(metrics)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Add an epoch, as metrics.jsonl has it.

        Raises:
            RunError: the disk refuses.
        """
        with explained(self._folder, RunError, GO_ON):
            for tag, value in scalars(metrics).items():
                self._writer.add_scalar(tag, value, metrics["epoch"])

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


@contextmanager
def events_of(run: RunFolder) -> Iterator[Events]:
    """The events of a run, with those of its earlier epochs; closed when `with` is left.

    Raises:
        RunError: the disk refuses.
    """
    with explained(run.path / FOLDER, RunError, GO_ON):
        events = Events(run)
    try:
        yield events
    finally:
        events.close()
