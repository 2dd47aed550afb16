"""The same as the commands `adapt` and `evaluate`, for programs in Python; and predictions from features.

Every function either does all of what it says or raises a `store.errors.Ma2lError`. What is refused leaves
nothing behind; a training that fails after it began leaves its folder, as the command's does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapt import experiment
from adapt.accuracy import Accuracy
from adapt.alongside import Beside
from adapt.checkpoint import CheckpointPolicy
from adapt.compute import pick_device, resolve
from adapt.config import DEFAULT_METHOD, AdaptConfig
from adapt.ensemble import Ensemble, load_seeds
from adapt.evaluation import Evaluator
from adapt.listing import DataOptions
from adapt.loading import Loaded
from adapt.loading import load as load_data
from adapt.runs import RunFolder
from store.datasets import OWN_MANIFESTS, choose_benchmark
from store.errors import StoreError
from store.format import stored_dtype


def configure(
    source: str,
    target: str,
    *,
    method: str = DEFAULT_METHOD,
    preset: str | None = None,
    benchmark: str | None = None,
    manifests: str | Path = OWN_MANIFESTS,
    **options: Any,
) -> AdaptConfig:
    """Resolve a config, as the command `adapt --show-config` does.

    Args:
        source, target: domains, e.g. "ucf" and "hmdb".
        preset: None for the method's default one.
        benchmark: None for the one with most videos that has both domains.
        manifests: folder of your own benchmarks; it need not exist.
        options: any option that the method reads, by its name with underscores: `batch_size=16`.

    Raises:
        Ma2lError: no such domain, benchmark, method, preset or option, or values that do not fit.
    """
    name = choose_benchmark(source, target, benchmark, Path(manifests))
    given = {**options, "source": source, "target": target, "method": method}
    return AdaptConfig.make(benchmark=name, preset=preset, given=given)


def load(
    config: AdaptConfig,
    *,
    features: str | Path = "features",
    manifests: str | Path = OWN_MANIFESTS,
    store: str | None = None,
    allow_missing: bool = False,
    device: str = "auto",
    bank: str = "auto",
) -> Loaded:
    """Make the features available that a config trains on; configs of one pair of domains can share them.

    Args:
        features: folder of the feature stores.
        store: the name of a store's folder, or its beginning, where several fit.
        device: auto, cpu, cuda, cuda:N or mps.
        bank: auto, device, host or mapped: where the features are while training.

    Raises:
        Ma2lError: manifests or features are missing, damaged, or were made differently.
    """
    options = DataOptions(
        features=Path(features),
        manifests=Path(manifests),
        store=store,
        allow_missing=allow_missing,
        bank=bank,
    )
    return load_data(config, options, pick_device(device))


def train(
    config: AdaptConfig,
    data: Loaded,
    run: str | Path,
    *,
    resume: bool = False,
    checkpoint_every: int = 0,
    baselines: bool = True,
    tensorboard: bool = False,
    on_epoch: Callable[[int, dict[str, Any]], None] = lambda epoch, metrics: None,
) -> Accuracy | None:
    """Train, evaluate on the target's evaluation videos, and leave a finished run folder.

    Args:
        run: a folder that is new or empty, or with `resume` that of a run which was stopped.
        checkpoint_every: epochs between two states that `resume` can go on from; 0: none.
        baselines: train source only along; baselines.json in the run's folder has it.
        tensorboard: write losses, scores, accuracies and weights for TensorBoard too, into `run`/tensorboard.
        on_epoch: called after every epoch with its number and its metrics.

    Returns:
        The accuracy, None where no video of the target has a label.

    Raises:
        Ma2lError: the folder holds something else, or training cannot go on.
    """
    folder = RunFolder(Path(run))
    recorded = folder.read()[0].compute if resume and folder.has("config.json") else None
    return experiment.adapt(
        resolve(config, data.data.device, recorded),
        data,
        folder,
        policy=CheckpointPolicy(resume=resume, every=checkpoint_every),
        beside=Beside(baselines=baselines, tensorboard=tensorboard),
        on_epoch=on_epoch,
    )


def evaluate(
    run: str | Path,
    *,
    device: str = "auto",
    features: str | Path | None = None,
    manifests: str | Path | None = None,
) -> Accuracy | None:
    """The accuracy of a finished run again, from its checkpoint and the cached features.

    Args:
        features, manifests: where they lie now, if they have moved.

    Returns:
        None where no video of the target has a label (yet: `manifest label` adds some).

    Raises:
        Ma2lError: the run did not finish, or its features are gone or were made differently.
    """
    evaluator = Evaluator(
        pick_device(device),
        None if features is None else Path(features),
        None if manifests is None else Path(manifests),
    )
    return evaluator.evaluate(RunFolder(Path(run))).result


@dataclass(frozen=True)
class Predictions:
    """What a run says of V videos, or several seeds of it together."""

    classes: tuple[str, ...]
    """The names of the N classes."""
    probabilities: np.ndarray
    """(V, N) float32; every row sums to 1."""

    @property
    def predicted(self) -> list[str]:
        """The most probable class of each video."""
        return [self.classes[i] for i in self.probabilities.argmax(axis=1)]


def predict(
    run: str | Path, features: Sequence[np.ndarray], *, device: str = "auto"
) -> Predictions:
    """Predict classes from the features of whole videos, as `FeatureStore.read` gives them.

    Each video is predicted on its own: the others beside it change nothing (see `WholeVideos`).

    Args:
        run: its folder, or a folder of runs that differ in their seed alone, which answer together.
        features: of each video an array (frames, D), made as the run's features were; they are rounded to
            the number type of the run's store, which is float16 unless it was imported as float32.

    Raises:
        Ma2lError: a run did not finish, the runs differ in more, or an array is not such a matrix of
            finite numbers.
    """
    where = pick_device(device)
    seeds = load_seeds(Path(run))
    trained = seeds[0]
    width = trained.backbone_width
    if not len(features):
        raise StoreError("There are no features to predict from.")
    dtype = stored_dtype(trained.recipe.config if trained.recipe else {})
    with np.errstate(over="ignore"):  # what is too large for it becomes inf, which is refused
        rounded = [np.asarray(x).astype(dtype) for x in features]
    for number, x in enumerate(rounded):
        if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] != width:
            raise StoreError(
                f"Video {number} of {len(rounded)} has features of shape {x.shape}; this run expects "
                f"(frames, {width})."
            )
        if not np.isfinite(x).all():
            raise StoreError(
                f"Video {number} of {len(rounded)} has features that are not finite in {dtype.name}."
            )
    answer = Ensemble(seeds, where)
    probabilities_VN = np.stack([answer.classify_all(x) for x in rounded])
    return Predictions(tuple(trained.classes), probabilities_VN)
