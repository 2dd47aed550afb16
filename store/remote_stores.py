"""Finding the stores at a URL, and the videos of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from store.datasets import OWN_MANIFESTS, benchmarks, dataset_of, manifest_path
from store.errors import ManifestError, StoreError
from store.format import is_store_name, renamed, store_name
from store.ids import is_plain_name
from store.manifest import read_manifest
from store.remote import Remote
from store.remote_tables import Tables, tables_at

_DEPTH = 2


@dataclass(frozen=True, kw_only=True)
class Found:
    """A store elsewhere: where it is, what its tables say, and the name of its folder."""

    remote: Remote
    tables: Tables
    name: str

    @property
    def place(self) -> Path:
        """Where it belongs below a folder of features: `<data set>/<folder>`."""
        return Path(self.tables.index["dataset"]) / self.name


def found_at(remote: Remote) -> Found | None:
    """Return the store whose folder a URL is; None if it is no store's.

    Raises:
        StoreError: it is damaged or has a name that is refused.
    """
    tables = tables_at(remote)
    if tables is None:
        return None
    return Found(remote=remote, tables=tables, name=_name_of(remote, tables))


def stores_at(remote: Remote, depth: int = _DEPTH) -> Iterator[Found]:
    """Yield the store at a URL, or those in its folder, or one folder further down.

    Raises:
        StoreError: one of them is damaged or has a name that is refused.
    """
    found = found_at(remote)
    if found is not None:
        yield found
    elif depth:
        for name in filter(is_plain_name, remote.folders()):
            yield from stores_at(remote.below(name), depth - 1)


def _name_of(remote: Remote, tables: Tables) -> str:
    """The name of a store's folder: as it is there, or by its config where it is no store's name there."""
    name = remote.url.name
    if not is_store_name(name):
        name = store_name(tables.index["config"])
    wrong = renamed(name, tables.index)
    if wrong or not is_plain_name(name):
        raise StoreError(f"{remote.url}: {wrong or f'{name[:60]!r} is no name of a folder'}.")
    return name


def benchmark_videos(benchmark: str, root: Path = OWN_MANIFESTS) -> dict[str, set[str]]:
    """Return data set -> ids of its videos, for all domains of a benchmark.

    Raises:
        ManifestError: there is no such benchmark.
    """
    known = benchmarks(root)
    if benchmark not in known:
        raise ManifestError(f"There is no benchmark {benchmark[:60]!r}. Known: {', '.join(known)}.")
    return domain_videos(benchmark, known[benchmark], root)


def domain_videos(
    benchmark: str, domains: Iterable[str], root: Path = OWN_MANIFESTS
) -> dict[str, set[str]]:
    """Return data set -> ids of its videos, for some domains of a benchmark.

    Raises:
        ManifestError: a manifest is absent or damaged.
    """
    return {
        dataset_of(domain, root): {
            video.id for video in read_manifest(manifest_path(benchmark, domain, root))
        }
        for domain in domains
    }
