"""What is known about features that were made elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from store.errors import StoreError, counted, printable
from store.source_files import Source

_PROBED = 9
"""How many videos are read first to learn the width: the most frequent one counts."""


def config_of(
    name: str, origin: str, layout: str, width: int, dtype: str, modality: str = ""
) -> dict[str, Any]:
    """Return the config of imported features, which says what is known and that no more is.

    Two stores are used together only where it is equal, so it names where the features come from and how
    wide they are. It has none of the entries by which features could be made again (`store/recipe.py`).
    """
    config = {
        "backbone": name,
        "origin": origin,
        "description": f"imported from the layout {layout}",
        "layer": "unknown",
        "width": width,
        "stored_dtype": dtype,
    }
    return {**config, **({"modality": modality} if modality else {})}


def width_in(sources: Mapping[str, Sequence[Source]], videos: Sequence[str]) -> int:
    """Return the width of the features: that of most of some videos, spread over all of them.

    Raises:
        StoreError: none of them can be read.
    """
    unique = [video for video in videos if len(sources.get(video, ())) == 1]
    if not unique:
        raise StoreError(
            f"None of the {counted(len(videos), 'video')} to import is there (first: "
            f"{printable(videos[0])}). Is it "
            "the right folder, and are these its lists?"
        )
    step = max(1, len(unique) // _PROBED)
    widths: Counter[int] = Counter()
    reasons = []
    for video in unique[::step] if len(unique) > _PROBED else unique:
        try:
            found = sources[video][0].read().features_TD
            if found.ndim == 2 and found.size:
                widths[int(found.shape[1])] += 1
        except StoreError as error:
            reasons.append(f"{video}: {error}")
        if sum(widths.values()) >= _PROBED:
            break
    if not widths:
        why = reasons[0] if reasons else f"{unique[0]} has no features"
        raise StoreError(
            f"The width of the features is not known, because no video can be read. {why}"
        )
    return widths.most_common(1)[0][0]
