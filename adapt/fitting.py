"""What is refused before training: a config and loaded data that do not fit together."""

from __future__ import annotations

import logging

from adapt import methods, parallel
from adapt.config import AdaptConfig
from adapt.data import batch_sizes
from adapt.loading import Loaded
from adapt.rules import FEWEST, NEED_FEATURES, NEED_SOURCE_VIDEOS, RULES
from store.errors import ConfigError

log = logging.getLogger(__name__)


def check_fits(config: AdaptConfig, loaded: Loaded) -> None:
    """Refuse what cannot be trained, and say what would train nothing.

    Raises:
        ConfigError: the data are of other domains or labels than the config's, the processes loaded
            different data or cannot share the batches, or the rule of the epoch needs videos or labels that
            are not there.
    """
    asked = (config.lists, config.source, config.target)
    if asked != loaded.domains:
        raise ConfigError(
            f"The config is for {asked[1]} -> {asked[2]} of {asked[0]}, and the loaded data is "
            f"{loaded.domains[1]} -> {loaded.domains[2]} of {loaded.domains[0]}. Load the data again."
        )
    if methods.find(config.method).reads_target_labels != loaded.reads_target_labels:
        raise ConfigError(
            f"The data was loaded with{'' if loaded.reads_target_labels else 'out'} the target's labels, "
            f"and --method {config.method} is to train {'without' if loaded.reads_target_labels else 'on'} "
            "them. Load the data again."
        )
    _check_batches(config, loaded)
    reason = methods.find(config.method).one_process
    if parallel.world() > 1 and reason:
        raise ConfigError(
            f"--method {config.method} trains in one process: start it without torchrun ({reason})."
        )
    _check_same_data(loaded)
    _check_rule(config, loaded)
    _check_labels(config, loaded)
    if config.rate_decay == "cosine" and config.epochs == 1:
        log.warning(
            "--rate-decay cosine ends with an epoch of rate 0, so a single epoch trains nothing. Give "
            "--epochs 2 or more, or another --rate-decay."
        )


def _check_same_data(loaded: Loaded) -> None:
    """Refuse processes that loaded different data, as those of several machines may.

    Each takes its share of batches that all of them draw alike, so the run would be of a mixture.
    """
    record = loaded.record
    values = {
        "store": record.store,
        "config of the features": record.feature_config_sha256,
        "features": str(record.features_sha256),
        "videos and labels": record.videos,
    }
    unlike = parallel.differing(values, loaded.data.device)
    if unlike:
        raise ConfigError(
            f"The processes that train together loaded other data than the first one: they differ in "
            f"{', '.join(unlike)}. Give all machines the same --features and --manifests: copy the stores "
            "with store push and store pull, because features that were extracted twice differ by rounding."
        )


def _check_batches(config: AdaptConfig, loaded: Loaded) -> None:
    """Refuse batches that the method cannot compare, or that the processes cannot share."""
    least = methods.find(config.method).least_videos
    for domain, size in zip(("source", "target"), batch_sizes(config, loaded.data)):
        parallel.check_divisible(size)
        if size * config.draws < least:
            raise ConfigError(
                f"--method {config.method} compares the videos of a domain and needs {least} of each in a "
                f"step, got {size} of the {domain}. Raise --batch-size, or use --target-batch equal."
            )


def _check_rule(config: AdaptConfig, loaded: Loaded) -> None:
    """Refuse a rule whose score cannot be computed, so that no run trains to its end for nothing."""
    method = methods.find(config.method)
    if config.select in NEED_FEATURES and method.function("fit") is not None:
        raise ConfigError(
            f"--select {config.select} needs what the classifier of a network sees, and --method "
            f"{config.method} has no network. Leave --select out: a fit has one epoch."
        )
    if config.select not in NEED_SOURCE_VIDEOS:
        return
    count = len(loaded.source_held_out)
    if loaded.reads_target_labels:
        why = f"--method {config.method} uses no video of the source. Choose another rule."
    elif method.for_target_alone:
        why = f"the model of --method {config.method} predicts the target's alone. Choose another rule."
    elif loaded.source_held_out_bank is None:
        why = (
            f"the {config.source} manifest of {config.benchmark} has no eval videos. Mark some in "
            "its column split, or choose another rule."
        )
    elif config.select == "dev" and count < FEWEST:
        why = f"estimates no risk from fewer than {FEWEST}, got {count}. Choose another rule."
    else:
        return
    raise ConfigError(f"--select {config.select} needs held-out source videos, and {why}")


def _check_labels(config: AdaptConfig, loaded: Loaded) -> None:
    """Refuse to choose by labels of the target where no video has one."""
    reads = config.select in RULES and RULES[config.select].reads_target_labels
    if reads and all(video.label is None for video in loaded.held_out):
        raise ConfigError(
            f"--select {config.select} reads the labels of the target, and no video of {config.target} has "
            "one. Choose another rule, or add labels with `manifest label`."
        )
