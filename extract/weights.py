"""The weights of a backbone: published ones, a state dict of one's own, or seeded random ones."""

from __future__ import annotations

import dataclasses
import difflib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from extract import timm_models
from extract.config import ExtractConfig, is_timm
from extract.state_dicts import read_state_dict, short_network_timeout, state_sha256
from extract.untrained import build_model, calibrate_batch_norms, seed_of
from store.errors import ConfigError, WeightsError


def resolved(options: ExtractConfig) -> ExtractConfig:
    """Return the options with `auto` weights and preset, and a short timm name, replaced by what they mean.

    Raises:
        ConfigError: timm is asked for and not installed, or knows no such model.
    """
    if is_timm(options.backbone):
        return timm_models.resolved(dataclasses.replace(options, preset="timm"))
    preset = "ta3n" if options.preset == "auto" else options.preset
    weights = "imagenet1k_v1" if options.weights == "auto" else options.weights
    return dataclasses.replace(options, preset=preset, weights=weights)


def load_model(backbone: str, weights: str) -> tuple[nn.Module, str, str]:
    """The model with its weights, the sha256 that identifies them, and where they came from.

    Args:
        backbone, weights: as `resolved` gives them.

    Raises:
        ConfigError: no such model.
        WeightsError: the weights cannot be found, read or used.
    """
    if is_timm(backbone):
        return timm_models.load(backbone, weights)
    known = torchvision.models.list_models(module=torchvision.models)
    if backbone not in known:
        examples = difflib.get_close_matches(backbone, known) or ["resnet101", "vit_b_16", "swin_t"]
        raise ConfigError(
            f"torchvision has no classification model {backbone!r}. Examples: {', '.join(examples)}. "
            "Models of timm are named timm:NAME."
        )
    if (seed := seed_of(weights)) is not None:
        model = build_model(backbone, seed=seed)
        # Before the calibration: its sums differ in the last bit between machines, and `random:0`
        # should name the same store on all of them.
        digest = state_sha256(model.state_dict())
        calibrate_batch_norms(model, seed)
        return model, digest, weights
    model = build_model(backbone)
    if re.fullmatch(r"imagenet1k_\w+", weights):
        state, note = _download(backbone, weights), weights
    else:
        state, note = (
            read_state_dict(Path(weights), "a torchvision name such as imagenet1k_v1"),
            Path(weights).name,
        )
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        lines = str(error).splitlines()
        raise WeightsError(
            f"{weights} does not hold the weights of {backbone}: {' '.join(lines[:2]).strip()}"
        ) from error
    return model, state_sha256(model.state_dict()), note


def has_weights(backbone: str, weights: str) -> bool:
    """Whether named torchvision weights are at hand or can be downloaded now."""
    try:
        with short_network_timeout():
            _published(backbone, weights).get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError):
        return False
    return True


def _published(backbone: str, weights: str) -> Any:
    members = torchvision.models.get_model_weights(backbone)
    for member in members:
        if member.name.lower() == weights:
            return member
    names = ", ".join(m.name.lower() for m in members)
    raise WeightsError(f"torchvision publishes no {weights} weights for {backbone}, only: {names}.")


def _download(backbone: str, weights: str) -> Mapping[str, Tensor]:
    member = _published(backbone, weights)
    try:
        with short_network_timeout():
            state: Mapping[str, Tensor] = member.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"Cannot get the {weights} weights of {backbone} ({str(error).splitlines()[0]}). "
            "Without a network: download\n"
            f"  {member.url}\non another machine and put the file into\n  {folder}\n"
            "or give its path as --weights PATH. To try the pipeline with meaningless features: "
            "--weights random:0"
        ) from error
    return state
