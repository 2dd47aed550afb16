"""From loaded features to a finished run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from adapt import checkpoint, parallel, selection
from adapt.accuracy import Accuracy, accuracy_on
from adapt.alongside import NOTHING_BESIDE, Beside, train_alongside
from adapt.attending import write_attention
from adapt.checkpoint import KEEP_NOTHING, CheckpointPolicy
from adapt.compute import resolve
from adapt.config import AdaptConfig
from adapt.environment import environment
from adapt.events import check_available, events_of
from adapt.fitting import check_fits
from adapt.loading import Loaded
from adapt.loop import TrainingState, train
from adapt.memory import check_memory
from adapt.prediction import predict
from adapt.recolour import predicting, recoloured
from adapt.runs import RunFolder
from store.errors import RunError
from store.machine import keep_freed_memory

log = logging.getLogger(__name__)


def adapt(
    config: AdaptConfig,
    loaded: Loaded,
    run: RunFolder,
    *,
    policy: CheckpointPolicy = KEEP_NOTHING,
    beside: Beside = NOTHING_BESIDE,
    on_epoch: Callable[[int, dict[str, Any]], None] = lambda epoch, metrics: None,
) -> Accuracy | None:
    """Train, evaluate on the target's evaluation split, and leave a finished run folder.

    Args:
        beside: what is made beside the run and changes none of its numbers.
        on_epoch: called after every epoch with its number and its metrics.

    Returns:
        The accuracy, None where no video of the target has a label.

    Raises:
        Ma2lError: the folder holds another run or is in use, or training cannot go on.
    """
    begin = time.monotonic()
    config = resolve(config, loaded.data.device)
    check_fits(config, loaded)
    if beside.tensorboard:
        check_available()
    with contextlib.ExitStack() as held:
        begun = parallel.from_first(lambda: _begin(held, config, loaded, run, policy))
        events = None
        if beside.tensorboard and parallel.rank() == 0:
            events = held.enter_context(events_of(run))
        if begun["finished"]:
            log.info("%s is finished already.", run.path)
            return _accuracy(begun["result"])
        keep_freed_memory()
        if beside.baselines:
            train_alongside(config, loaded, run, beside.on_baseline_epoch)
            begin = time.monotonic()
        state = TrainingState(config, loaded.data)
        if begun["state_dict"] is not None:
            _restore(state, begun["state_dict"], run)
            log.info("Going on after epoch %d of %d.", state.epoch, config.epochs)
        loaded = recoloured(config, loaded, state.recolouring, fit=begun["state_dict"] is None)

        def each_epoch(metrics: dict[str, Any]) -> None:
            if parallel.rank() > 0:
                return
            candidate = selection.score(config, state, loaded, metrics)
            run.log(metrics)
            if events is not None:
                events.add(metrics)
            if candidate is not None:
                selection.keep(run, state.epoch, candidate)
            if policy.every and state.epoch % policy.every == 0:
                checkpoint.keep(run, state.state_dict())
                selection.prune(run)
            on_epoch(state.epoch, metrics)

        train(config, loaded.data, state, each_epoch)
        return _accuracy(parallel.from_first(lambda: _finish(config, loaded, run, state, begin)))


def _begin(
    held: contextlib.ExitStack,
    config: AdaptConfig,
    loaded: Loaded,
    run: RunFolder,
    policy: CheckpointPolicy,
) -> dict[str, Any]:
    """Claim the folder; what stands in it: `finished` and `result`, or `state_dict` to go on from."""
    check_memory(config, loaded.data)
    held.enter_context(run.claimed())
    run.begin(config, loaded.record, environment(loaded.data.device), resume=policy.resume)
    if run.is_finished():
        return {"finished": True, "result": _fields(run.result())}
    state_dict = checkpoint.kept(run)
    run.forget_after(0 if state_dict is None else int(state_dict["epoch"]))
    selection.prune(run)
    return {"finished": False, "state_dict": state_dict}


def _fields(result: Accuracy | None) -> dict[str, Any] | None:
    """What processes can send to each other."""
    return None if result is None else dataclasses.asdict(result)


def _accuracy(fields: dict[str, Any] | None) -> Accuracy | None:
    return None if fields is None else Accuracy(**fields)


def _restore(state: TrainingState, state_dict: dict[str, Any], run: RunFolder) -> None:
    try:
        state.load_state_dict(state_dict)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(
            f"{run.path / 'progress.pt'} does not fit the run's config: "
            f"{str(error).splitlines()[0]}. Remove it to train this run from the start."
        ) from error


def _finish(
    config: AdaptConfig, loaded: Loaded, run: RunFolder, state: TrainingState, begin: float
) -> dict[str, Any] | None:
    """Evaluate, write what a finished run leaves, and return the fields of its accuracy."""
    model, chosen = selection.chosen(config, state, loaded, run)
    classes = loaded.data.classes
    stored = predicting(config, model, state.recolouring)
    write_attention(config, state, loaded, run)
    digest = checkpoint.save_model(run, stored, loaded.data.source.width, classes)
    logits_VN = predict(model, loaded.held_out_bank, config)
    probabilities_V, predicted_V = logits_VN.softmax(dim=1).max(dim=1)
    result = accuracy_on(predicted_V.tolist(), loaded.held_out)
    run.finish(
        result,
        videos=loaded.held_out,
        predicted=predicted_V.tolist(),
        probabilities=probabilities_V.tolist(),
        classes=classes,
        checkpoint_sha256=digest,
        chosen=chosen,
        seconds=time.monotonic() - begin,
    )
    return _fields(result)
