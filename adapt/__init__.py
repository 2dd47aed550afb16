"""Stage two: feature shards in, predictions out. The only place where gradients exist.

For programs in Python: `configure`, `load`, `train`, `evaluate` and `predict` (see `adapt.interface`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapt.interface import configure, evaluate, load, predict, train

__all__ = ["configure", "evaluate", "load", "predict", "train"]


def __getattr__(name: str) -> Any:
    """Import the interface, and torch with it, only when it is used."""
    if name in __all__:
        from adapt import interface

        return getattr(interface, name)
    raise AttributeError(f"module 'adapt' has no attribute {name!r}")
