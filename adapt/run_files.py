"""The JSON files of a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from store.errors import RunError
from store.files import explained, write_text
from store.program import program

GO_ON = "Make room, then run the same command with --run and --resume: what was kept is kept."
"""What to do when a disk refuses a run's files."""


def write_json(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """Write a file all or nothing.

    Raises:
        RunError: the disk refuses.
    """
    with explained(folder / name, RunError, GO_ON):
        write_text(folder / name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    path = folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        listed = f"To see the runs that there are: {program()} runs list"
        if not folder.exists():
            raise RunError(f"There is no folder {folder}. {listed}") from None
        raise RunError(
            f"{folder} has no {name}: no run, or one that did not finish. {listed}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object.")
    return value
