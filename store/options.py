"""A field of a config is an option of a command: its metadata says what it is for and what it may be."""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from store.errors import ConfigError

LARGEST = 2**31 - 1
"""The largest integer that an option takes where its metadata names none."""


def option(help_: str, *, choices: Iterable[str] = (), **more: Any) -> dict[str, Any]:
    """Metadata of a config's field.

    Args:
        help_: a sentence for `--help`.
        choices: every value that the option may have; none means that any value will do.
        more: `group` (the heading in `--help`), `least` (of a number, 0 by default), `most`,
            `metavar` (what stands for a value in `--help`), `required`, `default_text` (shown instead of
            the default), `read_with` (a mapping of another option's name to the value, or a tuple of the
            values, with which alone this one is read).
    """
    return {"help": help_, **({"choices": tuple(choices)} if choices else {}), **more}


def flag(name: str) -> str:
    """The command-line spelling of a field's name: `batch_size` -> `--batch-size`."""
    return "--" + name.replace("_", "-")


def type_name(f: dataclasses.Field[Any]) -> str:
    """`int`, `float`, `str` or `bool`, whether or not the file defers its annotations."""
    return f.type if isinstance(f.type, str) else f.type.__name__


def check_options(config: Any) -> None:
    """Compare every field of a config with its metadata.

    Raises:
        ConfigError: a value of the wrong type, no such choice, or a number out of range.
    """
    for f in dataclasses.fields(config):
        check_option(f.name, type_name(f), f.metadata, getattr(config, f.name))


def check_option(name: str, kind: str, metadata: Mapping[str, Any], value: Any) -> None:
    """Compare one value with the type and the metadata of its field.

    Raises:
        ConfigError: as `check_options`.
    """
    types = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}.get(kind)
    if types and (not isinstance(value, types) or (kind != "bool" and isinstance(value, bool))):
        raise ConfigError(f"{flag(name)} must be of type {kind}, got {value!r}.")
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{flag(name)} must be one of {', '.join(choices)}, got {value!r}.")
    if kind in ("int", "float"):
        least = metadata.get("least", 0)
        most = metadata.get("most", LARGEST if kind == "int" else None)
        if not abs(value) <= sys.float_info.max:  # NaN, infinity, or an integer beyond all floats
            raise ConfigError(f"{flag(name)} must be a finite number, got {value}.")
        if value < least:
            raise ConfigError(f"{flag(name)} must be {least} or more, got {value}.")
        if most is not None and value > most:
            raise ConfigError(f"{flag(name)} must be {most} or less, got {value}.")


def parse_names(text: str, option: str) -> list[str]:
    """`run, "sit, down"` -> ["run", "sit, down"].

    Args:
        option: what takes the names, for the message.

    Raises:
        ConfigError: they are not different names with commas between them.
    """
    try:
        [names] = csv.reader([text], strict=True, skipinitialspace=True)
    except (csv.Error, ValueError) as error:
        raise ConfigError(
            f"{option} must be names with commas between them, got {text!r}. A name with a comma in it "
            "stands in double quotes."
        ) from error
    names = [name.strip() for name in names]
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(f"{option} must be different names and none blank, got {text!r}.")
    return names
