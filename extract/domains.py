"""Which domains a user's own benchmark has, and that no video is in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from store.errors import ManifestError, counted, first_of, printable
from store.manifest import Video, has_no_labels


def kept_domains(
    folders: Mapping[str, Path],
    unlabelled: Mapping[str, Path],
    recorded: Mapping[str, Sequence[Video]] | None,
) -> dict[str, Sequence[Video]]:
    """Return the recorded rows of the domains that are not named.

    Args:
        folders, unlabelled: the named domains with and without labels, and their folders.
        recorded: the rows of the benchmark that is updated; None of a new one.

    Raises:
        ManifestError: too few domains, or others than were recorded.
    """
    named = {**folders, **unlabelled}
    if recorded is None:
        if len(named) < 2:
            raise ManifestError(
                f"Adaptation needs two domains or more, got {len(named)}. Give another --domain NAME=DIR, or "
                "--unlabelled NAME=DIR."
            )
        if not folders:
            raise ManifestError(
                f"All {len(named)} domains are without labels, and adaptation learns from one that has "
                "them. Give it with --domain NAME=DIR, in one folder per class."
            )
        return {}
    new = [domain for domain in named if domain not in recorded]
    if new:
        raise ManifestError(
            f"The benchmark has no domain {new[0]}; it has {', '.join(recorded)}. To add a domain, make the "
            "benchmark again with --overwrite and all domains: a split depends on the id alone, so with the "
            "same --split-seed and --eval-fraction no video moves."
        )
    for domain in named:
        without = has_no_labels(recorded[domain])
        if without != (domain in unlabelled):
            has, option = ("no labels", "unlabelled") if without else ("labels", "domain")
            raise ManifestError(
                f"The domain {domain} has {has} in this benchmark. Read its folder again with --{option} "
                f"{domain}=DIR, or make the benchmark again with --overwrite and all domains."
            )
    return {domain: rows for domain, rows in recorded.items() if domain not in named}


def refuse_one_inside_another(folders: Mapping[str, Path]) -> None:
    """Make sure that no domain's folder is, or lies in, that of another.

    Raises:
        ManifestError: one is.
    """
    for (one, a), (other, b) in combinations(folders.items(), 2):
        real_a, real_b = a.resolve(), b.resolve()
        if real_a == real_b:
            raise ManifestError(
                f"{one} and {other} are the same folder ({printable(real_a)}). Name the folder of each "
                "domain."
            )
        if real_a in real_b.parents or real_b in real_a.parents:
            outer, inner = (one, other) if real_a in real_b.parents else (other, one)
            raise ManifestError(
                f"The folder of {inner} ({printable(folders[inner])}) lies inside that of {outer} "
                f"({printable(folders[outer])}), so its videos would be in both domains. Move it out."
            )


def refuse_shared_videos(real_paths: Mapping[str, frozenset[str]]) -> None:
    """Make sure that no file is in two domains, which links can do though the folders lie apart.

    Args:
        real_paths: domain -> where its videos really lie.

    Raises:
        ManifestError: one is.
    """
    for (one, a), (other, b) in combinations(real_paths.items(), 2):
        shared = sorted(a & b)
        if shared:
            raise ManifestError(
                f"{counted(len(shared), 'video', 'is')}, through links, in both {one} and {other} "
                f"{first_of(shared)}. A "
                "video belongs to one domain. Remove the links from one of them."
            )
