"""The page that `store push` writes beside an index, in the format of the Hugging Face Hub's cards.

A card is Markdown after a block of YAML. Every text in the YAML is written as JSON, which YAML includes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from store.format import stored_dtype
from store.remote_tables import Tables
from store.remote_url import RemoteUrl

OURS = "<!-- Written by `store push`. Remove this line to keep your own text here. -->"
CARD_BYTES = 1_000_000
"""The largest size at which a card is read."""
_LICENCE = re.compile(r'\A---\n(?:.*\n)*?license: "?([A-Za-z0-9.+-]{1,60})"?\n')
_SIZES = (
    *((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")),
    (1_000_000, "100K<n<1M"),
)
_FACTS = (
    *("origin", "description", "modality", "layer"),
    *("preset", "stride", "frames_per_video", "decoder", "compute_dtype", "weights_sha256"),
)
_IMPORTED = """
The features were imported: whoever imported them named the backbone, and how they were made (weights,
layer, preparation of the frames) is not known, so none can be made of other videos.
"""


def is_ours(data: bytes) -> bool:
    """Return whether a README.md was written here and not by a person."""
    return OURS.encode() in data


def licence_of(data: bytes) -> str:
    """Return the licence in the first lines of a card; `unknown` if there is none that can be read."""
    found = _LICENCE.search(data.decode("utf-8", "replace"))
    return found[1] if found else "unknown"


def card_of(tables: Tables, url: RemoteUrl, licence: str, date: str) -> str:
    """Return the card of a store.

    Args:
        url: the store's folder, which is shown without a password.
        licence: an identifier of the Hub's list.
        date: of the push, as in 2026-01-31.
    """
    index = tables.index
    config, totals = index["config"], _totals(tables)
    backbone, dataset = str(config.get("backbone", "unknown")), index["dataset"]
    weights = str(index["run"].get("weights", "unknown"))
    head = {
        "license": licence,
        "pretty_name": f"{dataset}: {backbone} frame features",
        "task_categories": ["video-classification"],
        "tags": ["video", "domain-adaptation", "feature-extraction", backbone],
        "size_categories": [size_category(totals["stored"])],
    }
    root = str(url).rsplit("/", 2)[0]
    dtype = stored_dtype(config).name
    facts = {
        "data set": dataset,
        "backbone": backbone,
        "weights": weights,
        **{name.replace("_", " "): config[name] for name in _FACTS if config.get(name)},
        "videos": f"{totals['stored']:,} of {totals['listed']:,} listed",
        "frames": f"{totals['frames']:,}, {index['width']} {dtype} values each",
        "size": f"{sum(entry['bytes'] for entry in index['shards']) / 1e6:,.1f} MB",
        "shards": f"{len(index['shards']):,}",
        "config sha256": index["config_sha256"],
    }
    rows = "\n".join(f"| {name} | {cell(value)} |" for name, value in facts.items())
    return f"""---
{front_matter(head)}
---
{OURS}

# {cell(dataset)}: {cell(backbone)} frame features

| | |
|---|---|
{rows}
{_IMPORTED if "origin" in config else ""}
## Use

    ma2l-td store pull {root} --dataset {dataset}
    ma2l-td adapt --features {root} --source SOURCE --target TARGET

Without the program: `shard-*.h5` hold one {dtype} dataset (frames, width) per video, named by its id;
`videos.csv` has a row per video. `sha256sum -c SHA256SUMS` checks every file but this one.

## How it was checked

Pushed on {date}. Before the transfer, every shard that was sent had the sha256 that the index says; after
it, the checksum of the server, or the file read back, was compared with what had been sent, and the index
was read again. The videos themselves are not here; their licence is that of the data set.
"""


def _totals(tables: Tables) -> dict[str, int]:
    stored = [row for row in tables.rows if row.stored]
    return {
        "listed": len(tables.rows),
        "stored": len(stored),
        "frames": sum(row.frames for row in stored),
    }


def size_category(videos: int) -> str:
    """Return the Hub's name for a number of examples."""
    return next((name for limit, name in _SIZES if videos < limit), "n>1M")


def front_matter(head: dict[str, Any]) -> str:
    """Return lines of YAML: each name with a text, or with a list of texts."""
    lines = []
    for name, value in head.items():
        if isinstance(value, list):
            lines += [f"{name}:", *(f"- {json.dumps(item)}" for item in value)]
        else:
            lines.append(f"{name}: {json.dumps(value)}")
    return "\n".join(lines)


def cell(value: object) -> str:
    """Return a text for a table, on one line and without what Markdown would read as its own."""
    text = " ".join(str(value).split())[:200]
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
