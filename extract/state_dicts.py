"""State dicts: files of them, and the sha256 that identifies one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from store.errors import WeightsError


def read_state_dict(path: Path, named: str) -> Mapping[str, Tensor]:
    """Read a state dict that torch.save wrote, or a file of safetensors.

    Args:
        named: what `--weights` takes here beside a path, for the message.

    Raises:
        WeightsError: no such file, not such a file, or one that would run code.
    """
    if not path.is_file():
        raise WeightsError(
            f"There is no file {path}. --weights takes {named}, random:SEED, or the path of a state dict."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
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
def short_network_timeout(seconds: float = 20.0) -> Iterator[None]:
    """A network that swallows packets must not hang the run for minutes."""
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
