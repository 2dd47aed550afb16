"""Where others' layouts keep the features of a video, and how they are read.

t7              DIR/.../<video>/img_00001.t7, one tensor (width,) per frame, numbered from 1 (TA3N)
npy, csv        DIR/.../<video>.npy or .csv, (frames, width)
video-features  DIR/.../<video>_<model>.npy, with <video>_fps.npy and <video>_timestamps_ms.npy
npz             DIR or DIR/*.npz: one array per video, or `features` (V, T, D) and `video` (V,), or
                `features` (rows, D), `offsets` (V + 1,) and `video` (V,)
epic            DIR or DIR/*.pkl: {'features': {'RGB': (N, T, D), ...}, 'narration_ids': [N]}
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from store.errors import StoreError, counted, first_of, printable
from store.joint_files import epic_files, npz_files
from store.npy_file import parse_csv, parse_npy, read_file
from store.source_files import Found, Source, below, folders_in, paths_in
from store.torch_file import read_tensor

_FRAME = re.compile(r"(.*?)(\d{1,9})\.t7", re.ASCII)
_SIDE = ("_fps", "_timestamps_ms")


def sources_in(root: Path, layout: str, modality: str) -> dict[str, list[Source]]:
    """Return the videos of a folder (or file) by id; an id with several sources is ambiguous.

    Args:
        layout: one of `LAYOUTS`.
        modality: of `epic`, the parts to put side by side, e.g. `RGB` or `RGB,Flow`; of `video-features`,
            the model's name at the end of the files' names. Empty means the only one there is.

    Raises:
        StoreError: there is nothing of this layout, or it cannot be read.
    """
    found: dict[str, list[Source]] = defaultdict(list)
    for source in LAYOUTS[layout](root, modality):
        found[source.video].append(source)
    if not found:
        raise StoreError(
            f"There are no features of the layout {layout} in {printable(root)}. Name the folder that "
            f"holds them, or another --format. {_EXPECTED[layout]}"
        )
    return dict(found)


def _frame_folders(root: Path, _: str) -> Iterator[Source]:
    """Yield the folders that hold .t7 files, and empty ones, which are videos without features."""
    for folder, inner, names in folders_in(root):
        if folder != root and (any(name.endswith(".t7") for name in names) or not (inner or names)):
            inner.clear()
            yield Source(
                video=below(root, folder),
                path=below(root, folder),
                read=partial(_read_frames, folder),
                place=folder,
            )


def _read_frames(folder: Path) -> Found:
    numbers: dict[int, str] = {}
    prefixes = set()
    for name in os.listdir(folder):
        match = _FRAME.fullmatch(name)
        if match and not name.startswith("."):
            prefixes.add(match[1])
            if numbers.setdefault(int(match[2]), name) != name:
                raise StoreError(f"two files have the number {int(match[2])} {first_of([name])}")
    if not numbers:
        raise StoreError("the folder holds no .t7 file")
    if len(prefixes) > 1:
        raise StoreError(f"the files have {len(prefixes)} different names {first_of([*prefixes])}")
    begin = min(1, *numbers)
    expected = max(numbers) - begin + 1
    gaps, why = expected - len(numbers), []
    if gaps:
        gap = next(n for n, there in enumerate(sorted(numbers), begin) if n != there)
        why = [f"{counted(gaps, 'file', 'is', of=expected)} missing (first: {gap})"]
    rows, bad, size = [], [], 0
    for number in sorted(numbers):
        try:
            data = read_file(f"{folder}{os.sep}{numbers[number]}")
            row = read_tensor(data, numbers[number]) if data else None
        except StoreError as error:
            bad.append(str(error))
            continue
        if row is None:
            bad.append(f"{numbers[number]} is empty (0 bytes).")
            continue
        size += len(data)
        rows.append(row[0] if row.ndim == 2 and len(row) == 1 else row)
    shapes = Counter(row.shape for row in rows)
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise StoreError(
            f"the tensors have the shapes {_shown(shapes)}, expected one vector a file"
        )
    if bad:
        why.append(f"{counted(len(bad), 'file', 'is')} unreadable: {bad[0]}")
    return Found(
        features_TD=np.stack(rows) if rows else np.empty((0, 0), np.float32),
        bytes=size,
        missing=gaps + len(bad),
        why="; ".join(why),
    )


def _shown(shapes: Mapping[tuple[int, ...], int]) -> str:
    return " and ".join(str(shape) for shape in sorted(shapes)[:3])


def _npy_files(root: Path, _: str) -> Iterator[Source]:
    return _files(root, ".npy", parse_npy)


def _csv_files(root: Path, _: str) -> Iterator[Source]:
    return _files(root, ".csv", parse_csv)


def _files(root: Path, suffix: str, parse: Callable[[bytes, str], np.ndarray]) -> Iterator[Source]:
    def read(path: Path) -> Found:
        data = read_file(path)
        return Found(features_TD=parse(data, path.name), bytes=len(data))

    for path in paths_in(root, suffix):
        name = below(root, path)
        yield Source(
            video=name.removesuffix(suffix),
            path=name,
            read=partial(read, path),
            place=path,
        )


def _video_features(root: Path, modality: str) -> Iterator[Source]:
    paths = [p for p in paths_in(root, ".npy") if not p.stem.endswith(_SIDE)]
    models = {path.stem.rpartition("_")[2] for path in paths if "_" in path.stem}
    if not modality and len(models) > 1:
        raise StoreError(
            f"The files of {printable(root)} end in {len(models)} names of models: "
            f"{printable(', '.join(sorted(models)[:5]))}. Choose one: --modality NAME"
        )
    for path in paths:
        video, _, model = below(root, path).removesuffix(".npy").rpartition("_")
        if video and "/" not in model and model == (modality or model):
            yield Source(
                video=video,
                path=below(root, path),
                read=partial(_read_timed, path),
                place=path,
            )


def _read_timed(path: Path) -> Found:
    """Read features with the times of their frames, which say how many there must be."""
    data = read_file(path)
    features_TD = parse_npy(data, path.name)
    stem, fps = path.stem.rpartition("_")[0], 0.0
    rate, times = (path.with_name(f"{stem}{end}.npy") for end in _SIDE)
    if rate.is_file():
        found = parse_npy(read_file(rate), rate.name)
        fps = float(found) if found.ndim == 0 and found.dtype.kind in "fiu" else 0.0
    if times.is_file() and features_TD.ndim == 2:
        count = parse_npy(read_file(times), times.name).size
        if count != len(features_TD):
            raise StoreError(
                f"{counted(len(features_TD), 'row')}, but {times.name} has {counted(count, 'time')}"
            )
    return Found(features_TD=features_TD, bytes=len(data), fps=fps)


LAYOUTS: Mapping[str, Callable[[Path, str], Iterator[Source]]] = {
    "t7": _frame_folders,
    "npy": _npy_files,
    "npz": npz_files,
    "video-features": _video_features,
    "epic": epic_files,
    "csv": _csv_files,
}
_EXPECTED = {
    "t7": "Expected is one folder a video, with img_00001.t7, img_00002.t7, ...",
    "npy": "Expected is one file a video: VIDEO.npy, (frames, width).",
    "npz": "Expected are .npz files with an array a video, or with `features` and `video`.",
    "video-features": "Expected are files VIDEO_MODEL.npy, as video_features writes them.",
    "epic": "Expected are .pkl files with 'features' and 'narration_ids'.",
    "csv": "Expected is one file a video: VIDEO.csv, a row a frame.",
}
