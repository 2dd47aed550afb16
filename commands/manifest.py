"""`manifest list` and `check`, and the group of the others."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from commands.from_folder import manifest_from_folder
from commands.label import manifest_label
from commands.options import INPUT, MANIFESTS, SOME_FAILED, VIDEOS, video_folders
from commands.text import say
from store import datasets
from store.errors import ManifestError, counted, first_of, printable
from store.manifest import has_no_labels, read_manifest


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
            train, held_out = (sum(v.is_in(split) for v in videos) for split in ("train", "eval"))
            if has_no_labels(videos):
                held_out = sum(video.label is not None for video in videos)
            classes = len({video.label for video in videos} - {None})
            known = f"{held_out:>6} {classes:>8}" if classes else f"{'no labels':>15}"
            say(f"{benchmark:<20} {domain:<12} {dataset:<16} {train:>7} {known}")
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
    folder = VideoFolder(video_folders(dataset, videos), kind, listed)
    found = {video: folder.candidates(video) for video in listed}
    missing = [video for video, paths in found.items() if not paths]
    unclear = [video for video, paths in found.items() if len(paths) > 1]
    say(
        f"{dataset}: {counted(len(listed) - len(missing), 'listed video', 'is', of=len(listed))} in {folder} "
        f"({counted(len(folder), 'video')} there in all)"
    )
    if unclear:
        names = ", ".join(printable(path) for _, path in found[unclear[0]])
        say(f"  {len(unclear):,} could be several files (first: {unclear[0]}: {names})")
    if missing:
        reason = folder.why_missing(missing[0])
        say(f"  {counted(len(missing), 'video', 'is')} missing {first_of(missing)}: {reason}")
    if folder.left_out:
        say(f"  {left_out_note(folder.left_out)}")
    if missing or unclear:
        sys.exit(SOME_FAILED)


manifest_group.add_command(manifest_from_folder)
manifest_group.add_command(manifest_label)
