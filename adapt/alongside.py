"""Source only, trained along with a run on the same seed and features (`adapt.baselines` reads it).

One training gives both rows, because the statistics change prediction alone. It comes before the run's own
training, which it does not disturb: all random choices have seeds of their own, and torch's global
generators are left as they were found.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adapt import methods, parallel, scores
from adapt.accuracy import accuracy_on
from adapt.baselines import FILE, ROWS, SOURCE_ONLY, TARGET_STATISTICS
from adapt.compute import resolve
from adapt.config import AdaptConfig
from adapt.loading import Loaded
from adapt.loop import TrainingState, train
from adapt.prediction import as_target, predict
from adapt.rules import LAST
from adapt.run_files import write_json
from adapt.runs import RunFolder
from store.errors import ConfigError, Ma2lError, RunError

log = logging.getLogger(__name__)

OnEpoch = Callable[[AdaptConfig, Mapping[str, Any]], None]
"""Called after every epoch of source only with its config and the epoch's metrics."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What is made beside a run and changes none of its numbers."""

    baselines: bool = False
    """Train source only along."""
    on_baseline_epoch: OnEpoch = lambda config, metrics: None
    tensorboard: bool = False
    """Write the numbers of metrics.jsonl for TensorBoard too (`adapt.events`)."""


NOTHING_BESIDE = Beside()


def train_alongside(
    config: AdaptConfig,
    loaded: Loaded,
    run: RunFolder,
    on_epoch: OnEpoch = lambda config, metrics: None,
) -> None:
    """Write the run's baselines.json unless it stands there already.

    What cannot be trained (a loss that is not finite, options that source only does not allow) is left out
    with the reason: it must not stop the run.

    Args:
        config: of the run, resolved; loaded: its data before any `--input-coral`.

    Raises:
        RunError: the disk refuses.
        StoreError: features cannot be read, which would stop the run too.
    """
    if parallel.from_first(lambda: run.has(FILE)):
        return
    reason = not_along(config)
    record: dict[str, Any] = {"rows": {}, "left_out": dict.fromkeys(ROWS, reason)}
    if not reason:
        try:
            record = _trained(config, loaded, on_epoch)
        except (ConfigError, RunError) as error:
            # Every process raises these alike; that features cannot be read may be one process's alone.
            record["left_out"] = dict.fromkeys(ROWS, str(error))
    for name, why in record["left_out"].items():
        log.info("Without the row %s beside the result: %s", name, why)
    parallel.from_first(lambda: write_json(run.path, FILE, record))


def not_along(config: AdaptConfig) -> str:
    """Why source only is not trained along with a run; empty where it is."""
    method = methods.find(config.method)
    if method.name == "source-only":
        return "the run is source only itself"
    if method.reads_target_labels:
        return f"{method.name} loads no video of the source"
    if method.function("fit") is not None:
        return f"{method.name} has neither encoder nor optimiser that source only could share"
    return ""


def source_only_config(config: AdaptConfig) -> AdaptConfig:
    """Source only with what both methods read of a run's options, with nothing that adapts.

    Raises:
        ConfigError: source only does not allow these values.
    """
    return dataclasses.replace(
        config.as_method("source-only"),
        statistics="running",
        input_coral="none",
        select=LAST,
        score_every=0,
    )


def _trained(config: AdaptConfig, loaded: Loaded, on_epoch: OnEpoch) -> dict[str, Any]:
    begin = time.monotonic()
    data = loaded.data
    bare = resolve(source_only_config(config), data.device)
    log.info("Training source only along, %d epochs.", bare.epochs)
    devices = [data.device] if data.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        state = TrainingState(bare, data)
        train(bare, data, state, lambda metrics: on_epoch(bare, metrics))
    rows = {SOURCE_ONLY: _row(SOURCE_ONLY, bare, state, loaded)}
    left_out = {}
    if any(isinstance(part, nn.BatchNorm1d) for part in state.model.modules()):
        adapted = dataclasses.replace(bare, statistics="target")
        try:
            rows[TARGET_STATISTICS] = _row(TARGET_STATISTICS, adapted, state, loaded)
        except Ma2lError as error:
            left_out[TARGET_STATISTICS] = str(error)
    else:
        left_out[TARGET_STATISTICS] = (
            "the encoder has no batch norm, so it has no statistics (--encoder one-layer without "
            "--input-norm)"
        )
    return {
        "config": bare.as_dict(),
        "seconds": round(time.monotonic() - begin, 2),
        "rows": rows,
        "left_out": left_out,
    }


def _row(name: str, config: AdaptConfig, state: TrainingState, loaded: Loaded) -> Mapping[str, Any]:
    """What baselines.json says of a row."""
    model = as_target(config, state.networks, loaded.data)
    logits_VN = predict(model, loaded.held_out_bank, config)
    predicted_V = logits_VN.argmax(dim=1).tolist()
    result = accuracy_on(predicted_V, loaded.held_out)
    found: dict[str, Any] = {
        "what": ROWS[name],
        "target_eval": None if result is None else dataclasses.asdict(result),
    }
    if result is None:  # then the evaluation videos are the training videos
        found["scores"] = scores.label_free(logits_VN.double().softmax(dim=1).numpy())
    classes = loaded.data.classes
    found["predicted"] = {v.id: classes[p] for v, p in zip(loaded.held_out, predicted_V)}
    return found
