"""The card of a repository on the Hub: the README.md at its root, which lists all stores in it.

The Hub shows that file alone, and reads licence and tags from its first lines. It is made anew of the indexes
that are there, so nothing has to be kept; after it was written, the stores are listed again, and whoever
finds that it lacks one writes it again. So of two that push at once, the one who writes last lists both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from store.card import (
    CARD_BYTES,
    OURS,
    cell,
    front_matter,
    is_ours,
    licence_of,
    size_category,
)
from store.errors import StoreError, UnreachableError, counted, first_of
from store.format import CARD, INDEX, LARGEST, is_store_name, parse_index, stored_dtype
from store.ids import is_plain_name
from store.remote import Remote
from store.remote_fsspec import FsspecRemote
from store.remote_tables import PUSH_AGAIN
from store.remote_url import RemoteUrl, is_repository

log = logging.getLogger(__name__)
_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A store in a repository: its folder, its index, and the licence that its own card names."""

    name: str
    index: dict[str, Any]
    licence: str


def write_root_card(root: FsspecRemote) -> None:
    """Write the card of all stores in a repository of the Hub; elsewhere there is none.

    A README.md that a person wrote is left as it is, and a warning says which stores it does not name.

    Raises:
        UnreachableError: the server does not answer.
        StoreError: the card cannot be written, or others keep changing it.
    """
    if not is_repository(root.url):
        return
    for _ in range(_TRIES):
        stores = _stores_in(root)
        standing = root.table(CARD, CARD_BYTES)
        if standing is not None and not is_ours(standing):
            _say_left(root.url, standing.decode("utf-8", "replace"), stores)
            return
        text = card_of_all(stores, root.url).encode()
        if standing == text:
            return
        root.write(CARD, text)
    raise StoreError(
        f"{root.url}: others keep changing {CARD}. The stores are there; to list them in it, run the same "
        "command again."
    )


def _say_left(url: RemoteUrl, text: str, stores: Sequence[_Listed]) -> None:
    unnamed = [store.name for store in stores if store.name not in text]
    if unnamed:
        log.warning(
            f"{url} has a {CARD} that was not written by store push. It was left as it is and does not name "
            f"{counted(len(unnamed), 'store', of=len(stores))} {first_of(unnamed)}. Name them "
            "there; or remove it "
            "and push again for a card of all stores."
        )


def _stores_in(root: Remote) -> list[_Listed]:
    """Read the indexes of all stores in a folder of features, sorted by name."""
    found = []
    for dataset in filter(is_plain_name, root.folders()):
        below = root.below(dataset)
        for name in below.folders():
            if not (is_store_name(name) and is_plain_name(name)):
                continue
            remote = below.below(name)
            try:
                data = remote.table(INDEX, LARGEST[INDEX])
                card = remote.table(CARD, CARD_BYTES) or b""
                if data is not None:  # else its first push is still under way
                    index = parse_index(data, f"{remote.url}/{INDEX}", PUSH_AGAIN)
                    found.append(
                        _Listed(name=f"{dataset}/{name}", index=index, licence=licence_of(card))
                    )
            except UnreachableError:
                raise
            except StoreError as error:
                log.warning("%s is not listed in the card of the repository: %s", remote.url, error)
    return found


def card_of_all(stores: Sequence[_Listed], url: RemoteUrl) -> str:
    """Return the card of a folder of features with these stores.

    Args:
        url: the folder, which is shown without a password.
    """
    indexes = [store.index for store in stores]
    datasets = sorted({index["dataset"] for index in indexes})
    backbones = sorted({str(index["config"].get("backbone", "unknown")) for index in indexes})
    licences = sorted({store.licence for store in stores})
    head = {
        "license": licences[0] if len(licences) == 1 else licences,
        "pretty_name": f"Frame features of {', '.join(datasets)}",
        "task_categories": ["video-classification"],
        "tags": ["video", "domain-adaptation", "feature-extraction", *backbones],
        "size_categories": [size_category(sum(i["totals"]["stored"] for i in indexes))],
    }
    rows = "\n".join(f"| {' | '.join(map(cell, _row(store)))} |" for store in stores)
    return f"""---
{front_matter(head)}
---
{OURS}

# Frame features of {cell(", ".join(datasets))}

| store | backbone | made by | videos | frames | size | licence |
|---|---|---|---|---|---|---|
{rows}

Each folder has a card of its own, which says how its features were made and checked.

## Use

    ma2l-td store pull {url}
    ma2l-td adapt --features {url} --source SOURCE --target TARGET
"""


def _row(store: _Listed) -> tuple[object, ...]:
    config, totals = store.index["config"], store.index["totals"]
    made = {name: config[name] for name in ("origin", "preset", "stride") if config.get(name)}
    weights = store.index["run"].get("weights", "unknown")
    return (
        store.name,
        config.get("backbone", "unknown"),
        ", ".join([f"weights {weights}", *(f"{name} {value}" for name, value in made.items())]),
        f"{totals['stored']:,} of {totals['listed']:,}",
        f"{totals['frames']:,} of {store.index['width']} {stored_dtype(config).name} values",
        f"{sum(entry['bytes'] for entry in store.index['shards']) / 1e6:,.1f} MB",
        store.licence,
    )
