"""timm's models as backbones (`--backbone timm:NAME`): names, preprocessing and weights.

Only this file knows timm, which need not be installed. A model is built without its classifier
(`num_classes=0`), so that it ends with the pooled features.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extract.config import TIMM, ExtractConfig
from extract.decode import FrameOptions
from extract.state_dicts import read_state_dict, short_network_timeout, state_sha256
from extract.untrained import calibrate_batch_norms, seed_of
from store.errors import ConfigError, WeightsError

_LAYER = "pooled, before the classifier (timm, num_classes=0)"
_SMALL = 1e-2


def resolved(options: ExtractConfig) -> ExtractConfig:
    """Return the options with timm's full name, `timm:MODEL.TAG`, and the weights that `auto` means.

    The tag decides what is done to a frame, whatever the weights are. It stands in the name, or it is
    given as the weights, or it is the first that timm lists for the model.

    Raises:
        ConfigError: timm is not installed, or knows no such model or tag.
    """
    given = options.backbone.removeprefix(TIMM)
    model, _, tag = given.partition(".")
    known, tags = _timm().list_models(), _tags(model)
    if model not in known:
        near = ", ".join(TIMM + name for name in difflib.get_close_matches(model, known))
        examples = near or "timm:vit_small_patch14_dinov2, timm:convnextv2_atto"
        raise ConfigError(f"timm has no model {model!r}. Examples: {examples}.")
    if tag and tag not in tags:
        raise ConfigError(
            f"timm has no weights {tag!r} of {model}. It has: {', '.join(tags) or 'none'}."
        )
    weights = options.weights
    if weights in tags and not tag:
        tag = weights
    elif weights in tags and weights != tag:
        raise ConfigError(
            f"--backbone names the weights {tag}, --weights {weights}. Name one of them."
        )
    tag = tag or (tags[0] if tags else "")
    name = f"{TIMM}{model}.{tag}" if tag else TIMM + model
    weights = tag if weights == "auto" else weights
    if not weights:
        raise WeightsError(
            f"timm publishes no weights of {model}. Give --weights PATH of a state dict, or random:SEED."
        )
    return dataclasses.replace(options, backbone=name, weights=weights)


def preprocessing(options: ExtractConfig) -> tuple[FrameOptions, list[float], list[float]]:
    """Return what timm's own evaluation transform does to a frame, and its mean and deviation.

    Raises:
        ConfigError: the model takes images that are not square or not RGB, or that are padded.
    """
    data = _data_config(options.backbone)
    channels, height, width = data["input_size"]
    if (channels, height) != (3, width) or data["crop_mode"] not in ("center", "squash"):
        raise ConfigError(
            f"{options.backbone} takes images of {channels} x {height} x {width} (crop mode "
            f"{data['crop_mode']}); only square RGB ones, cropped or squashed, are supported. "
            "Choose another model."
        )
    frames = FrameOptions(
        resize=math.floor(height / data["crop_pct"]),
        crop=height,
        interpolation=data["interpolation"],
        squash=data["crop_mode"] == "squash",
        stride=options.stride,
        frames_per_video=options.frames_per_video,
        keep_damaged=options.keep_damaged,
    )
    return frames, list(data["mean"]), list(data["std"])


def facts(name: str) -> dict[str, Any]:
    """Return what a store's config says of a timm model beyond what it says of all."""
    data = _data_config(name)
    return {"layer": _LAYER, "crop_pct": data["crop_pct"], "crop_mode": data["crop_mode"]}


def load(name: str, weights: str) -> tuple[nn.Module, str, str]:
    """Return a model without its classifier, the sha256 of its weights, and what they are called.

    Args:
        name, weights: as `resolved` gives them.

    Raises:
        WeightsError: the weights cannot be found, read or used.
    """
    if (seed := seed_of(weights)) is not None:
        model = _random(name, seed)
        digest = state_sha256(model.state_dict())
        _, side, _ = _data_config(name)["input_size"]
        calibrate_batch_norms(model, seed, side=side)
        return model, digest, weights
    if weights == name.partition(".")[2]:
        model, note = _published(name), weights
    else:
        model, note = _from_file(name, weights), Path(weights).name
    return model, state_sha256(model.state_dict()), note


def version() -> str:
    """Return the version of the package that is installed."""
    return str(_timm().__version__)


def width_of(model: nn.Module) -> int:
    """Return the length of a feature, D."""
    found: Any = model
    return int(getattr(found, "head_hidden_size", None) or found.num_features)


def _random(name: str, seed: int) -> nn.Module:
    """A model initialised from a seed, as timm does it but for scales that are nearly zero.

    With them (1e-5 in DINOv2) no block adds anything, and all images get the same feature.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(name)
    for key, value in model.named_parameters():
        if key.endswith("gamma") and value.numel() and value.abs().max() < _SMALL:
            nn.init.ones_(value)
    return model


def _published(name: str) -> nn.Module:
    repository = f"timm/{name.removeprefix(TIMM)}"
    try:
        with short_network_timeout():
            return _build(name, pretrained=True)
    except Exception as error:  # the hub's client raises classes of several packages
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"Cannot get the weights of {name} ({lines[0]}). Without a network: download "
            f"model.safetensors of the Hugging Face repository {repository} on another machine and give "
            "its path as --weights PATH. To try the pipeline with meaningless features: --weights random:0"
        ) from error


def _from_file(name: str, weights: str) -> nn.Module:
    model, path = _build(name), Path(weights)
    tags = ", ".join(_tags(name.removeprefix(TIMM).partition(".")[0])) or "none"
    state = read_state_dict(path, f"a tag of timm (of this model: {tags})")
    classifier: Any = _timm().get_pretrained_cfg(name.removeprefix(TIMM)).classifier or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    try:
        state = _as_named_here(model, state)
        found = model.load_state_dict(state, strict=False)
    except Exception as error:  # timm's conversions and torch raise many kinds on foreign files
        reason = " ".join(str(error).splitlines()[:2]).strip() or type(error).__name__
        raise WeightsError(f"{path} does not hold the weights of {name}: {reason}") from error
    others = [k for k in found.unexpected_keys if not k.startswith(tuple(f"{h}." for h in heads))]
    for keys, what in ((found.missing_keys, "missing"), (others, "unknown")):
        if keys:
            raise WeightsError(
                f"{path} does not hold the weights of {name}: {len(keys)} {what} (first: {keys[0]})."
            )
    return model


def _as_named_here(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Rename what a model's authors published, where timm has a function for it.

    It stands beside the model under this name; a state dict that needs it is refused without it.
    """
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return state if rename is None else rename(dict(state), model)


def _build(name: str, *, pretrained: bool = False) -> nn.Module:
    model: nn.Module = _timm().create_model(
        name.removeprefix(TIMM), pretrained=pretrained, num_classes=0
    )
    return model


def _data_config(name: str) -> dict[str, Any]:
    timm = _timm()
    published = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    data: dict[str, Any] = timm.data.resolve_data_config(pretrained_cfg=published.to_dict())
    return data


def _tags(model: str) -> list[str]:
    """The tags of a model's published weights, the default one first."""
    timm = _timm()
    names: list[str] = timm.list_pretrained(f"{model}.*")
    tags = [name.partition(".")[2] for name in names]
    if tags:
        default = timm.get_pretrained_cfg(model).tag
        tags.sort(key=lambda tag: (tag != default, tag))
    return tags


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"The models of timm need the package timm, which cannot be imported ({error}). Run: "
            "pip install '.[timm]' in the folder of this program, or pip install timm."
        ) from error
    logging.getLogger("timm").setLevel(logging.WARNING)
    return timm
