"""Reading the index of a store and its rows so that both are of one state.

An extraction may write meanwhile. It replaces the tables one after the other, and the index after both
CSVs. The index has the sha256 of the CSVs, so a reader sees whether all are of one state.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import Any

from store.errors import StoreError
from store.format import INDEX, VIDEOS, read_index, read_table
from store.locks import writers
from store.plain import size_of
from store.records import REMAKE, VideoRecord, parse_records
from store.shards import records_in

log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.1
_TRIES = 5
"""How often tables that do not fit each other are read again if nobody is writing: an NFS client may
see one of them late."""
WRITING_SECONDS = 10.0
"""For how long they are read again if somebody is writing."""


def read_tables(folder: Path) -> tuple[dict[str, Any], list[VideoRecord]]:
    """Read the index and the rows of videos.csv, both of one state.

    If a writer was killed between the two, the records of stored videos are read from the shards instead.

    Raises:
        StoreError: a table is absent or damaged, and so is what could replace it.
    """
    begin, tries = time.monotonic(), 0
    while True:
        index, table = read_index(folder), read_table(folder / VIDEOS)
        if hashlib.sha256(table).hexdigest() == index["tables"][VIDEOS]:
            return index, parse_records(table, folder / VIDEOS)
        tries += 1
        waited = time.monotonic() - begin
        if waited > WRITING_SECONDS or (tries > _TRIES and not writers(folder)):
            break
        time.sleep(PAUSE_SECONDS)
    # A killed writer leaves a whole table, only of another state.
    rows = parse_records(table, folder / VIDEOS)
    log.warning(
        f"{folder}: {INDEX} and {VIDEOS} are not of one state, so the records are read from the "
        f"shards. {REMAKE.capitalize()}: it writes both anew."
    )
    records: list[VideoRecord] = []
    for shard in index["shards"]:
        path = folder / shard["file"]
        if size_of(path) != shard["bytes"]:
            raise StoreError(
                f"{folder / VIDEOS} is damaged: it is not the one that {INDEX} names, and {path}, which "
                f"could replace it, is absent or cut. Delete both and {REMAKE}."
            )
        records += records_in(path, index["config"]).values()
    stored = {record.video for record in records}
    error = f"its shard is not in {INDEX} yet"
    return index, records + [
        VideoRecord(video=row.video, status="pending", error=error) if row.stored else row
        for row in rows
        if row.video not in stored
    ]
