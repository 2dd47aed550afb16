"""The weights of a torchvision model: published ones, a state dict of one's own, or seeded random ones."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from extract.untrained import build_model, calibrate_batch_norms
from store.errors import ConfigError, WeightsError


def load_model(backbone: str, weights: str) -> tuple[nn.Module, str, str]:
    """The model with its weights, the sha256 that identifies them, and where they came from.

    Raises:
        ConfigError: no such model.
        WeightsError: the weights cannot be found, read or used.
    """
    if backbone not in torchvision.models.list_models(module=torchvision.models):
        raise ConfigError(
            f"torchvision has no classification model {backbone!r}. "
            "Examples: resnet101, resnet50, mobilenet_v2, convnext_tiny, vit_b_16, swin_t."
        )
    if seed := re.fullmatch(r"random:(\d+)", weights):
        model = build_model(backbone, seed=int(seed[1]))
        # Before the calibration: its sums differ in the last bit between machines, and `random:0`
        # should name the same store on all of them.
        digest = state_sha256(model.state_dict())
        calibrate_batch_norms(model, int(seed[1]))
        return model, digest, weights
    model = build_model(backbone)
    if re.fullmatch(r"imagenet1k_\w+", weights):
        state, note = _download(backbone, weights), weights
    else:
        state, note = _read_state_dict(Path(weights)), Path(weights).name
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
        with _short_network_timeout():
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
        with _short_network_timeout():
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


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"There is no file {path}. --weights takes a torchvision name such as imagenet1k_v1, "
            "random:SEED, or the path of a state dict."
        )
    try:
        # weights_only: a state dict that would run code is refused.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} is not a state dict that can be loaded safely: {reason}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} is not a plain state dict (a mapping of names to tensors).")
    return state


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 over names, types, shapes and bytes, sorted by name: the same for every file format."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _short_network_timeout(seconds: float = 20.0) -> Iterator[None]:
    """A network that swallows packets must not hang the run for minutes."""
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
