"""Writing a user's own benchmarks, under names that nothing else has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from store.datasets import MANIFESTS, OWN_MANIFESTS, benchmarks, dataset_table, manifest_path
from store.errors import ManifestError, printable
from store.files import explained
from store.manifest import Video, read_manifest, write_manifests


def refuse_name_clash(
    benchmark: str,
    videos: Mapping[str, Sequence[Video]],
    root: Path = OWN_MANIFESTS,
    built_in: Path = MANIFESTS,
) -> None:
    """Make sure that a user's own benchmark and its domains do not take the name of something else.

    A data set is the union of its domain over all benchmarks, so one name must mean one pile of videos.

    Raises:
        ManifestError: the benchmark's name is built in, or a domain's name is a data set's or that of
            another benchmark's domain with no video in common.
    """
    real = root.resolve()
    if any(path.exists() and path.samefile(built_in) for path in (real, *real.parents)):
        raise ManifestError(
            f"{printable(root)} belongs to the built-in benchmarks. Give another --manifests for your own, "
            f"or leave the option out, which means ./{OWN_MANIFESTS}."
        )
    if (built_in / benchmark).exists():
        raise ManifestError(
            f"The name {benchmark!r} is taken by a benchmark that is built in. Choose another, e.g. "
            f"my-{benchmark}."
        )
    table = dataset_table(root, built_in)
    for domain, rows in videos.items():
        owner = "datasets.csv" if table.get(domain, domain) != domain else None
        for other, domains in benchmarks(root, built_in).items():
            if other == benchmark or domain not in domains:
                continue
            known = {v.id for v in read_manifest(manifest_path(other, domain, root, built_in))}
            if known.isdisjoint(video.id for video in rows):
                owner = owner or other
        if owner:
            raise ManifestError(
                f"The name {domain!r} is taken by other videos ({owner}). Choose another, e.g. my-{domain}."
            )


def write_benchmark(folder: Path, videos: Mapping[str, Sequence[Video]]) -> None:
    """Write the CSVs of a benchmark's domains, and remove those of domains that it no longer has.

    No CSV takes its final name or is removed before all are written.

    Raises:
        ManifestError: rows break a rule (nothing is changed then), or the folder cannot be written.
    """
    tables = {folder / f"{domain}.csv": rows for domain, rows in videos.items()}
    remedy = "Make room, or give another --manifests, then run the same command again."
    with explained(folder, ManifestError, remedy):
        write_manifests(tables)
        for path in folder.glob("*.csv"):
            if path not in tables and path.is_file() and not path.name.startswith("."):
                path.unlink()
