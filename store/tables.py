"""Writing the tables of a store: videos.csv, failures.csv, index.json and SHA256SUMS, in this order.

A reader reads the index and compares the CSVs beside it with the sha256 in the index, so the CSVs are
written first.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from store.files import sha256_of, write_text
from store.format import (
    FAILURES,
    FORMAT,
    INDEX,
    SUMS,
    VIDEOS,
    config_sha256,
    shards_in,
    standing_index,
)
from store.records import STATUSES, VideoRecord, records_text


def write_index(
    folder: Path,
    *,
    dataset: str,
    config: Mapping[str, Any],
    width: int,
    records: Iterable[VideoRecord],
    run: Mapping[str, Any],
    shards: Collection[str] | None = None,
) -> dict[str, Any]:
    """Write videos.csv, failures.csv, index.json and SHA256SUMS, in this order, and return the index.

    Args:
        width: the number of features of a frame.
        records: one record for every listed video, whether it is stored or not.
        run: who made the store, on what. It is kept beside the config and is no part of its sha256.
        shards: the names of the shards to index; None for all finished ones.

    Raises:
        FormatError: an index of another format stands there.
    """
    rows = sorted(records, key=lambda record: record.video)
    stored = [row for row in rows if row.stored]
    videos = Counter(row.shard for row in stored)
    frames: Counter[str] = Counter()
    for row in stored:
        frames[row.shard] += row.frames
    standing = standing_index(folder)
    known = {entry["file"]: entry for entry in standing["shards"]} if standing else {}
    indexed = (folder / INDEX).stat().st_mtime_ns if known else 0
    entries = []
    for path in shards_in(folder):
        if shards is not None and path.name not in shards:
            continue
        found = path.stat()
        old = known.get(path.name, {})
        kept = old.get("bytes") == found.st_size and found.st_mtime_ns < indexed
        entries.append(
            {
                "file": path.name,
                "bytes": found.st_size,
                # A shard never changes, so its sha256 need not be taken again; `store verify` finds
                # damage. But a shard may have been deleted and made again since.
                "sha256": old["sha256"] if kept else sha256_of(path),
                "videos": videos[path.name],
                "frames": frames[path.name],
            }
        )
    index, tables = make_tables(
        dataset=dataset, config=config, width=width, rows=rows, run=run, shards=entries
    )
    for name, text in tables.items():
        write_text(folder / name, text)
    return index


def make_tables(
    *,
    dataset: str,
    config: Mapping[str, Any],
    width: int,
    rows: Sequence[VideoRecord],
    run: Mapping[str, Any],
    shards: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the index, and the texts of all tables by name in the order in which they are written.

    Args:
        rows: one record for every listed video, sorted by id.
        shards: the index's entries of the shards, sorted by name.
    """
    statuses = Counter(row.status for row in rows)
    stored = [row for row in rows if row.stored]
    tables = {
        VIDEOS: records_text(rows),
        FAILURES: records_text(row for row in rows if row.status != "ok"),
    }
    index = {
        "format": FORMAT,
        "dataset": dataset,
        "config": dict(config),
        "config_sha256": config_sha256(config),
        "width": width,
        "shards": [dict(entry) for entry in shards],
        "tables": {name: _digest(text) for name, text in tables.items()},
        "totals": {
            "listed": len(rows),
            "stored": len(stored),
            **{status: statuses[status] for status in STATUSES[1:]},
            "frames": sum(row.frames for row in stored),
        },
        "complete": len(stored) == len(rows),
        "run": dict(run),
    }
    tables[INDEX] = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    sums = [(str(entry["sha256"]), str(entry["file"])) for entry in shards]
    sums += [(_digest(tables[name]), name) for name in (INDEX, VIDEOS, FAILURES)]
    tables[SUMS] = "".join(f"{digest}  {name}\n" for digest, name in sums)
    return index, tables


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
