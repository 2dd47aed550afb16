"""`store push` and `store pull`, and features from a URL for the commands that train."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.options import MANIFESTS, QUIET, GivenPath, GivenPlace, GivenText
from commands.progress import TransferProgress
from commands.text import say
from store.errors import StoreError, counted, first_of
from store.inventory import some_store_folders
from store.machine import keep_freed_memory, process_of
from store.remote_url import RemoteUrl

if TYPE_CHECKING:
    from adapt.listing import DataOptions

_REPLACE = "Where the same shards are there with other contents, put {} in their place."


@click.command("push")
@click.argument("source", metavar="SRC", type=GivenPath(folder=True))
@click.argument("place", metavar="URL", type=GivenPlace(folder=True))
@click.option(
    "--licence",
    type=GivenText(),
    help="For the card (README.md).",
    show_default="what the card there says, or unknown",
)
@click.option("--replace", is_flag=True, help=_REPLACE.format("yours"))
@click.option(
    "--take-over",
    is_flag=True,
    help="Push although another push is under way there. Only if that one was killed.",
)
@QUIET
def push_command(
    source: Path, place: Path | RemoteUrl, licence: str | None, replace: bool, take_over: bool
) -> None:
    """Upload feature stores, or what is missing of them: to S3, Google Cloud, the Hub, SFTP or a folder.

    SRC is a store, the folder of a data set, or the folder of all features. URL is the folder of all
    features there: a store goes to URL/DATASET/STORE, and is merged with what is there. Only shards that
    are missing are sent, each is checked after it arrived, and the index is written last and read again.
    A README.md is written beside it, and on the Hub one that lists all stores at the root of the
    repository, which is what the Hub shows. Credentials are found where the tools of each service keep them.

    \b
    Example:
      python cli.py store push features s3://our-bucket/features
      python cli.py store push features/ucf101 hf://datasets/our-team/ucf101-features --licence cc-by-4.0
    """
    from store.push import check_licence, push, writable
    from store.root_card import write_root_card

    keep_freed_memory()  # the blocks of a file, whose memory would be faulted in anew each time
    if licence is not None:
        check_licence(licence)
    folders = some_store_folders(source)
    root = writable(_url(place))
    with TransferProgress("push") as progress:
        for folder in folders:
            done = push(
                folder,
                root,
                replace=replace,
                take_over=take_over,
                licence=licence,
                progress=progress,
            )
            sent = (
                f"{counted(done.shards, 'shard', of=done.listed)} sent, {done.bytes / 1e6:,.1f} MB"
            )
            say(f"{done.url}: {sent if done.changed or done.shards else 'nothing to send'}")
    write_root_card(root)


@click.command("pull")
@click.argument("place", metavar="URL", type=GivenPlace(folder=True))
@click.argument("dest", metavar="[DEST]", type=GivenPath(folder=True), default=Path("features"))
@click.option(
    "--benchmark",
    type=GivenText(),
    help="Take only the shards that hold this benchmark's videos.",
)
@click.option(
    "--dataset", type=GivenText(), multiple=True, help="Take only this data set. Several: again."
)
@click.option(
    "--store",
    "chosen",
    type=GivenText(),
    help="Take only stores whose folder has this name, or this beginning of it.",
)
@click.option("--replace", is_flag=True, help=_REPLACE.format("those from there"))
@MANIFESTS
@QUIET
def pull_command(
    place: Path | RemoteUrl,
    dest: Path,
    benchmark: str | None,
    dataset: tuple[str, ...],
    chosen: str | None,
    replace: bool,
    root: Path,
) -> None:
    """Download feature stores, or what is missing of them, into DEST/DATASET/STORE.

    URL is the folder of all features, of a data set, or of a store: s3://, gs://, hf://, http(s)://,
    ssh:// or a path. DEST is `features` unless it is given. After a kill or a broken connection the same
    command goes on where it stopped, in the middle of a shard too. A shard whose sha256 is not the
    index's is never kept. With --benchmark the other videos are listed as pending, so the store is one
    that is not complete; another pull completes it.

    \b
    Example:
      python cli.py store pull s3://our-bucket/features
      python cli.py store pull hf://datasets/our-team/ucf101-features --benchmark ucf-hmdb-full
    """
    from store.pull import pull
    from store.remote import open_remote
    from store.remote_stores import benchmark_videos, stores_at

    keep_freed_memory()
    needed = benchmark_videos(benchmark, root) if benchmark else None
    url, pulled, other = _url(place), 0, []
    with TransferProgress("pull") as progress:
        for found in stores_at(open_remote(url)):
            name = found.tables.index["dataset"]
            if (
                (needed is not None and name not in needed)
                or (dataset and name not in dataset)
                or not found.name.startswith(chosen or "")
            ):
                other.append(found.place)
                continue
            done = pull(
                found,
                dest,
                videos=needed[name] if needed else None,
                replace=replace,
                progress=progress,
            )
            pulled += 1
            say(
                f"{done.folder}: {counted(done.shards, 'shard')} fetched, {done.bytes / 1e6:,.1f} MB; "
                f"{counted(done.here, 'shard', 'is', of=done.listed)} here"
            )
    if not pulled:
        left = (
            f"; {counted(len(other), 'other', 'was')} left out {first_of(other)}" if other else ""
        )
        raise StoreError(
            f"There is no such store in {url}{left}. Check that the bucket, repository and path exist."
        )


def _url(place: Path | RemoteUrl) -> RemoteUrl:
    return place if isinstance(place, RemoteUrl) else RemoteUrl.of(str(place))


def data_options(given: Mapping[str, Any], benchmark: str, domains: Sequence[str]) -> DataOptions:
    """Return which features are trained on; those at a URL are pulled into the cache first.

    Args:
        given: the options `features`, `root`, `store`, `allow_missing` and `bank`.
        domains: those that are trained and tested on.

    Raises:
        Ma2lError: the domains are unknown, or their features cannot be pulled.
    """
    from adapt.listing import DataOptions

    features, store, root = given["features"], given["store"], given["root"]
    if isinstance(features, RemoteUrl):
        from store.remote_cache import cached
        from store.remote_stores import domain_videos

        videos = domain_videos(benchmark, domains, root)
        if process_of(os.environ).local_rank:  # the first process of a machine shows it
            found = cached(features, videos, chosen=store)
        else:
            with TransferProgress("pull") as progress:
                found = cached(features, videos, chosen=store, progress=progress)
        features, store = found.features, found.store
    return DataOptions(
        features=features,
        manifests=root,
        store=store,
        allow_missing=given["allow_missing"],
        bank=given["bank"],
    )
