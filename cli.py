"""The commands. Only here are options parsed, texts printed and errors turned into exit codes.

Exit codes: 0 all done; 1 failed; 2 wrong usage; 3 done, but some videos are missing or failed.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adapt.config import BANKS, PRESETS, AdaptConfig
from extract import manifest as manifests
from extract.check import CHECKS, Kind, Problem, verify
from extract.check_sources import sources_in
from extract.compare import Pair, compare
from extract.config import ExtractConfig
from extract.errors import ConfigError, Ma2lError, ManifestError, RunError, StoreError, first_of
from extract.inventory import Summary, store_folders, summarise
from extract.plan import Place, place_of
from extract.store import FeatureStore, config_differences

# torch is imported inside the commands, so that --help answers at once and decoders start light.
if TYPE_CHECKING:
    from adapt.evaluate import Accuracy
    from adapt.study import Seeds
    from extract.run import Progress, Report

SOME_FAILED = 3
EXAMPLES = 3
"""How many problems of a kind are shown."""
RUN_FACTS = ("weights", "device", "torch", "torchvision")
"""What of a store's run block may explain a difference."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Command = Callable[..., Any]


class _Errors(click.Group):
    """Turns this project's errors into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Ma2lError, OSError) as error:
            failure = click.UsageError if isinstance(error, ConfigError) else click.ClickException
            raise failure(str(error)) from error
        except KeyboardInterrupt:
            click.echo(
                "\nStopped. What was finished is kept; run the same command to go on.", err=True
            )
            ctx.exit(130)


@click.group(cls=_Errors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Unsupervised video domain adaptation in two stages: extract features once, adapt many times.

    \b
    Example:
      python cli.py extract --dataset ucf101
      python cli.py extract --dataset hmdb51
      python cli.py adapt --source ucf --target hmdb
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)


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
    shown = f.metadata.get("default_text")
    if shown is None and f.name in PRESETS["paper"]:
        shown = ", ".join(f"{preset}: {values[f.name]}" for preset, values in PRESETS.items())
    if shown is None and f.default is not dataclasses.MISSING:
        shown = str(f.default)
    return click.option(
        f"{flag}/--no-{flag[2:]}" if f.type == "bool" else flag,
        f.name,
        type=None if f.type == "bool" else kind,
        required=f.metadata.get("required", False),
        default=None if resolved_later else f.default,
        help=f.metadata["help"],
        show_default=shown or False,
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
    default=manifests.MANIFESTS,
    show_default="data/manifests beside cli.py",
    help="Folder of the benchmarks.",
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


@main.command("extract")
@click.option("--dataset", required=True, help="ucf101, hmdb51, ... or a domain of your own.")
@VIDEOS
@FEATURES
@MANIFESTS
@options_of(ExtractConfig)
def extract_command(
    dataset: str, videos: tuple[Path, ...], features: Path, root: Path, **options: Any
) -> None:
    """Compute the features of a data set's frames and store them.

    Every video that any benchmark lists for the data set is looked up by name anywhere below --videos.
    Finished shards are kept: running again goes on where the last run stopped. Missing and unreadable
    videos are named in failures.csv, and the exit code is then 3. Ctrl-C keeps what is complete.
    Several processes share the work by themselves under torchrun or SLURM.

    \b
    Example:
      python cli.py extract --dataset ucf101 --videos /data/UCF-101
    """
    config = ExtractConfig(**options)
    listed = manifests.dataset_videos(dataset, root)
    folders = _video_folders(dataset, videos)
    place = place_of(os.environ, config.rank, config.world)
    from extract.run import extract

    with _StopSignals() as signals, _ExtractProgress(dataset, place) as progress:
        report = extract(
            dataset=dataset,
            videos=listed,
            video_roots=folders,
            features=features,
            options=config,
            place=place,
            on_progress=progress,
            stopped=signals.stopped,
        )
    _say_extracted(dataset, listed, report)
    if report.stopped:
        click.echo("Stopped; what was complete is stored. Run the same command to go on.", err=True)
        sys.exit(128 + signals.number)
    totals = report.index["totals"]
    if totals["missing"] or totals["failed"]:
        sys.exit(SOME_FAILED)


def _video_folders(dataset: str, videos: tuple[Path, ...]) -> tuple[Path, ...]:
    folders = videos or (Path("data/videos") / dataset,)
    for folder in folders:
        if not folder.is_dir():
            raise ManifestError(
                f"There is no folder {folder} with the videos of {dataset}. Put or link them there, or "
                "give --videos DIR; the layout below it does not matter."
            )
    return folders


class _StopSignals:
    """The first Ctrl-C or SIGTERM asks the run to end in order, the second ends it at once."""

    number = 0

    def __enter__(self) -> _StopSignals:
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def stopped(self) -> bool:
        return self.number > 0

    def _note(self, number: int, frame: object) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        click.echo("\nStopping: storing what is complete. Once more ends at once.", err=True)


def _say_extracted(dataset: str, listed: Mapping[str, int | None], report: Report) -> None:
    from extract.run import shorter_than_claimed, unlike_published

    totals = report.index["totals"]
    rate = report.new_frames / report.seconds
    click.echo(
        f"{dataset}: {totals['stored']:,} of {totals['listed']:,} listed videos are stored, "
        f"{totals['frames']:,} frames, in {report.folder}\n"
        f"  made now: {report.new_videos:,} videos, {report.new_frames:,} frames in {report.seconds:,.0f} s "
        f"({rate:,.1f} frames/s), weights {report.weights}, on {report.index['run']['device']}"
    )
    reasons = {
        "missing": "have no file",
        "failed": "could not be stored",
        "pending": "are left to do",
    }
    for status, what in reasons.items():
        bad = [r for r in report.records.values() if r.status == status]
        if bad:
            reason = f": {bad[0].error}" if status == "failed" else ""
            click.echo(f"  {len(bad):,} {what} (first: {bad[0].video}{reason})")
    if totals["missing"] or totals["failed"]:
        click.echo(f"  all of them with their reasons: {report.folder / 'failures.csv'}")
    stored = list(report.records.values())
    short = shorter_than_claimed(stored)
    if short:
        first = short[0]
        click.echo(
            f"  {len(short):,} gave fewer frames than their container claims, stored as decoded "
            f"(first: {first.video}: {first.decoded_frames} of {first.container_frames})"
        )
    unlike = unlike_published(listed, stored)
    if unlike:
        first = unlike[0]
        click.echo(
            f"  {len(unlike):,} have another number of frames than published, stored as decoded "
            f"(first: {first.video}: {first.decoded_frames}, published {listed[first.video]})"
        )


STORE = click.option(
    "--store", help="Which features, where several fit: a store's folder name or its beginning."
)
ALLOW_MISSING = click.option(
    "--allow-missing", is_flag=True, help="Go on without listed videos that have no features."
)
BANK = click.option(
    "--bank",
    type=click.Choice(BANKS),
    default="auto",
    show_default=True,
    help="Where features are while training: device, host memory, or mapped files; auto: by size.",
)
RESUME = click.option(
    "--resume", is_flag=True, help="Go on with what is in --run where it was stopped, if it was."
)
CHECKPOINT_EVERY = click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    default=25,
    show_default=True,
    help="Epochs between checkpoints for --resume; 0: none.",
)


@main.command("adapt")
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
    with _AdaptProgress(config, runs=len(several or [0])) as progress:
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


@main.command("evaluate")
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


@main.command("ablate")
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
    with _AdaptProgress(config, runs=len(several) * len(rows)) as progress:
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


@main.group("manifest")
def manifest_group() -> None:
    """Say which videos exist: list benchmarks, make one of your own folders, check what is there."""


@manifest_group.command("list")
@MANIFESTS
def manifest_list(root: Path) -> None:
    """List the benchmarks with their domains, data sets and numbers of videos.

    \b
    Example:
      python cli.py manifest list
    """
    click.echo(
        f"{'benchmark':<20} {'domain':<12} {'data set':<16} {'train':>7} {'eval':>6} {'classes':>8}"
    )
    for benchmark, domains in manifests.benchmarks(root).items():
        for domain in domains:
            videos = manifests.read_manifest(root / benchmark / f"{domain}.csv")
            train = sum(video.split == "train" for video in videos)
            classes = len({video.label for video in videos})
            dataset = manifests.dataset_of(domain, root)
            click.echo(
                f"{benchmark:<20} {domain:<12} {dataset:<16} {train:>7} {len(videos) - train:>6} {classes:>8}"
            )


@manifest_group.command("check")
@click.option("--dataset", required=True, help="ucf101, hmdb51, ... or a domain of your own.")
@VIDEOS
@INPUT
@MANIFESTS
def manifest_check(dataset: str, videos: tuple[Path, ...], kind: str, root: Path) -> None:
    """Say how many of a data set's listed videos are in a folder, and which is the first that is not.

    \b
    Example:
      python cli.py manifest check --dataset ucf101 --videos /data/UCF-101
    """
    from extract.files import VideoFolder

    listed = manifests.dataset_videos(dataset, root)
    folder = VideoFolder(_video_folders(dataset, videos), kind)
    found = {video: folder.candidates(video) for video in listed}
    missing = [video for video, paths in found.items() if not paths]
    unclear = [video for video, paths in found.items() if len(paths) > 1]
    click.echo(
        f"{dataset}: {len(listed) - len(missing):,} of {len(listed):,} listed videos are in {folder} "
        f"({len(folder):,} videos there in all)"
    )
    if unclear:
        names = ", ".join(str(path) for _, path in found[unclear[0]])
        click.echo(f"  {len(unclear):,} could be several files (first: {unclear[0]}: {names})")
    if missing:
        click.echo(f"  {len(missing):,} are missing {first_of(missing)}")
    if missing or unclear:
        sys.exit(SOME_FAILED)


@manifest_group.command("from-folder")
@click.option("--benchmark", required=True, help="Name of the new benchmark.")
@click.option(
    "--domain", "domains", required=True, multiple=True, metavar="NAME=DIR", help="Twice or more."
)
@click.option(
    "--eval-fraction", default=0.3, show_default=True, help="Share of each class for evaluation."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the split.")
@click.option("--overwrite", is_flag=True, help="Replace a benchmark of that name.")
@INPUT
@MANIFESTS
def manifest_from_folder(
    benchmark: str,
    domains: tuple[str, ...],
    eval_fraction: float,
    seed: int,
    overwrite: bool,
    kind: str,
    root: Path,
) -> None:
    """Make a benchmark of your own folders: one folder per domain, in it one folder per class.

    Only classes that all domains share are kept. Of each class a seeded share goes to evaluation.

    \b
    Example:
      python cli.py manifest from-folder --benchmark mine --domain phone=DIR --domain cctv=DIR
    """
    folders = _parse_domains(benchmark, domains)
    if (root / benchmark).exists() and not overwrite:
        raise ManifestError(
            f"{root / benchmark} exists. Choose another --benchmark, or give --overwrite."
        )
    root.mkdir(parents=True, exist_ok=True)
    videos, left_out = manifests.from_folders(
        folders, eval_fraction=eval_fraction, seed=seed, kind=kind
    )
    manifests.refuse_name_clash(benchmark, videos, root)
    for domain, rows in videos.items():
        manifests.write_manifest(root / benchmark / f"{domain}.csv", rows)
        train = sum(video.split == "train" for video in rows)
        click.echo(f"{root / benchmark / domain}.csv: {train} train, {len(rows) - train} eval")
        if left_out[domain]:
            skipped = ", ".join(f"{name} ({n})" for name, n in left_out[domain].items())
            click.echo(f"  left out, because not every domain has them: {skipped}")
    click.echo(f"classes: {', '.join(manifests.classes_of(*videos.values()))}\nNext:")
    elsewhere = "" if root == manifests.MANIFESTS else f" --manifests {root}"
    for domain, folder in folders.items():
        click.echo(f"  python cli.py extract --dataset {domain} --videos {folder}{elsewhere}")
    source, target, *_ = folders
    click.echo(f"  python cli.py adapt --source {source} --target {target}{elsewhere}")


def _parse_domains(benchmark: str, domains: tuple[str, ...]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for item in domains:
        name, equals, folder = item.partition("=")
        if not equals or not folder or name in folders:
            raise ConfigError(f"--domain must be NAME=DIR with different names, got {item!r}.")
        folders[name] = Path(folder)
    for name in (benchmark, *folders):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"A name must be letters, digits, '.', '_' or '-', got {name!r}.")
    return folders


@main.group("store")
def store_group() -> None:
    """Look after the feature stores: say what is there, find damage, compare two of them."""


@store_group.command("list")
@FEATURES
def store_list(features: Path) -> None:
    """List the feature stores: what they hold, how they were made, whether they are complete.

    Folders without an index (their extraction has not finished a shard) and damaged ones are named too.
    Only tables and sizes are read here; `store verify` reads every byte.

    \b
    Example:
      python cli.py store list
    """
    for folder in store_folders(features):
        store = summarise(folder)
        click.echo(f"{store.name}: {_contents(store)}")
        if store.index:
            config = store.index["config"]
            names = ("preset", "stride", "frames_per_video", "compute_dtype")
            made = [
                f"{name.replace('_', ' ')} {config[name]}" for name in names if config.get(name)
            ]
            weights = f"weights {store.index['run'].get('weights', 'unknown')}"
            click.echo("  " + ", ".join([str(config.get("backbone")), weights, *made]))


def _contents(store: Summary) -> str:
    size = f"{store.bytes / 1e6:,.1f} MB"
    if not store.index:
        return f"{store.state}; {size}"
    totals = store.index["totals"]
    videos = f"{totals['stored']:,} of {totals['listed']:,} videos, {totals['frames']:,} frames"
    return f"{store.state}; {videos}, {size}"


@store_group.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--videos",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="Hash the source videos too, found below this folder. May be given several times.",
)
@click.option(
    "--sample",
    default=0,
    help="Extract N random videos of each store again and compare; needs --videos.",
)
@click.option("--weights", help="Where the weights are now, for --sample, if they have moved.")
@DEVICE
def store_verify(
    folder: Path, videos: tuple[Path, ...], sample: int, weights: str | None, device: str
) -> None:
    """Find every byte of a store that is not what was written, and everything that does not fit.

    DIR is a store, a data set's folder or the folder of all features. Checked are sizes and sha256 of all
    files, the tables against each other and against the shards, and of every video its record, shape,
    crc32 and finite values. Foreign files and what killed runs left are named. Exit code 1 if anything
    is wrong; every kind is listed with what to do. Videos that were never stored are no damage.

    \b
    Example:
      python cli.py store verify features/ucf101
      python cli.py store verify features/ucf101 --videos /data/UCF-101
    """
    if sample and not videos:
        raise ConfigError("--sample extracts videos again: name their folder with --videos DIR.")
    checks = [*CHECKS, sources_in(videos)] if videos else CHECKS
    folders = store_folders(folder)
    if not folders:
        raise StoreError(
            f"There is no feature store in {folder}. Run extract, or name another folder."
        )
    bad = 0
    for store in folders:
        problems = list(verify(store, checks))
        bad += bool(problems)
        found = f"{len(problems):,} problems" if problems else "no problem found"
        click.echo(f"{store}: {found} ({_contents(summarise(store))})")
        for kind in Kind:
            _say_problems(kind, [problem for problem in problems if problem.kind is kind])
        if sample and not problems:
            _say_sample(store, videos, sample, weights, device)
    if bad:
        sys.exit(1)


def _say_sample(
    folder: Path, videos: tuple[Path, ...], sample: int, weights: str | None, device: str
) -> None:
    from extract.resample import resample

    with FeatureStore(folder) as store:
        pairs = list(resample(store, videos, sample, weights=weights, device=device))
    same = sum(pair.identical for pair in pairs)
    worst = max(pairs, key=lambda pair: pair.error)
    cosine = min(pair.cosine_min for pair in pairs)
    unlike = [pair.video for pair in pairs if pair.frames_a != pair.frames_b]
    click.echo(
        f"  {len(pairs)} extracted again: {same} equal to the byte, largest error {worst.error:.2g} of the "
        f"variation between frames ({worst.video}), smallest cosine {cosine:.6f}"
    )
    if unlike:
        click.echo(f"  {len(unlike)} have another number of frames now {first_of(unlike)}")


def _say_problems(kind: Kind, problems: Sequence[Problem]) -> None:
    if problems:
        click.echo(f"  {len(problems):,} x {kind.label}. {kind.advice}")
        for problem in problems[:EXAMPLES]:
            click.echo(f"    {problem}")
        if len(problems) > EXAMPLES:
            click.echo(f"    and {len(problems) - EXAMPLES:,} more")


@store_group.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default="0, equal bytes",
    help="Largest error of a video that still counts as the same.",
)
@click.option("--show", default=10, show_default=True, help="List the N videos that differ most.")
@click.option("--allow-missing", is_flag=True, help="Judge only the videos that both stores have.")
def store_compare(a: Path, b: Path, tolerance: float, show: int, allow_missing: bool) -> None:
    """Compare the features of two stores video by video: are mine yours?

    A cosine alone proves little: features of any two frames are alike (0.9975 and more on an untrained
    network). So the error is given relative to what distinguishes frames at all, the variation between
    the frames of a video: ||a - b|| / ||b - mean(b)||. Exit code 0 if the configs are the same, both have
    the same videos, and every video has the same number of frames and equal bytes or an error within
    --tolerance; else 1.

    \b
    Example:
      python cli.py store compare features/ucf101/resnet101-1a2b3c4d /mnt/ucf101/resnet101-1a2b3c4d
    """
    with FeatureStore(a) as mine, FeatureStore(b) as yours:
        same_config = mine.config == yours.config
        differences = config_differences(mine.config, yours.config)
        click.echo("configs: the same" if same_config else f"configs differ: {differences}")
        runs = [
            {k: str(v) for k, v in s.index["run"].items() if k in RUN_FACTS} for s in (mine, yours)
        ]
        if runs[0] != runs[1]:
            click.echo(f"made with: {config_differences(*runs)}")
        lonely = [sorted(mine.records.keys() - yours.records.keys())]
        lonely += [sorted(yours.records.keys() - mine.records.keys())]
        both = len(mine.records.keys() & yours.records.keys())
        click.echo(f"videos: {both:,} in both")
        for name, videos in zip("AB", lonely):
            if videos:
                click.echo(f"  {len(videos):,} only in {name} {first_of(videos)}")
        pairs = list(compare(mine, yours))
    alike = _say_pairs(pairs, tolerance, show)
    if not (same_config and pairs and alike and (allow_missing or not any(lonely))):
        sys.exit(1)


def _say_pairs(pairs: Sequence[Pair], tolerance: float, show: int) -> bool:
    """Prints the comparison; whether all videos are the same within the tolerance."""
    unequal = [pair for pair in pairs if not pair.identical]
    unequal.sort(key=lambda pair: (pair.frames_a == pair.frames_b, -pair.error, pair.cosine_min))
    if unequal[:show]:
        click.echo(
            f"{'frames A':>9} {'frames B':>9} {'min cosine':>11} {'mean':>9} {'error':>9}  video"
        )
    for p in unequal[:show]:
        click.echo(
            f"{p.frames_a:>9,} {p.frames_b:>9,} {p.cosine_min:>11.6f} {p.cosine_mean:>9.6f} "
            f"{p.error:>9.2e}  {p.video}"
        )
    other_count = [pair for pair in unequal if pair.frames_a != pair.frames_b]
    beyond = [p for p in unequal if p.frames_a == p.frames_b and p.error > tolerance]
    within = len(unequal) - len(other_count) - len(beyond)
    counts = {
        f"an error within {tolerance:g}": within,
        f"an error above {tolerance:g}": len(beyond),
        "another number of frames": len(other_count),
    }
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    equal = f"{len(pairs) - len(unequal):,} of {len(pairs):,} videos have equal bytes"
    click.echo(", ".join([equal, *parts]))
    if pairs:
        click.echo(
            f"largest error {max(pair.error for pair in pairs):.2e}, "
            f"smallest cosine {min(pair.cosine_min for pair in pairs):.6f}"
        )
    return len(unequal) == within


@main.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/demo"),
    show_default=True,
    help="Where videos, manifests, features and runs of the demo go; it is made anew.",
)
def demo_command(folder: Path) -> None:
    """Show the whole road on videos that it makes itself: manifest, extract, adapt, evaluate.

    \b
    Example:
      python cli.py demo
    """
    from demo import run_demo

    run_demo(folder, main)


class _Lines:
    """A progress bar on a terminal; elsewhere a line every few seconds, so that logs stay readable."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def show(self, done: int, total: int, detail: str, left: str) -> None:
        """Show that `done` of `total` are done."""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = click.progressbar(
                    length=total,
                    label=self._label,
                    show_pos=True,
                    show_eta=False,
                    item_show_func=str,
                    file=sys.stderr,
                )
            self._bar.update(done - self._bar.pos, f"{detail}, {left} left")
        elif time.monotonic() - self._said > 5 or done == total:
            self._said = time.monotonic()
            click.echo(f"{self._label}: {done:,}/{total:,}, {detail}, {left} left", err=True)


