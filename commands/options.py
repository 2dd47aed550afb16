"""Options that several commands share, and those made from the fields of a config."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from adapt.config import BANKS, AdaptConfig
from adapt.presets import BENCHMARKS, METHOD_SETTINGS, PRESETS
from store import datasets
from store.errors import ManifestError, printable

SOME_FAILED = 3
"""Exit code: done, but some videos are missing or failed."""
Command = Callable[..., Any]


def options_of(config: type, *, leave_out: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """One click option per field of a config: name, type, default, choices and help from the field."""

    def decorate(command: Command) -> Command:
        for f in reversed(dataclasses.fields(config)):
            if f.name not in leave_out:
                command = _option_of(f, resolved_later=config is AdaptConfig)(command)
        return command

    return decorate


def _option_of(f: dataclasses.Field[Any], *, resolved_later: bool) -> Callable[[Command], Command]:
    flag = "--" + f.name.replace("_", "-")
    choices = f.metadata.get("choices")
    kind: Any = (
        click.Choice(choices)
        if choices
        else {"int": int, "float": float, "str": str}.get(str(f.type))
    )
    shown = f.metadata.get("default_text") or _defaults(f, from_tables=resolved_later)
    return click.option(
        f"{flag}/--no-{flag[2:]}" if f.type == "bool" else flag,
        f.name,
        type=None if f.type == "bool" else kind,
        required=f.metadata.get("required", False),
        default=None if resolved_later else f.default,
        help=f.metadata["help"],
        show_default=shown or False,
    )


def _defaults(f: dataclasses.Field[Any], *, from_tables: bool) -> str:
    """The field's default, and what presets, benchmarks and methods make of it."""
    texts = [] if f.default is dataclasses.MISSING else [str(f.default)]
    if from_tables:
        methods = {f"--method {name}": values for name, values in METHOD_SETTINGS.items()}
        for name, values in (PRESETS | BENCHMARKS | methods).items():
            texts += [f"{name}: {values[f.name]}"] if f.name in values else []
    return ", ".join(texts)


class GivenPath(click.Path):
    """A path as a `Path`. An empty text is refused: it would mean the current folder.

    An empty text is what a shell makes of a variable that is not set (`--features "$FEATURES"`).
    """

    def __init__(self, *, folder: bool = False) -> None:
        super().__init__(path_type=Path, file_okay=not folder)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty text, and convert any other."""
        return super().convert(_refuse_empty(value, "path", self, param, ctx), param, ctx)


class GivenText(click.types.StringParamType):
    """A text that is not empty, for what would otherwise be searched for or chosen by it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty text."""
        return super().convert(_refuse_empty(value, "text", self, param, ctx), param, ctx)


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
MANIFESTS = click.option(
    "--manifests",
    "root",
    type=GivenPath(folder=True),
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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every command that trains is told beside its config."""

    features: Path
    root: Path
    store: str | None
    allow_missing: bool
    run: Path | None
    device: str
    bank: str
    resume: bool
    checkpoint_every: int


_RUN_OPTIONS = (
    FEATURES,
    MANIFESTS,
    click.option(
        "--store",
        type=GivenText(),
        help="Which features, where several fit: a store's folder name or its beginning.",
    ),
    click.option(
        "--allow-missing", is_flag=True, help="Go on without listed videos that have no features."
    ),
    click.option(
        "--run",
        type=GivenPath(folder=True),
        help="Folder of what is trained.",
        show_default="runs/<source>-<target>/<method>-<seed, seeds or study>-<time>",
    ),
    DEVICE,
    click.option(
        "--bank",
        type=click.Choice(BANKS),
        default="auto",
        show_default=True,
        help="Where features are while training: device, host memory, or mapped files; auto: by size.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on with what is in --run where it was stopped, if it was.",
    ),
    click.option(
        "--checkpoint-every",
        type=click.IntRange(min=0),
        default=25,
        show_default=True,
        help="Epochs between checkpoints for --resume; 0: none.",
    ),
)


def run_options(command: Command) -> Command:
    """The options of `RunOptions`, which the command gets as its first argument."""

    @functools.wraps(command)
    def with_options(**given: Any) -> Any:
        names = [f.name for f in dataclasses.fields(RunOptions)]
        return command(RunOptions(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(_RUN_OPTIONS):
        with_options = option(with_options)
    return with_options


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
