"""`adapt`, `evaluate` and `ablate`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapt.config import AdaptConfig
from commands.options import (
    ALLOW_MISSING,
    BANK,
    CHECKPOINT_EVERY,
    DEVICE,
    FEATURES,
    MANIFESTS,
    RESUME,
    STORE,
    options_of,
)
from commands.progress import AdaptProgress
from extract import manifest as manifests
from extract.errors import ConfigError, RunError

if TYPE_CHECKING:
    from adapt.evaluate import Accuracy
    from adapt.study import Seeds


@click.command("adapt")
@FEATURES
@MANIFESTS
@STORE
@ALLOW_MISSING
@click.option(
    "--run",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of this run.",
    show_default="runs/<source>-<target>/<method>-<time>",
)
@DEVICE
@BANK
@RESUME
@CHECKPOINT_EVERY
@click.option(
    "--seeds",
    help="Several runs, e.g. 0,1,2,3,4, in folders below --run; the features are loaded once.",
)
@options_of(AdaptConfig)
def adapt_command(
    features: Path,
    root: Path,
    store: str | None,
    allow_missing: bool,
    run: Path | None,
    device: str,
    bank: str,
    resume: bool,
    checkpoint_every: int,
    seeds: str | None,
    **given: Any,
) -> None:
    """Train on the labelled source and the unlabelled target, and test on the target's evaluation split.

    Works from cached features alone. Prints overall and class-mean accuracy after the last epoch; no
    target label is used before that.

    \b
    Example:
      python cli.py adapt --source ucf --target hmdb
      python cli.py adapt --source ucf --target hmdb --method source-only
      python cli.py adapt --source ucf --target hmdb --seeds 0,1,2,3,4
    """
    if seeds is not None and given["seed"] is not None:
        raise ConfigError("Give either --seed or --seeds.")
    several = None if seeds is None else _parse_seeds(seeds)
    config = _make_config(root, given)
    suffix = f"seed{config.seed}" if several is None else "seeds"
    folder = _run_folder(run, resume, config, suffix)
    from adapt.compute import resolve
    from adapt.experiment import adapt
    from adapt.inputs import Places, load
    from adapt.runs import RunFolder
    from adapt.study import adapt_seeds
    from extract.device import pick_device

    where = pick_device(device)
    config = resolve(config, where, folder)
    places = Places(
        features=features, manifests=root, store=store, allow_missing=allow_missing, bank=bank
    )
    if not resume:  # before anything large is loaded
        for below in [""] if several is None else [f"seed{seed}" for seed in several]:
            RunFolder(folder / below).refuse_used()
    loaded = load(config, places, where)
    keeping: Any = {"resume": resume, "checkpoint_every": checkpoint_every}
    with AdaptProgress(config, runs=len(several or [0])) as progress:
        if several is None:
            result = adapt(
                config,
                loaded,
                RunFolder(folder),
                **keeping,
                on_epoch=lambda epoch, metrics: progress(config, epoch, metrics),
            )
        else:
            summary = adapt_seeds(config, loaded, folder, several, **keeping, on_epoch=progress)
    if several is None:
        _say_accuracy(config, result, folder)
    else:
        _say_seeds(config, summary, folder)


def _make_config(root: Path, given: dict[str, Any]) -> AdaptConfig:
    benchmark = manifests.choose_benchmark(
        given["source"], given["target"], given.pop("benchmark"), root
    )
    preset = given.pop("preset") or "paper"
    return AdaptConfig.make(benchmark=benchmark, preset=preset, given=given)


def _run_folder(run: Path | None, resume: bool, config: AdaptConfig, suffix: str) -> Path:
    if run is not None:
        return run
    if resume:
        raise ConfigError("--resume needs --run, the folder of the run to go on with.")
    name = config.method if config.method == "source-only" else f"{config.method}-{config.preset}"
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
    help="Where the manifests lie now, if they have moved.",
)
@DEVICE
def evaluate_command(run: Path, features: Path | None, root: Path | None, device: str) -> None:
    """Repeat a run's accuracy from its checkpoint.

    \b
    Example:
      python cli.py evaluate runs/ucf-hmdb/ma2l-td-paper-seed0-20260101-120000
    """
    from adapt.experiment import evaluate
    from adapt.runs import RunFolder
    from extract.device import pick_device

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
    click.echo("  the same as the run recorded")


def _say_seeds(config: AdaptConfig, summary: Seeds, folder: Path) -> None:
    from adapt.runs import SELECTION
    from adapt.study import deviation, mean

    videos = summary.results[0].videos
    click.echo(
        f"{config.source} -> {config.target} ({config.benchmark}), {_method(config)}, "
        f"{len(summary.seeds)} seeds, {SELECTION}, {videos} target evaluation videos"
    )
    for name, values in (("overall", summary.overall), ("class mean", summary.class_mean)):
        spread = deviation(values)
        plus = "" if spread is None else f", deviation {spread:.2f}"
        each = ", ".join(f"{seed}: {value:.2f}" for seed, value in zip(summary.seeds, values))
        click.echo(f"  {name}: mean {mean(values):.2f} %{plus} ({each})")
    click.echo(f"  run folders: {folder}")


@click.command("ablate")
@FEATURES
@MANIFESTS
@STORE
@ALLOW_MISSING
@click.option(
    "--run",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the runs and the table.",
    show_default="runs/<source>-<target>/<method>-<study>-<time>",
)
@DEVICE
@BANK
@RESUME
@CHECKPOINT_EVERY
@click.option("--seeds", default="0,1,2", show_default=True, help="One run of every row per seed.")
@click.option(
    "--sweep",
    type=click.Choice(["kernel,levels"]),
    help="The sweep of table 5 instead of the ablations of table 4.",
)
@options_of(AdaptConfig, leave_out=("seed", "method"))
def ablate_command(
    features: Path,
    root: Path,
    store: str | None,
    allow_missing: bool,
    run: Path | None,
    device: str,
    bank: str,
    resume: bool,
    checkpoint_every: int,
    seeds: str,
    sweep: str | None,
    **given: Any,
) -> None:
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
    config = _make_config(root, given)
    folder = _run_folder(run, resume, config, "sweep" if sweep else "ablations")
    from adapt.compute import resolve
    from adapt.inputs import Places, load
    from adapt.study import STUDIES, run_study
    from extract.device import pick_device

    where = pick_device(device)
    config = resolve(config, where, folder)
    places = Places(
        features=features, manifests=root, store=store, allow_missing=allow_missing, bank=bank
    )
    rows = STUDIES[sweep or "ablations"]
    loaded = load(config, places, where)
    with AdaptProgress(config, runs=len(several) * len(rows)) as progress:
        text = run_study(
            config,
            rows,
            loaded,
            folder,
            several,
            resume=resume,
            checkpoint_every=checkpoint_every,
            on_epoch=progress,
        )
    click.echo(text)
    click.echo(f"Written to {folder / 'table.md'}, the runs beside it.")


def _method(config: AdaptConfig) -> str:
    return config.method if config.method == "source-only" else f"{config.method} ({config.preset})"


def _say_accuracy(config: AdaptConfig, result: Accuracy, folder: Path) -> None:
    from adapt.runs import SELECTION

    click.echo(
        f"{config.source} -> {config.target} ({config.benchmark}), {_method(config)}, "
        f"seed {config.seed}, {SELECTION}\n"
        f"  {result.videos} target evaluation videos: overall {result.overall:.2f} % "
        f"(95 % interval {result.low:.1f} to {result.high:.1f}), class mean {result.class_mean:.2f} %\n"
        f"  run folder: {folder}"
    )
