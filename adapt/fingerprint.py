"""Which videos and features decide a run's numbers, short enough to be recorded and compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from adapt.config import AdaptConfig
from store.manifest import Video, has_no_labels
from store.read import FeatureStore


def videos_text(
    config: AdaptConfig,
    source: Mapping[str, Sequence[Video]],
    target: Sequence[Video],
    held_out: Sequence[Video],
    choosing: Mapping[str, Sequence[Video]],
) -> str:
    """Say which videos decide a run's numbers, in their order; labels where they are looked at.

    The ids of several sources stand with their domain, because one id may be in two of them.

    Args:
        choosing: the sources' evaluation videos, by domain, where the epoch is chosen by them; else empty.
    """
    several = len(source) > 1

    def of_sources(found: Mapping[str, Sequence[Video]]) -> list[tuple[str, int | None]]:
        return [
            (f"{domain}:{v.id}" if several else v.id, v.label)
            for domain, videos in found.items()
            for v in videos
        ]

    used = [of_sources(source), [v.id for v in target]]
    used.append([(v.id, v.label) for v in held_out])
    if choosing:
        used.append(of_sources(choosing))
    digest = hashlib.sha256(json.dumps(used).encode()).hexdigest()
    known = sum(video.label is not None for video in held_out)
    labels = f" ({known} with a label)" if has_no_labels(held_out) else ""
    return (
        f"{', '.join(f'{len(videos)} {domain} train' for domain, videos in source.items())}, "
        f"{len(target)} {config.target} train, "
        f"{len(held_out)} {config.target} eval{labels}, sha256 {digest[:16]}"
    )


def features_digest(
    stores: Mapping[str, FeatureStore], videos: Mapping[str, Sequence[Video]]
) -> str:
    """Return the sha256 of the ids and checksums of features, whichever shards they are in."""
    sums = {d: {v.id: stores[d].records[v.id].crc32 for v in rows} for d, rows in videos.items()}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
