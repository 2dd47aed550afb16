"""A run's tensors on disk: the trained model, and what --resume goes on from.

Nothing that is loaded runs code, and every file's sha256 is compared with the one that was written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapt import methods
from adapt.config import AdaptConfig
from adapt.recolour import predicting, recolouring_for
from adapt.run_files import GO_ON, read_done
from adapt.runs import RunFolder
from store.errors import ConfigError, RunError
from store.files import explained, replacing, write_text
from store.format import config_differences
from store.recipe import Recipe

_PROGRESS, _DIGESTS, _CANDIDATES = "progress.pt", "progress.sha256", "candidates"


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """How a run is kept while it trains."""

    resume: bool = False
    """Go on with the run that stands in the folder, from the start if it was never kept."""
    every: int = 0
    """Epochs between two states to resume from; 0: none."""


KEEP_NOTHING = CheckpointPolicy()


def keep(run: RunFolder, state: Mapping[str, Any]) -> None:
    """Write what --resume goes on from, all or nothing.

    The digests of the old and of the new state are written first, so that a process that is killed
    between the two files leaves a state whose digest is known.

    Raises:
        RunError: the disk refuses.
    """
    path = run.path / _PROGRESS
    with explained(path, RunError, GO_ON):
        old = _digest(path.read_bytes()) if path.is_file() else ""
        data = _serialised(state)
        write_text(run.path / _DIGESTS, f"{_digest(data)}\n{old}\n")
        with replacing(path) as temporary:
            temporary.write_bytes(data)


def kept(run: RunFolder) -> dict[str, Any] | None:
    """The state that `keep` wrote last, None where there is none.

    Raises:
        RunError: it is damaged.
    """
    path = run.path / _PROGRESS
    if not run.has(_PROGRESS):
        return None
    known = (
        (run.path / _DIGESTS).read_text(encoding="utf-8", errors="replace").split()
        if (run.has(_DIGESTS))
        else []
    )
    return _load(path, path.read_bytes(), known, "Remove it to train this run from the start.")


def save_model(run: RunFolder, model: nn.Module, width: int, classes: Sequence[str]) -> str:
    """Write checkpoint.pt, tensors, numbers and names only; returns its sha256.

    With the run's config and the recipe of its features in it, the file alone is enough to predict.

    Raises:
        RunError: the disk refuses.
    """
    config, record = run.read()
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    data = _serialised(
        {
            "backbone_width": width,
            "classes": list(classes),
            "config": config.as_dict(),
            "recipe": record.recipe,
            "model": state,
        }
    )
    path = run.path / "checkpoint.pt"
    with explained(path, RunError, GO_ON), replacing(path) as temporary:
        temporary.write_bytes(data)
    return _digest(data)


def save_candidate(run: RunFolder, epoch: int, model: nn.Module) -> None:
    """Write the model of an epoch that may be chosen at the end; the file's name holds its sha256.

    Raises:
        RunError: the disk refuses.
    """
    data = _serialised({"model": {name: t.cpu() for name, t in model.state_dict().items()}})
    path = run.path / _CANDIDATES / f"epoch{epoch:06}-{_digest(data)}.pt"
    with explained(path, RunError, GO_ON):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)


def candidates(run: RunFolder) -> dict[int, Path]:
    """The files of `save_candidate` by epoch."""
    files = sorted((run.path / _CANDIDATES).glob("epoch??????-*.pt"))
    return {int(path.name[5:11]): path for path in files}


def load_candidate(run: RunFolder, epoch: int, model: nn.Module) -> None:
    """Give a model the values that it had at an epoch.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    path = candidates(run).get(epoch)
    if path is None:
        raise RunError(f"{run.path} has no model of epoch {epoch}. Train again.")
    loaded = _load(path, path.read_bytes(), [path.stem.partition("-")[2]], "Train again.")
    model.load_state_dict(loaded["model"])


@dataclass(frozen=True)
class Trained:
    """A trained model in evaluation mode, and what it was trained for."""

    model: nn.Module
    classes: list[str]
    backbone_width: int
    """D, the width of the features that it takes."""
    config: AdaptConfig
    recipe: Recipe | None
    """How its features were made, None where the run has not recorded it."""


def load_model(run: RunFolder, config: AdaptConfig) -> Trained:
    """The trained model of a run.

    Raises:
        RunError: the run did not finish, or the file is not the one that it wrote, or config.json was
            changed since.
    """
    path = run.path / "checkpoint.pt"
    if not run.has("checkpoint.pt"):
        raise RunError(f"{run.path} has no checkpoint.pt: the run did not finish.")
    checkpoint = _load(
        path, path.read_bytes(), [read_done(run.path).checkpoint_sha256], "Train again."
    )
    if "config" in checkpoint:  # not in those of older versions
        unlike = config_differences(_config_in(path, checkpoint).as_dict(), config.as_dict())
        if unlike:
            raise RunError(
                f"{run.path / 'config.json'} is not as the run wrote it: {unlike} (trained, and now). Change "
                "it back, or train with these options into another --run."
            )
    return _trained(path, checkpoint, config)


def load_file(path: Path) -> Trained:
    """The trained model of a checkpoint.pt without its run; nothing says whether it is as it was written.

    Raises:
        RunError: it is no checkpoint, or one of a version that did not write the config into it.
    """
    data = path.read_bytes()
    checkpoint = _load(path, data, [_digest(data)], "")
    if "config" not in checkpoint:
        raise RunError(f"{path} holds no config of its run. Name the run's folder instead.")
    return _trained(path, checkpoint, _config_in(path, checkpoint))


def _config_in(path: Path, checkpoint: Mapping[str, Any]) -> AdaptConfig:
    try:
        return AdaptConfig.load(checkpoint["config"])
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise RunError(f"{path} does not fit this version: {error}") from error


def _trained(path: Path, checkpoint: Mapping[str, Any], config: AdaptConfig) -> Trained:
    try:
        classes: list[str] = checkpoint["classes"]
        width: int = checkpoint["backbone_width"]
        # The values are replaced, so they need no start of their own.
        bare = dataclasses.replace(config, initialisation="default")
        method = methods.find(config.method)
        networks = method.build(bare, width, len(classes))
        model = predicting(config, networks.model, recolouring_for(config, width))
        model.load_state_dict(checkpoint["model"])
        recipe = Recipe.load(checkpoint.get("recipe"))
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} does not fit the run's config: {reason}") from error
    return Trained(model.eval(), classes, width, config, recipe)


def _serialised(value: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(value), buffer)
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _load(path: Path, data: bytes, known: Sequence[str], remedy: str) -> dict[str, Any]:
    """Tensors, numbers and names; a file that was changed, or that would run code, is refused."""
    if _digest(data) not in known:
        raise RunError(
            f"{path} is damaged or not from this run: its sha256 is not the one that was written "
            f"beside it. {remedy}"
        )
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, IndexError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} is not a checkpoint of this program: {reason}") from error
    if not isinstance(loaded, dict):
        raise RunError(f"{path} is not a checkpoint of this program.")
    return loaded
