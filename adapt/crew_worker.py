"""The process that trains the runs of a benchmark one after the other (`adapt.crew`).

It says `epoch` after every epoch, `done` or `failed` at a run's end, and `said` for every warning. A run
that fails with an error of this project (a loss that is not finite, options that do not fit the data) ends
alone; any other exception is reported with its traceback, and the process is replaced.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import Ma2lError
from store.machine import die_with_parent

if TYPE_CHECKING:
    from adapt.listing import DataOptions
    from adapt.loading import Loaded


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run to train: the values of its config, and its folder."""

    config: Mapping[str, Any]
    folder: str


def serve(pipe: Connection, data: DataOptions, device: str, checkpoint_every: int) -> None:
    """Train what the other end of the pipe asks for, until it is closed."""
    die_with_parent()
    logging.basicConfig(level=logging.WARNING, handlers=[_Said(pipe)], force=True)
    features = _Features(data, device)
    # The other end has gone: so does this process.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            work: Work = pipe.recv()
            try:
                _train(work, features, checkpoint_every, lambda epoch: pipe.send(("epoch", epoch)))
            except Ma2lError as error:
                pipe.send(("failed", (str(error), "")))
            except (BrokenPipeError, ConnectionResetError):
                return
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                pipe.send(("failed", (text, traceback.format_exc())))
            else:
                pipe.send(("done", 0))


class _Said(logging.Handler):
    """Hands warnings to the process that prints."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(("said", record.getMessage()))


class _Features:
    """The features that the last run used, which the next one may use too."""

    def __init__(self, options: DataOptions, device: str) -> None:
        self._options, self._device = options, device
        self._key: object = None
        self._loaded: Loaded | None = None

    def of(self, config: Any) -> Loaded:
        import torch

        from adapt.loading import load
        from adapt.standing import videos_key

        key = videos_key(config)
        if self._loaded is None or key != self._key:
            self._loaded = None  # two at once may not fit into memory
            self._loaded = load(config, self._options, torch.device(self._device))
            self._key = key
        return self._loaded


def _train(
    work: Work, features: _Features, checkpoint_every: int, on_epoch: Callable[[int], None]
) -> None:
    from adapt.config import AdaptConfig
    from adapt.interface import train

    config = AdaptConfig.load(work.config)
    train(
        config,
        features.of(config),
        Path(work.folder),
        resume=True,
        checkpoint_every=checkpoint_every,
        baselines=False,  # a benchmark has source only as a row
        on_epoch=lambda epoch, metrics: on_epoch(epoch),
    )