class _ExtractProgress(_Lines):
    def __init__(self, dataset: str, place: Place) -> None:
        rank = f" (rank {place.rank} of {place.world})" if place.world > 1 else ""
        super().__init__(dataset + rank)
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.seconds - self._shown < 0.5 and progress.videos_done < progress.videos:
            return
        self._shown = progress.seconds
        rate = progress.frames_done / max(progress.seconds, 1e-9)
        done, total = progress.videos_done, progress.videos
        if progress.frames:  # frames tell the time left better than videos, where they are known
            done, total = progress.frames_done, max(progress.frames, progress.frames_done)
        left = progress.seconds / done * (total - done) if done else float("inf")
        parts = {
            "decoders": progress.decoders,
            "backbone": progress.backbone,
            "disk": progress.store,
        }
        slowest = max(parts, key=lambda name: parts[name])
        share = 100 * parts[slowest] / max(progress.seconds, 1e-9)
        self.show(
            progress.videos_done,
            progress.videos,
            f"{rate:,.1f} frames/s, waits for {slowest} {share:.0f} %",
            _duration(left),
        )


class _AdaptProgress(_Lines):
    def __init__(self, config: AdaptConfig, runs: int) -> None:
        super().__init__(f"{config.source} -> {config.target}")
        self._total = config.epochs * runs
        self._trained = 0
        self._runs: list[AdaptConfig] = []
        self._begin = time.monotonic()

    def __call__(self, config: AdaptConfig, epoch: int, metrics: Mapping[str, float]) -> None:
        self._trained += 1
        if config not in self._runs[-1:]:
            self._runs.append(config)
        done = (len(self._runs) - 1) * config.epochs + epoch
        seconds = (time.monotonic() - self._begin) / self._trained * (self._total - done)
        names = ("source", "entropy", "adversarial")
        losses = " ".join(f"{name} {metrics[name]:.3f}" for name in names if name in metrics)
        self.show(done, self._total, losses, _duration(seconds))


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


if __name__ == "__main__":
    main()
