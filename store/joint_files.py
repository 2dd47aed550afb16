"""Layouts that have many videos in one file: .npz, and the pickles of EPIC-Kitchens-100 UDA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from store.errors import StoreError, counted, first_of, printable
from store.ids import nfc
from store.npy_file import Archive, parse_texts, read_file, texts_of
from store.safe_pickle import array_of, items_of, load_pickle
from store.source_files import Found, Source, paths_in


def npz_files(root: Path, _: str) -> Iterator[Source]:
    """Yield the videos of .npz files."""
    for path in paths_in(root, ".npz"):
        archive, name = Archive(path), path.name
        if {"features", "video"} <= {*archive.names}:
            block, ids = archive.array("features"), parse_texts(archive.bytes_of("video"), name)
            if "offsets" in archive.names:
                yield from _rows_of(_cut(block, archive.array("offsets"), name), ids, name)
            else:
                yield from _rows_of(_videos_of(block, name), ids, name)
            continue
        for video in archive.names:
            yield Source(
                video=nfc(video),
                path=f"{name}: {video}",
                read=partial(_read_array, archive, video),
                place=path,
            )


def epic_files(root: Path, modality: str) -> Iterator[Source]:
    """Yield the segments of the pickles of EPIC-Kitchens-100 UDA, the parts `modality` side by side."""
    wanted = (modality or "RGB").split(",")
    for path in paths_in(root, ".pkl"):
        name = path.name
        content = load_pickle(read_file(path), name)
        parts = content.get("features") if isinstance(content, dict) else None
        if not isinstance(parts, dict) or "narration_ids" not in content:
            raise StoreError(f"{name} has not the entries 'features' and 'narration_ids'.")
        lacking = [part for part in wanted if part not in parts]
        if lacking:
            raise StoreError(
                f"{name} has no features of {first_of(lacking)}. It has "
                f"{printable(', '.join(map(str, parts)))}: --modality NAME[,NAME...]"
            )
        blocks = [array_of(parts[part], f"{name}: {part}") for part in wanted]
        ids = texts_of(items_of(content["narration_ids"], name), name)
        if any(block.ndim != 3 or block.shape[:2] != blocks[0].shape[:2] for block in blocks):
            raise StoreError(f"{name} has not (videos, frames, width) numbers of each of {wanted}.")
        yield from _rows_of(list(np.concatenate(blocks, axis=2)), ids, name)


def _videos_of(block: np.ndarray, name: str) -> list[np.ndarray]:
    if block.ndim != 3:
        raise StoreError(
            f"{name} has features of shape {block.shape}; expected (videos, frames, width), or (rows, width) "
            "and `offsets`."
        )
    return list(block)


def _cut(rows: np.ndarray, offsets: np.ndarray, name: str) -> list[np.ndarray]:
    """Cut (rows, width) into videos: rows offsets[i] to offsets[i + 1] are those of video i."""
    places = offsets.tolist() if offsets.ndim == 1 and offsets.dtype.kind in "iu" else []
    if rows.ndim != 2 or places[:1] != [0] or places[-1] != len(rows) or places != sorted(places):
        raise StoreError(
            f"{name} has `offsets` that do not cut its {len(rows):,} rows into videos; expected integers "
            "from 0 to the number of rows, one more than videos."
        )
    return np.split(rows, places[1:-1])


def _rows_of(block: Sequence[np.ndarray], ids: Sequence[str], name: str) -> Iterator[Source]:
    if len(block) != len(ids):
        raise StoreError(
            f"{name} has features of {counted(len(block), 'video')} and {counted(len(ids), 'name')}."
        )
    for video, features_TD in zip(ids, block):
        yield Source(
            video=nfc(video),
            path=f"{name}: {video}",
            read=partial(_whole, features_TD),
        )


def _read_array(archive: Archive, video: str) -> Found:
    return _whole(archive.array(video))


def _whole(features_TD: np.ndarray) -> Found:
    return Found(features_TD=features_TD, bytes=features_TD.nbytes)
