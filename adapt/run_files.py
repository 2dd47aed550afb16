"""The JSON files of a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from adapt.accuracy import Accuracy
from store.errors import RunError
from store.files import explained, write_text
from store.program import program

GO_ON = "Make room, then run the same command with --run and --resume: what was kept is kept."
"""What to do when a disk refuses a run's files."""


def write_json(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """Write a file all or nothing.

    A byte of a path that is not UTF-8, which Python keeps as a lone surrogate, becomes the escape of that
    surrogate in JSON: the file is always UTF-8, and `read_json` gives the same path back.

    Raises:
        RunError: the disk refuses.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with explained(folder / name, RunError, GO_ON):
        write_text(folder / name, text.encode("utf-8", "backslashreplace").decode("utf-8"))


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


@dataclass(frozen=True, kw_only=True)
class Done:
    """What done.json says of a finished run; the last three are empty in a run of an older version."""

    target_eval: Accuracy | None
    """None where the target had no labels."""
    checkpoint_sha256: str
    selection: str
    """The rule that chose the epoch, as it is called where accuracies are printed."""
    epoch: int | None
    predicted: Mapping[str, int]
    """How many of the target's evaluation videos got each class, in the order of their labels."""
    rules: Mapping[str, Mapping[str, float]]
    """As `adapt.runs.Chosen.rules`."""


def read_done(folder: Path) -> Done:
    """Read done.json.

    Raises:
        RunError: the run did not finish, or the file is damaged.
    """
    record = read_json(folder, "done.json")
    try:
        fields = record["target_eval"]
        done = Done(
            target_eval=None if fields is None else Accuracy(**fields),
            checkpoint_sha256=record["checkpoint_sha256"],
            selection=record.get("selection", ""),
            epoch=record.get("epoch"),
            predicted=record.get("predicted", {}),
            rules=record.get("rules", {}),
        )
        if _is_whole(done):
            return done
    except (KeyError, TypeError, AttributeError):
        pass
    raise RunError(
        f"{folder / 'done.json'} is damaged: it does not hold the accuracies, the predictions of each class, "
        "the rules' epochs and the checkpoint's sha256 as a finished run writes them. Remove it and run "
        "with --resume, or train again."
    )


def _is_whole(done: Done) -> bool:
    """Return whether every value is of its type.

    Raises:
        AttributeError: a group of values is none.
    """
    *accuracies, transductive = astuple(done.target_eval) if done.target_eval else (False,)
    numbers = [*accuracies, *(number for rule in done.rules.values() for number in rule.values())]
    return (
        all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and all(type(count) is int for count in done.predicted.values())
        and type(done.epoch) in (int, type(None))
        and (type(done.checkpoint_sha256), type(done.selection)) == (str, str)
        and type(transductive) is bool
    )
