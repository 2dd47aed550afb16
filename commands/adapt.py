"""`adapt`, `evaluate` and `ablate`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapt.config import AdaptConfig
from adapt.presets import DEFAULT_PRESETS, PRESETS
from commands.options import DEVICE, RunOptions, options_of, run_options
from commands.progress import AdaptProgress
from commands.text import say
from store import datasets
from store.errors import ConfigError, RunError
from store.machine import process_of

if TYPE_CHECKING:
    from adapt.evaluate import Accuracy
    from adapt.inputs import Loaded
    from adapt.study import Seeds


@click.command("adapt")
@run_options
@click.option(
    "--seeds",
    help="Several runs, e.g. 0,1,2,3,4, in folders below --run; the features are loaded once.",
)
@options_of(AdaptConfig)
def adapt_command(options: RunOptions, seeds: str | None, **given: Any) -> None:
    """Train on the labelled source and the unlabelled target, and test on the target's evaluation split.

    Works from cached features alone. Prints overall and class-mean accuracy after the last epoch; no
    target label is used before that. Under torchrun the processes share every batch.

    \b
    Example:
      python cli.py adapt --source ucf --target hmdb
      python cli.py adapt --source ucf --target hmdb --method source-only
      python cli.py adapt --source ucf --target hmdb --seeds 0,1,2,3,4
    """
    if seeds is not None and given["seed"] is not None:
        raise ConfigError("Give either --seed or --seeds.")
    several = None if seeds is None else _parse_seeds(seeds)
    config = _make_config(options.root, given)
    folder = _run_folder(options, config, f"seed{config.seed}" if several is None else "seeds")
    runs = [folder] if several is None else [folder / f"seed{seed}" for seed in several]
    with _ready(options, config, folder, runs) as ready:
        from adapt.experiment import adapt
        from adapt.runs import RunFolder
        from adapt.study import adapt_seeds

        if several is None:
            result = adapt(
                ready.config,
                ready.loaded,
                RunFolder(folder),
                **ready.keeping,
                on_epoch=lambda epoch, metrics: ready.progress(ready.config, epoch, metrics),
            )
        else:
            summary = adapt_seeds(
                ready.config,
                ready.loaded,
                folder,
                several,
                **ready.keeping,
                on_epoch=ready.progress,
            )
    if not ready.first:
        return
    if several is None:
        _say_accuracy(ready.config, result, folder)
    else:
        _say_seeds(ready.config, summary, folder)


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """What training needs once everything that can be refused was accepted."""

    config: AdaptConfig
    loaded: Loaded
    keeping: dict[str, Any]
    progress: AdaptProgress
    first: bool
    """Whether this process speaks and writes."""


@contextlib.contextmanager
def _ready(
    options: RunOptions, config: AdaptConfig, folder: Path, runs: Sequence[Path]
) -> Iterator[_Ready]:
    """Join the processes, look at the folders, load the features."""
    from adapt import parallel
    from adapt.compute import pick_device, resolve
    from adapt.inputs import Places, load
    from adapt.runs import RunFolder

    def check() -> dict[str, Any]:
        if not options.resume:  # before anything large is loaded
            for run in runs:
                RunFolder(run).refuse_used()
        return dataclasses.asdict(resolve(config, where, folder))

    where = pick_device(options.device, process_of(os.environ).local_rank)
    places = Places(
        features=options.features,
        manifests=options.root,
        store=options.store,
        allow_missing=options.allow_missing,
        bank=options.bank,
    )
    with parallel.group(os.environ, where):
        first = parallel.rank() == 0
        if not first:
            logging.getLogger().setLevel(logging.ERROR)
        config = AdaptConfig(**parallel.from_first(check))
        loaded = load(config, places, where)
        with AdaptProgress(config, runs=len(runs)) as progress:
            keeping = {"resume": options.resume, "checkpoint_every": options.checkpoint_every}
            yield _Ready(
                config=config, loaded=loaded, keeping=keeping, progress=progress, first=first
            )


def _make_config(root: Path, given: dict[str, Any]) -> AdaptConfig:
    benchmark = datasets.choose_benchmark(
        given["source"], given["target"], given.pop("benchmark"), root
    )
    preset = given.pop("preset")
    return AdaptConfig.make(benchmark=benchmark, preset=preset, given=given)


def _run_folder(options: RunOptions, config: AdaptConfig, suffix: str) -> Path:
    if options.run is not None:
        return options.run
    if options.resume:
        raise ConfigError("--resume needs --run, the folder of the run to go on with.")
    name = f"{config.method}-{config.preset}" if _says_preset(config) else config.method
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.source}-{config.target}" / f"{name}-{suffix}-{stamp}"


def _parse_seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise ConfigError(f"--seeds must be different numbers like 0,1,2, got {text!r}.")
    return [int(part) for part in parts]


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--features",
    type=click.Path(path_type=Path),
    help="Where the features lie now, if they have moved.",
)
@click.option(
    "--manifests",
    "root",
    type=click.Path(path_type=Path),
    help="Where your own benchmarks lie now, if they have moved.",
)
@DEVICE
def evaluate_command(run: Path, features: Path | None, root: Path | None, device: str) -> None:
    """Repeat a run's accuracy from its checkpoint.

    \b
    Example:
      python cli.py evaluate runs/ucf-hmdb/ma2l-td-tuned-seed0-20260101-120000
    """
    from adapt.compute import pick_device
    from adapt.experiment import evaluate
    from adapt.runs import RunFolder

    folder = RunFolder(run)
    config, result = evaluate(folder, pick_device(device), features, root)
    _say_accuracy(config, result, run)
    recorded = folder.result()
    if (recorded.overall, recorded.class_mean) != (result.overall, result.class_mean):
        raise RunError(
            f"The run recorded {recorded.overall:.2f} overall and {recorded.class_mean:.2f} class mean, "
            f"now it is {result.overall:.2f} and {result.class_mean:.2f}: another machine or version "
            "rounds otherwise, or the features or manifests were changed."
        )
    say("  the same as the run recorded")


def _say_seeds(config: AdaptConfig, summary: Seeds, folder: Path) -> None:
    from adapt.runs import SELECTION
    from adapt.study import deviation, mean

    videos = summary.results[0].videos
    say(
        f"{config.source} -> {config.target} ({config.benchmark}), {_method(config)}, "
        f"{len(summary.seeds)} seeds, {SELECTION}, {videos} target evaluation videos"
    )
    for name, values in (("overall", summary.overall), ("class mean", summary.class_mean)):
        spread = deviation(values)
        plus = "" if spread is None else f", deviation {spread:.2f}"
        each = ", ".join(f"{seed}: {value:.2f}" for seed, value in zip(summary.seeds, values))
        say(f"  {name}: mean {mean(values):.2f} %{plus} ({each})")
    say(f"  run folders: {folder}")


@click.command("ablate")
@run_options
@click.option("--seeds", default="0,1,2", show_default=True, help="One run of every row per seed.")
@click.option(
    "--sweep",
    type=click.Choice(["kernel,levels"]),
    help="The sweep of table 5 instead of the ablations of table 4.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="paper",
    show_default=True,
    help="What every row changes a point of.",
)
@options_of(AdaptConfig, leave_out=("seed", "method", "preset"))
def ablate_command(options: RunOptions, seeds: str, sweep: str | None, **given: Any) -> None:
    """Train the paper's ablations, or its sweep over kernel and levels, and write the table.

    Every row is the method with one thing changed, over several seeds, beside the paper's figure, which
    is labelled "reported". The table is written to table.md in the run folder.

    \b
    Example:
      python cli.py ablate --source ucf --target hmdb
      python cli.py ablate --source ucf --target hmdb --sweep kernel,levels
    """
    several = _parse_seeds(seeds)
    if sweep and any(given[name] is not None for name in ("kernel", "levels", "frames")):
        raise ConfigError("--sweep kernel,levels sets --kernel, --levels and --frames itself.")
    config = _make_config(options.root, given)
    folder = _run_folder(options, config, "sweep" if sweep else "ablations")
    from adapt.study import STUDIES, run_study

    rows = STUDIES[sweep or "ablations"]
    runs = [folder / row.folder / f"seed{seed}" for row in rows for seed in several]
    with _ready(options, config, folder, runs) as ready:
        text = run_study(
            ready.config,
            rows,
            ready.loaded,
            folder,
            several,
            **ready.keeping,
            on_epoch=ready.progress,
        )
    if ready.first:
        say(text)
        say(f"Written to {folder / 'table.md'}, the runs beside it.")


def _method(config: AdaptConfig) -> str:
    return f"{config.method} ({config.preset})" if _says_preset(config) else config.method


def _says_preset(config: AdaptConfig) -> bool:
    """MA2L-TD always says its preset, a method it is compared with only one that is not its own."""
    return config.method == "ma2l-td" or config.preset != DEFAULT_PRESETS[config.method]


def _say_accuracy(config: AdaptConfig, result: Accuracy, folder: Path) -> None:
    from adapt.runs import SELECTION

    say(
        f"{config.source} -> {config.target} ({config.benchmark}), {_method(config)}, "
        f"seed {config.seed}, {SELECTION}\n"
        f"  {result.videos} target evaluation videos: overall {result.overall:.2f} % "
        f"(95 % interval {result.low:.1f} to {result.high:.1f}), class mean {result.class_mean:.2f} %\n"
        f"  run folder: {folder}"
    )
