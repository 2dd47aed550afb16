"""Features that `adapt --features URL` needs, kept in this machine's cache for the next run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from store.checksums import cache_folder
from store.errors import StoreError, UnreachableError
from store.format import INDEX, is_store_name
from store.ids import is_plain_name
from store.pull import pull
from store.remote import Progress, Remote, open_remote
from store.remote_stores import Found, found_at
from store.remote_url import RemoteUrl

log = logging.getLogger(__name__)


def cache_of(url: RemoteUrl) -> Path:
    """Return the folder of features in the cache in which the stores of a URL are kept.

    It lies in `$XDG_CACHE_HOME/ma2l-td/features` (or `~/.cache/...`). Its name tells no password.
    """
    digest = hashlib.sha256(str(url).encode()).hexdigest()[:12]
    name = url.name if is_plain_name(url.name) else url.protocol
    return cache_folder() / "features" / f"{name}-{digest}"


@dataclass(frozen=True)
class Cached:
    """Where the features are now."""

    features: Path
    store: str | None
    """The one store that all data sets have, if there is one; None leaves the choice to others."""


def cached(
    url: RemoteUrl,
    videos: Mapping[str, set[str]],
    *,
    chosen: str | None = None,
    progress: Progress | None = None,
) -> Cached:
    """Bring the shards that hold some videos into the cache.

    Where several stores fit, only their tables are brought, so that whoever chooses can name them. If the
    server cannot be reached and the cache has stores of all data sets, those are used, and a warning says
    so. Videos that they lack are then reported as in any store that is not complete.

    Args:
        url: the folder of features, with `<data set>/<store>` in it.
        videos: data set -> ids of the videos.
        chosen: the beginning of the names of the stores that are meant; None for all.

    Raises:
        UnreachableError: the server cannot be reached and the cache lacks a data set.
        StoreError: there are no such stores, or what is there is not what its index says.
    """
    features = cache_of(url)
    try:
        remote = open_remote(url)
        stores = {dataset: _stores_of(remote, dataset, chosen) for dataset in videos}
        common = set.intersection(*(set(found) for found in stores.values()))
        one = next(iter(common)) if len(common) == 1 else None
        for dataset, found in stores.items():
            for name in [one] if one else found:
                ids = videos[dataset] if one else set()
                pulled = pull(found[name], features, videos=ids, replace=True, progress=progress)
                if pulled.shards:
                    log.info(
                        "Pulled %d shards (%.1f MB) of %s from %s to %s.",
                        *(pulled.shards, pulled.bytes / 1e6, found[name].place, url, features),
                    )
        return Cached(features, one or chosen)  # the cache may hold others that are no longer there
    except UnreachableError as error:
        if not all(list((features / d).glob(f"*/{INDEX}")) for d in videos):
            raise
        log.warning(f"{error}\nGoing on with what was pulled before: {features}")
    return Cached(features, chosen)


def _stores_of(remote: Remote, dataset: str, chosen: str | None) -> dict[str, Found]:
    """Return the stores of a data set by name, those that begin as chosen if there are any.

    Raises:
        StoreError: there is none.
    """
    folder = remote.below(dataset)
    names = [name for name in folder.folders() if is_store_name(name) and is_plain_name(name)]
    names = [name for name in names if name.startswith(chosen or "")] or names
    found = [found_at(folder.below(name)) for name in names]
    stores = [store for store in found if store is not None]
    other = [store for store in stores if store.tables.index["dataset"] != dataset]
    if other:
        raise StoreError(
            f"{other[0].remote.url} is a store of {other[0].tables.index['dataset']}, not of {dataset}. "
            "Push it again, to the folder of all features."
        )
    if not stores:
        raise StoreError(
            f"There is no store of {dataset} in {remote.url}. It must be the folder of all features, with "
            f"{dataset}/BACKBONE-CONFIG in it, as store push makes it. Check the URL, bucket and path."
        )
    return {store.name: store for store in stores}
