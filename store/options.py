"""A field of a config is an option of a command: what is said of it, and what its values may be."""

from __future__ import annotations

import dataclasses
from typing import Any

from store.errors import ConfigError


def option(help_: str, *choices: str, **more: Any) -> dict[str, Any]:
    """Metadata of a field.

    Args:
        help_: a sentence for `--help`.
        choices: all the values there are, none if any will do.
        more: `least` of a number (0), `required`, `default_text`.
    """
    return {"help": help_, **({"choices": choices} if choices else {}), **more}


def check_options(config: Any) -> None:
    """Compare every field with its metadata.

    Raises:
        ConfigError: no such choice, or a number out of range.
    """
    for f in dataclasses.fields(config):
        value, choices = getattr(config, f.name), f.metadata.get("choices")
        flag = "--" + f.name.replace("_", "-")
        if choices and value not in choices:
            raise ConfigError(f"{flag} must be one of {', '.join(choices)}, got {value!r}.")
        least = f.metadata.get("least", 0)
        if f.type in ("int", "float") and not least <= value < float("inf"):
            raise ConfigError(f"{flag} must be {least} or more, got {value}.")
