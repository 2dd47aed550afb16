"""`manifest list`, `check` and `from-folder`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from commands.options import (
    INPUT,
    MANIFESTS,
    SOME_FAILED,
    VIDEOS,
    video_folders,
)
from commands.text import say
from extract.from_folders import DEFAULT_RULE, SplitRule, from_folders
from store import datasets
from store.errors import ConfigError, ManifestError, first_of, printable
from store.ids import is_plain_name
from store.manifest import Video, read_manifest
from store.own_benchmarks import refuse_name_clash, write_benchmark
from store.program import program


@click.group("manifest")
def manifest_group() -> None:
    """List benchmarks, make one from your own folders, and check which videos are there."""


@manifest_group.command("list")
@MANIFESTS
def manifest_list(root: Path) -> None:
    """List the benchmarks with their domains, data sets and numbers of videos.

    \b
    Example:
      python cli.py manifest list
    """
    say(
        f"{'benchmark':<20} {'domain':<12} {'data set':<16} {'train':>7} {'eval':>6} {'classes':>8}"
    )
    unread = []
    for benchmark, domains in datasets.benchmarks(root).items():
        for domain in domains:
            dataset = datasets.dataset_of(domain, root)
            try:
                videos = read_manifest(datasets.manifest_path(benchmark, domain, root))
            except ManifestError as error:
                unread.append(str(error))
                continue
            train = sum(video.split == "train" for video in videos)
            classes = len({video.label for video in videos})
            say(
                f"{benchmark:<20} {domain:<12} {dataset:<16} {train:>7} {len(videos) - train:>6} {classes:>8}"
            )
    if unread:
        raise ManifestError("\n".join(unread))


@manifest_group.command("check")
@click.option("--dataset", required=True, help="ucf101, hmdb51, ... or a domain of your own.")
@VIDEOS
@INPUT
@MANIFESTS
def manifest_check(dataset: str, videos: tuple[Path, ...], kind: str, root: Path) -> None:
    """Count how many of a data set's listed videos are in a folder, and name the first that is missing.

    \b
    Example:
      python cli.py manifest check --dataset ucf101 --videos /data/UCF-101
    """
    from extract.videos import VideoFolder, left_out_note

    listed = datasets.dataset_videos(dataset, root)
    folder = VideoFolder(video_folders(dataset, videos), kind)
    found = {video: folder.candidates(video) for video in listed}
    missing = [video for video, paths in found.items() if not paths]
    unclear = [video for video, paths in found.items() if len(paths) > 1]
    say(
        f"{dataset}: {len(listed) - len(missing):,} of {len(listed):,} listed videos are in {folder} "
        f"({len(folder):,} videos there in all)"
    )
    if unclear:
        names = ", ".join(printable(path) for _, path in found[unclear[0]])
        say(f"  {len(unclear):,} could be several files (first: {unclear[0]}: {names})")
    if missing:
        reason = folder.why_missing(missing[0])
        say(f"  {len(missing):,} are missing {first_of(missing)}: {reason}")
    if folder.left_out:
        say(f"  {left_out_note(folder.left_out)}")
    if missing or unclear:
        sys.exit(SOME_FAILED)


@manifest_group.command("from-folder")
@click.option("--benchmark", required=True, help="Name of the new benchmark.")
@click.option(
    "--domain",
    "domains",
    required=True,
    multiple=True,
    metavar="NAME=DIR",
    help="A domain and its folder. Give it twice or more; with --update, for those to read again.",
)
@click.option(
    "--eval-fraction",
    default=DEFAULT_RULE.eval_fraction,
    show_default=True,
    help="Share of the videos for evaluation, where no folders are named train and test.",
)
@click.option(
    "--split-seed",
    default=DEFAULT_RULE.seed,
    show_default=True,
    help="Another number gives other splits. A video's split depends only on it and on the id.",
)
@click.option(
    "--update",
    is_flag=True,
    help="Read folders of a benchmark again: new videos are added, others keep their split.",
)
@click.option("--overwrite", is_flag=True, help="Replace a benchmark of that name.")
@INPUT
@MANIFESTS
def manifest_from_folder(
    benchmark: str,
    domains: tuple[str, ...],
    eval_fraction: float,
    split_seed: int,
    update: bool,
    overwrite: bool,
    kind: str,
    root: Path,
) -> None:
    """Make a benchmark from your own folders: one folder per domain, and in it one folder per class.

    Only classes that all domains have are kept. About the share --eval-fraction of the videos is held out
    for evaluation. A hash of each id decides which, so adding videos moves no other. If folders named
    train and test stand above the classes, they are the splits.

    \b
    Example:
      python cli.py manifest from-folder --benchmark mine --domain phone=DIR --domain cctv=DIR
      python cli.py manifest from-folder --benchmark mine --domain phone=DIR --update
    """
    if update and overwrite:
        raise ConfigError(
            "Give either --update, which keeps recorded splits, or --overwrite, which forgets them."
        )
    folders = _parse_domains(benchmark, domains)
    rule = SplitRule(eval_fraction=eval_fraction, seed=split_seed)
    refuse_name_clash(benchmark, {}, root)  # before folders are read, which may take long
    path = root / benchmark
    if path.exists() and not (update or overwrite):
        raise ManifestError(
            f"{printable(path)} exists. Choose another --benchmark, or give --update to add new videos, or "
            "--overwrite to replace it."
        )
    recorded = _recorded(benchmark, root) if update else None
    made = from_folders(folders, rule=rule, kind=kind, recorded=recorded)
    refuse_name_clash(benchmark, made.videos, root)
    write_benchmark(path, made.videos)
    for domain, rows in made.videos.items():
        train = sum(video.split == "train" for video in rows)
        say(
            f"{printable(path / domain)}.csv: {train} train, {len(rows) - train} eval"
            + (_changes(recorded[domain], rows, read=domain in folders) if recorded else "")
        )
        for note in made.notes.get(domain, ()):
            say(f"  {note}")
    _say_classes(made.videos, recorded)
    _say_next(folders, list(made.videos), kind, root)


def _recorded(benchmark: str, root: Path) -> dict[str, Sequence[Video]]:
    domains = datasets.benchmarks(root).get(benchmark)
    if domains is None:
        raise ManifestError(
            f"There is no benchmark {printable(root / benchmark)} to update. Without --update it is made."
        )
    return {d: read_manifest(datasets.manifest_path(benchmark, d, root)) for d in domains}


def _changes(before: Sequence[Video], now: Sequence[Video], *, read: bool) -> str:
    if not read:
        return " (not read again)"
    old, new = ({video.id for video in rows} for rows in (before, now))
    return f" ({len(new - old)} added, {len(old - new)} removed, {len(new & old)} kept)"


def _say_classes(
    videos: Mapping[str, Sequence[Video]], recorded: Mapping[str, Sequence[Video]] | None
) -> None:
    classes = {video.class_name: video.label for rows in videos.values() for video in rows}
    say(f"classes: {', '.join(sorted(classes, key=classes.__getitem__))}")
    before = {video.class_name for rows in (recorded or {}).values() for video in rows}
    if recorded and before != set(classes):
        changes = [f"{name} is new" for name in sorted(set(classes) - before)]
        changes += [f"{name} is gone" for name in sorted(before - set(classes))]
        say(
            f"WARNING: the classes changed ({', '.join(changes)}), and labels follow their sorted names. "
            "Features stay valid; runs that were trained before do not fit any more, train them again."
        )


def _say_next(folders: Mapping[str, Path], domains: Sequence[str], kind: str, root: Path) -> None:
    """Print the commands that come next, as they can be pasted into a shell."""
    elsewhere = "" if root == datasets.OWN_MANIFESTS else f" --manifests {_quoted(root)}"
    how = "" if kind == "videos" else f" --input {kind}"
    say("Next:")
    for domain, folder in folders.items():
        say(f"  {program()} extract --dataset {domain} --videos {_quoted(folder)}{how}{elsewhere}")
    named = [*folders, *(domain for domain in domains if domain not in folders)]
    say(f"  {program()} adapt --source {named[0]} --target {named[1]}{elsewhere}")


def _quoted(path: Path) -> str:
    """A path for the shell; what cannot be printed as an escape that bash and zsh read."""
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(escaped)}'"


def _parse_domains(benchmark: str, domains: tuple[str, ...]) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for item in domains:
        name, equals, folder = item.partition("=")
        if not equals or not folder or name in folders:
            raise ConfigError(f"--domain must be NAME=DIR with different names, got {item!r}.")
        folders[name] = Path(folder)
    for name in (benchmark, *folders):
        if not is_plain_name(name):
            raise ConfigError(f"A name must be letters, digits, '.', '_' or '-', got {name!r}.")
    return folders
