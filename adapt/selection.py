"""Scores along the way, and the models of the epochs that are best by one of them."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from adapt import checkpoint, methods, scores
from adapt.accuracy import accuracy_on
from adapt.config import AdaptConfig
from adapt.data import labels_of
from adapt.loading import Loaded
from adapt.loop import TrainingState
from adapt.methods import Networks
from adapt.prediction import Predicted, as_source, as_target, predict, predict_with_features
from adapt.rules import FEWEST, LAST, NEED_FEATURES, best_epochs, by_rule, selection_of
from adapt.runs import Chosen, RunFolder
from store.errors import ConfigError, RunError, counted


def score(
    config: AdaptConfig, state: TrainingState, loaded: Loaded, metrics: dict[str, Any]
) -> nn.Module | None:
    """Add the scores of an epoch to its metrics, if it is one that is scored.

    Returns:
        The model as it would predict if training ended now, None of an epoch that is not scored.
    """
    every, method = config.score_every, methods.find(config.method)
    last = state.epoch == config.epochs or method.function("fit") is not None
    if not every or (state.epoch % every and not last):
        return None
    model = as_target(config, state.networks, loaded.data)
    metrics["scores"] = measure(config, state.networks, model, loaded)
    return model


def measure(
    config: AdaptConfig, networks: Networks, model: nn.Module, loaded: Loaded
) -> dict[str, float]:
    """Every score that the data allow, by the names of `adapt.rules`; training is not disturbed.

    The label-free ones are taken over the target's training videos. Source videos are predicted with
    the source's batch norm statistics, as in training.

    Args:
        model: the networks' model as `as_target` makes it.

    Raises:
        ConfigError: the rule of the epoch needs a score that this model cannot have.
    """
    on_target = predict_with_features(model, loaded.data.target, config)
    if on_target.features_VC is None and config.select in NEED_FEATURES:
        raise ConfigError(
            f"--select {config.select} needs what the classifier sees, and the model of --method "
            f"{config.method} has no layer called classifier. Choose another rule."
        )
    found = scores.label_free(on_target.probabilities_VN)
    if on_target.features_VC is not None:
        found["ami"] = scores.cluster_agreement(on_target.probabilities_VN, on_target.features_VC)
    method = methods.find(config.method)
    if loaded.source_held_out_bank is not None and not method.for_target_alone:
        found |= _on_source(config, networks, loaded, on_target)
    predicted_V = predict(model, loaded.held_out_bank, config).argmax(dim=1)
    result = accuracy_on(predicted_V.tolist(), loaded.held_out)
    if result is not None:
        found |= {"oracle": result.overall, "oracle-class-mean": result.class_mean}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _on_source(
    config: AdaptConfig, networks: Networks, loaded: Loaded, on_target: Predicted
) -> dict[str, float]:
    """The accuracy on held-out source videos, and the risk on the target that follows from them."""
    assert loaded.source_held_out_bank is not None
    model = as_source(config, networks, loaded.data)
    held_out = predict_with_features(model, loaded.source_held_out_bank, config)
    labels_V = labels_of(loaded.source_held_out)
    right_V = held_out.logits_VN.argmax(dim=1) == labels_V
    found = {"source-val": 100 * right_V.double().mean().item()}
    if on_target.features_VC is None or held_out.features_VC is None or len(labels_V) < FEWEST:
        return found
    trained = predict_with_features(model, loaded.data.source, config)
    assert trained.features_VC is not None
    losses_V = nn.functional.cross_entropy(held_out.logits_VN, labels_V, reduction="none")
    weights_V = scores.density_ratios(
        trained.features_VC, on_target.features_VC, held_out.features_VC
    )
    risk = scores.embedded_validation(losses_V.double().numpy(), weights_V)
    return {**found, "dev": risk.risk, "dev-largest-weight": risk.largest_weight}


def keep(run: RunFolder, epoch: int, model: nn.Module) -> None:
    """Write the model of an epoch if a rule would choose it now.

    Raises:
        RunError: the disk refuses.
    """
    if epoch in best_epochs(run.metrics()).values():
        checkpoint.save_candidate(run, epoch, model)


def prune(run: RunFolder) -> None:
    """Remove the models that no rule would choose any more.

    Called where a state to resume from was just written: a run that goes on from an older state might
    need them again.
    """
    wanted = set(best_epochs(run.metrics()).values())
    for epoch, path in checkpoint.candidates(run).items():
        if epoch not in wanted:
            path.unlink()


def chosen(
    config: AdaptConfig, state: TrainingState, loaded: Loaded, run: RunFolder
) -> tuple[nn.Module, Chosen]:
    """The model of the epoch that --select takes, of a run whose last epoch is done.

    Raises:
        RunError: the epoch's model is not there any more, or no epoch has a score.
    """
    model = as_target(config, state.networks, loaded.data)
    metrics = run.metrics()
    epoch = best_epochs(metrics).get(config.select)
    if epoch is None:
        raise RunError(
            f"The score of --select {config.select} was a finite number in none of "
            f"{counted(len(metrics), 'epoch')}, so "
            "there is no epoch to take. Train again with another rule."
        )
    if config.select != LAST:
        checkpoint.load_candidate(run, epoch, model)
    prune(run)
    found = Chosen(selection=selection_of(config.select), epoch=epoch, rules=by_rule(metrics))
    return model, found
