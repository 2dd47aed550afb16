"""The videos that a domain lists, what the labelled domains must have, and what they do not teach."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from store.datasets import manifest_path
from store.errors import ConfigError, ManifestError, counted, first_of
from store.manifest import Video, chosen_classes, has_no_labels, read_manifest, with_classes
from store.options import parse_names

log = logging.getLogger(__name__)


def listed_videos(
    benchmark: str, domain: str, source: str, classes: str, manifests: Path
) -> Sequence[Video]:
    """Return a domain's videos, of the chosen classes alone if there is a choice.

    Args:
        source: the first source domain, whose labels number the chosen classes.
        classes: as the option --classes; all if empty.
        manifests: the folder of the user's own benchmarks.

    Raises:
        ManifestError: the manifest breaks a rule, or a domain with labels lacks a chosen class.
    """
    videos = read_manifest(manifest_path(benchmark, domain, manifests))
    if not classes:
        return videos
    names = parse_names(classes, "--classes")
    if not has_no_labels(videos):
        chosen_classes(videos, names, domain)
    teaching = read_manifest(manifest_path(benchmark, source, manifests))
    if has_no_labels(teaching):  # refused where the data are loaded
        return videos
    return with_classes(videos, chosen_classes(teaching, names, source))


def check_sources(benchmark: str, manifests: Mapping[str, Sequence[Video]]) -> None:
    """Make sure that the sources have labels, and all the same classes.

    Args:
        benchmark: for messages.
        manifests: source domain -> its videos.

    Raises:
        ManifestError: one has no labels, or other classes than the first.
    """
    for domain, videos in manifests.items():
        if has_no_labels(videos):
            raise ManifestError(
                f"{domain} of {benchmark} is a domain without labels, so it can only be the "
                "--target: a source teaches its classes. Put its videos into one folder per class and make "
                f"a benchmark with --domain {domain}=DIR, or choose another --source."
            )
    known = {domain: {v.class_name for v in videos} for domain, videos in manifests.items()}
    first, *others = known
    for domain in others:
        unlike = sorted(str(name) for name in known[first] ^ known[domain])
        if unlike:
            raise ManifestError(
                f"{first} and {domain} do not have the same classes, "
                f"{counted(len(unlike), 'class', 'is')} in one of them alone "
                f"{first_of(unlike)}, so they cannot be joined. Name those that both have with --classes."
            )


def check_classes(benchmark: str, classes: Sequence[str]) -> None:
    """Refuse a benchmark of one class, whose accuracy would be 100 % whatever a model has learned.

    Raises:
        ManifestError: it has only one.
    """
    if len(classes) < 2:
        raise ManifestError(
            f"The domains of {benchmark} have a single class {first_of(classes)}, so every prediction would "
            "be right. Add a second class."
        )


def check_bound(method: str, benchmark: str, target: str, videos: Sequence[Video]) -> None:
    """Refuse a method that trains on the target's labels, where the target is a domain without.

    It is one even if labels of some videos were added: those are for the accuracy alone.

    Raises:
        ConfigError: it is.
    """
    if has_no_labels(videos):
        raise ConfigError(
            f"--method {method} learns from the target's labels, and {target} of {benchmark} is a domain "
            "without labels. Choose another method, or put its videos into one folder per class and make "
            "the benchmark again."
        )
    log.warning(f"--method {method} trains on the labels of {target}.")


def warn_of_untaught(source: str, classes: Sequence[str], learned: Sequence[Video]) -> None:
    """Say which classes no source video teaches.

    Args:
        source: for the message.
        learned: the sources' training videos.
    """
    untaught = sorted(set(range(len(classes))) - {video.label for video in learned})
    if untaught:
        lack = counted(len(untaught), "class", "has", of=len(classes))
        they = "it" if len(untaught) == 1 else "they"
        log.warning(
            f"{lack} no {source} training video {first_of([classes[n] for n in untaught])}: "
            f"{they} cannot be learned."
        )
