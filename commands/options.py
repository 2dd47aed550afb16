"""Options that several commands share, and those made from the fields of a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from store import datasets
from store.errors import ManifestError, printable
from store.options import flag

SOME_FAILED = 3
"""Exit code: done, but some videos are missing or failed."""
Command = Callable[..., Any]


def options_of(config: type) -> Callable[[Command], Command]:
    """One click option per field of a config: name, type, default, choices and help from the field."""

    def decorate(command: Command) -> Command:
        for f in reversed(dataclasses.fields(config)):
            command = _option_of(f)(command)
        return command

    return decorate


def _option_of(f: dataclasses.Field[Any]) -> Callable[[Command], Command]:
    name = flag(f.name)
    choices = f.metadata.get("choices")
    kind: Any = (
        click.Choice(choices)
        if choices
        else {"int": int, "float": float, "str": str}.get(str(f.type))
    )
    return click.option(
        f"{name}/--no-{name[2:]}" if f.type == "bool" else name,
        f.name,
        type=None if f.type == "bool" else kind,
        default=f.default,
        help=f.metadata["help"],
        show_default=f.metadata.get("default_text", True),
    )


FEATURES = click.option(
    "--features",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("features"),
    show_default=True,
    help="Folder of the feature stores.",
)
MANIFESTS = click.option(
    "--manifests",
    "root",
    type=click.Path(path_type=Path, file_okay=False),
    default=datasets.OWN_MANIFESTS,
    show_default=True,
    help="Folder of your own benchmarks; it need not exist. The built-in ones are always there.",
)
DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: a GPU if there is one.",
)
VIDEOS = click.option(
    "--videos",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="Folder with the videos, in any layout. Several: give it several times.",
    show_default="data/videos/<dataset>",
)
INPUT = click.option(
    "--input",
    "kind",
    type=click.Choice(["videos", "frames"]),
    default="videos",
    show_default=True,
    help="Video files, or one folder of images per video.",
)


def video_folders(dataset: str, videos: tuple[Path, ...]) -> tuple[Path, ...]:
    """The folders given, or the default one.

    Raises:
        ManifestError: one of them is not there.
    """
    folders = videos or (Path("data/videos") / dataset,)
    for folder in folders:
        if not folder.is_dir():
            raise ManifestError(
                f"There is no folder {printable(folder)} with the videos of {dataset}. Put or link them "
                "there, or give --videos DIR; the layout below it does not matter."
            )
    return folders
