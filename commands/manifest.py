"""`manifest list`, `check` and `from-folder`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from commands.options import (
    INPUT,
    MANIFESTS,
    SOME_FAILED,
    VIDEOS,
    video_folders,
)
from extract import manifest as manifests
from extract.errors import ConfigError, ManifestError, first_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@click.group("manifest")
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
    folder = VideoFolder(video_folders(dataset, videos), kind)
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
