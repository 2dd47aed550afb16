"""What `adapt` and `ablate` share: where things lie, joining the processes, loading the features."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapt.config import BANKS, DATA, RUN, AdaptConfig
from commands.options import DEVICE, FEATURES_OR_URL, MANIFESTS, QUIET, GivenPath, GivenText
from commands.progress import AdaptProgress
from commands.remote import data_options
from commands.text import say
from store import datasets
from store.errors import ConfigError, shortened
from store.machine import process_of
from store.remote_url import RemoteUrl

if TYPE_CHECKING:
    from adapt.checkpoint import CheckpointPolicy
    from adapt.loading import Loaded


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every command that trains is told beside its config."""

    features: Path | RemoteUrl
    root: Path
    store: str | None
    allow_missing: bool
    bank: str
    run: Path | None
    device: str
    resume: bool
    checkpoint_every: int
    config_file: Path | None
    show_config: bool

    @staticmethod
    def taken_from(given: dict[str, Any]) -> RunOptions:
        """Take these options out of all that a command was given."""
        return RunOptions(**{f.name: given.pop(f.name) for f in dataclasses.fields(RunOptions)})


def run_options(*more: click.Option) -> dict[str, list[click.Option]]:
    """The options of `RunOptions` by group, and more of the group `RUN`."""
    return {
        DATA: [
            *_made(FEATURES_OR_URL, MANIFESTS),
            click.Option(
                ["--store"],
                type=GivenText(),
                help="Which features to use where several fit: the name of a store's folder, or its "
                "beginning.",
            ),
            click.Option(
                ["--allow-missing"],
                is_flag=True,
                help="Continue without listed videos that have no features.",
            ),
            click.Option(
                ["--bank"],
                type=click.Choice(BANKS),
                default="auto",
                show_default=True,
                help="Where features are while training: on the device, in host memory, or in mapped "
                "files; auto decides by their size.",
            ),
        ],
        RUN: [
            click.Option(
                ["--run"],
                type=GivenPath(folder=True),
                help="Folder for what is trained.",
                show_default="runs/<source>-<target>/<method>-<seed, seeds or study>-<time>",
            ),
            *_made(DEVICE, QUIET),
            click.Option(
                ["--resume"],
                is_flag=True,
                help="Go on with the run in --run where it was stopped.",
            ),
            click.Option(
                ["--checkpoint-every"],
                type=click.IntRange(min=0),
                default=25,
                show_default=True,
                help="Epochs between the states that a stopped run goes on from; 0: none.",
            ),
            click.Option(
                ["--config", "config_file"],
                type=GivenPath(),
                help="Take options from a file that --show-config printed, or from a run's config.json. "
                "Options that you give override it.",
            ),
            click.Option(
                ["--show-config"],
                is_flag=True,
                help="Print the resolved config and stop.",
            ),
            *more,
        ],
    }


def _made(*decorators: Any) -> list[click.Option]:
    """The options that click's decorators would add to a function."""

    def carrier() -> None:
        pass

    for decorate in reversed(decorators):
        decorate(carrier)
    return list(reversed(carrier.__click_params__))  # type: ignore[attr-defined]


def make_config(root: Path, given: dict[str, Any]) -> AdaptConfig:
    """The resolved config of what a command was given."""
    given = dict(given)
    benchmark = datasets.choose_benchmark(
        given["source"], given["target"], given.pop("benchmark", None), root
    )
    return AdaptConfig.make(benchmark=benchmark, preset=given.pop("preset", None), given=given)


def say_config(config: AdaptConfig) -> None:
    """Print a config as --config takes it back."""
    say(json.dumps(config.as_dict(), indent=1, ensure_ascii=False))


def run_folder(options: RunOptions, config: AdaptConfig, suffix: str) -> Path:
    """The folder that was given, or a new one named after the run.

    Raises:
        ConfigError: there is nothing to resume.
    """
    if options.run is not None:
        if options.resume and not options.run.is_dir():
            raise ConfigError(
                f"There is no folder {options.run} to resume. Check --run, or leave --resume out to "
                "train a new run there."
            )
        return options.run
    if options.resume:
        raise ConfigError("--resume needs --run, the folder of the run to go on with.")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{method_and_preset(config, '-')}-{suffix}-{stamp}"
    return Path("runs") / f"{'+'.join(config.sources)}-{config.target}" / name


def method_and_preset(config: AdaptConfig, joint: str = " ") -> str:
    """`ma2l-td (robust)`; a method that it is compared with says only a preset that is not its default."""
    from adapt import methods

    if config.method != "ma2l-td" and config.preset == methods.find(config.method).default_preset:
        return config.method
    return (
        f"{config.method}-{config.preset}" if joint == "-" else f"{config.method} ({config.preset})"
    )


def parse_seeds(text: str) -> list[int]:
    """`0,1,5-7` -> [0, 1, 5, 6, 7], each once.

    Raises:
        ConfigError: something else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        numbers = [first, last] if dash else [first]
        # Longer ones are beyond the largest seed, and some are more than Python makes a number of.
        plain = all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers)
        if not plain or int(numbers[-1]) < int(first):
            raise ConfigError(
                f"--seeds must be numbers or ranges like 0,1,5-7, got {shortened(text)}."
            )
        if int(numbers[-1]) - int(first) >= 1000:
            raise ConfigError(f"--seeds {text} asks for more than 1,000 runs.")
        seeds += range(int(first), int(numbers[-1]) + 1)
    return list(dict.fromkeys(seeds))


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What training needs once everything that can be refused was accepted."""

    config: AdaptConfig
    loaded: Loaded
    policy: CheckpointPolicy
    progress: AdaptProgress
    first: bool
    """Whether this process speaks and writes."""


@contextlib.contextmanager
def ready(
    options: RunOptions, config: AdaptConfig, folder: Path, runs: Sequence[Path]
) -> Iterator[Ready]:
    """Join the processes, look at the folders, load the features."""
    from adapt import parallel
    from adapt.checkpoint import CheckpointPolicy
    from adapt.compute import pick_device, resolve
    from adapt.loading import load
    from adapt.runs import RunFolder
    from adapt.study import refuse_other_runs

    def refuse_used() -> None:
        for run in () if options.resume else runs:
            RunFolder(run).refuse_used()

    def check() -> dict[str, Any]:
        refuse_used()  # before anything large is loaded
        standing = sorted(folder.rglob("config.json")) if options.resume else []
        recorded = RunFolder(standing[0].parent).read()[0].compute if standing else None
        resolved = resolve(config, device, recorded)
        refuse_other_runs(resolved, folder, runs)
        return resolved.as_dict()

    together = os.environ.get("WORLD_SIZE", "1")
    if together != "1" and (":" in options.device or options.device == "mps"):
        raise ConfigError(
            f"--device {options.device} is one device, and {together} processes train together. Use "
            "--device cuda: each process takes a GPU of its own."
        )
    device = pick_device(options.device, process_of(os.environ).local_rank)
    if isinstance(options.features, RemoteUrl):
        refuse_used()  # before anything is pulled
    data = data_options(vars(options), config.benchmark, (*config.sources, config.target))
    with parallel.group(os.environ, device):
        first = parallel.rank() == 0
        if not first:
            logging.getLogger().setLevel(logging.ERROR)
        config = AdaptConfig.load(parallel.from_first(check))
        loaded = load(config, data, device)
        with AdaptProgress(config, runs=len(runs)) as progress:
            yield Ready(
                config=config,
                loaded=loaded,
                policy=CheckpointPolicy(resume=options.resume, every=options.checkpoint_every),
                progress=progress,
                first=first,
            )
