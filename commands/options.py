"""Options that several commands share, and those made from the fields of a config."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from store import datasets
from store.errors import ConfigError, ManifestError, printable
from store.machine import DEVICE_HELP, DEVICES, check_device
from store.options import flag, type_name
from store.remote_url import RemoteUrl, is_url, redacted_url

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
        else {"int": int, "float": float, "str": str}.get(type_name(f))
    )
    return click.option(
        f"{name}/--no-{name[2:]}" if type_name(f) == "bool" else name,
        f.name,
        type=None if type_name(f) == "bool" else kind,
        default=f.default,
        metavar=f.metadata.get("metavar"),
        help=f.metadata["help"],
        show_default=f.metadata.get("default_text", True),
    )


class GivenPath(click.Path):
    """A path as a `Path`. An empty text is refused: it would mean the current folder.

    An empty text is what a shell makes of a variable that is not set (`--features "$FEATURES"`).
    """

    def __init__(self, *, folder: bool = False, present: bool = False) -> None:
        super().__init__(path_type=Path, file_okay=not folder, exists=present)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty text and a URL, and convert any other."""
        _refuse_empty(value, "path", self, param, ctx)
        if isinstance(value, str) and is_url(value):
            self.fail(
                f"{redacted_url(value)} is a URL, and this takes a path. `store pull` brings features from a "
                "URL; adapt, ablate and benchmark take one as --features.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class GivenPlace(GivenPath):
    """A path as a `Path`, or a URL as a `RemoteUrl`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty text, and convert any other."""
        if isinstance(value, RemoteUrl):
            return value
        if isinstance(value, str) and is_url(value):
            return RemoteUrl.of(value)
        return super().convert(value, param, ctx)


class GivenText(click.types.StringParamType):
    """A text that is not empty, for what would otherwise be searched for or chosen by it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty text."""
        return super().convert(_refuse_empty(value, "text", self, param, ctx), param, ctx)


class DeviceName(click.ParamType):
    """The name of a device, which need not be here: whoever uses it asks."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what is no such name."""
        try:
            check_device(str(value))
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def _refuse_empty(
    value: Any,
    what: str,
    kind: click.ParamType,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> Any:
    if value in ("", b""):
        advice = "Is a shell variable in it not set?"
        if isinstance(param, click.Option):
            advice += " To take the default, leave the option out."
        kind.fail(f"the {what} is empty. {advice}", param, ctx)
    return value


FEATURES = click.option(
    "--features",
    type=GivenPath(folder=True),
    default=Path("features"),
    show_default=True,
    help="Folder of the feature stores.",
)
FEATURES_OR_URL = click.option(
    "--features",
    type=GivenPlace(folder=True),
    default=Path("features"),
    show_default=True,
    help="Folder of the feature stores, or its URL (s3://, gs://, hf://, https://, ssh://): then what is "
    "needed is pulled into the cache first.",
)
MANIFESTS = click.option(
    "--manifests",
    "root",
    type=GivenPath(folder=True),
    default=datasets.OWN_MANIFESTS,
    show_default=True,
    help="Folder of your own benchmarks; it need not exist. The built-in ones are always there.",
)
MOVED_FEATURES = click.option(
    "--features",
    type=GivenPath(folder=True),
    help="Where the features lie now, if they have moved.",
)
MOVED_MANIFESTS = click.option(
    "--manifests",
    "root",
    type=GivenPath(folder=True),
    help="Where your own benchmarks lie now, if they have moved.",
)
DEVICE = click.option(
    "--device",
    type=DeviceName(),
    metavar=DEVICES,
    default="auto",
    show_default=True,
    help=DEVICE_HELP,
)


def _be_quiet(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_QUIET] = True
        logging.getLogger().setLevel(logging.WARNING)


def is_quiet() -> bool:
    """Return whether the running command was asked to print no progress (`--quiet`)."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(_QUIET))


_QUIET = f"{__name__}.quiet"
QUIET = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    expose_value=False,
    callback=_be_quiet,
    help="Show no progress and no remarks: only the result, warnings and errors.",
)
VIDEOS = click.option(
    "--videos",
    type=GivenPath(folder=True),
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
    """Return the folders of videos that were given, or the default one.

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
