"""Writes small videos whose frames are known: frame i shows the i-th of a seeded row of coloured grids.

Every frame can be told from every other, so it can be said which frames a decoder gave.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FRAMES, WIDTH, HEIGHT, RATE = 60, 128, 96, 25


def grids(seed: int = 0, count: int = FRAMES) -> np.ndarray:
    """(count, 3, 4, 3) uint8, the colours of every frame."""
    return np.random.default_rng(seed).integers(30, 226, (count, 3, 4, 3), dtype=np.uint8)


def picture(grid: np.ndarray, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(height, width, 3) uint8."""
    rows = grid.repeat(-(-height // 3), 0)[:height]
    return np.ascontiguousarray(rows.repeat(-(-width // 4), 1)[:, :width])


def write(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = FRAMES,
    gop: int = 12,
    width: int = WIDTH,
    height: int = HEIGHT,
    pixels: str = "yuv420p",
    container: dict[str, str] | None = None,
    kind: str | None = None,
    title: str = "",
    noise: int = 0,
    **options: Any,
) -> Path:
    """Encode `count` numbered frames; `noise` makes them hard to compress, so that packets are large."""
    random = np.random.default_rng(1)
    with av.open(str(path), "w", format=kind, container_options=container or {}) as out:
        if title:
            out.metadata["title"] = title
        stream = out.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, pixels, gop
        stream.options = {key.replace("_", "-"): str(value) for key, value in options.items()}
        for grid in grids(count=count):
            image = picture(grid, width, height).astype(np.int16)
            image += random.integers(-noise, noise + 1, image.shape, dtype=np.int16)
            frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def trim(source: Path, path: Path, frames: int) -> Path:
    """A stream copy whose first frames lie before time zero: players skip them (an edit list)."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        shift = int(Fraction(frames, RATE) / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                new.mux(packet)
    return path


def numbers_of(images: list[np.ndarray], count: int = FRAMES) -> list[int]:
    """Which numbered frames these images (H, W, 3) show: the nearest grid of each, by its cells' centres."""
    known = grids(count=count).astype(np.int64).reshape(count, -1)
    seen = []
    for image in images:
        height, width = image.shape[:2]
        rows = [(2 * i + 1) * -(-height // 3) // 2 for i in range(3)]
        columns = [(2 * i + 1) * -(-width // 4) // 2 for i in range(4)]
        cells = image[
            np.ix_([min(r, height - 1) for r in rows], [min(c, width - 1) for c in columns])
        ]
        distances = np.square(known - cells.astype(np.int64).reshape(1, -1)).sum(axis=1)
        seen.append(int(distances.argmin()))
    return seen
