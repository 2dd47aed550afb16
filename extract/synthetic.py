"""Small video collections for the demo: the same actions, moving shapes, in two visual domains."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, FRAMES, FPS = 96, 128, 12, 12

Grid = tuple[np.ndarray, np.ndarray]
Shape = Callable[[Grid, float, float], np.ndarray]


def _disc(grid: Grid, x: float, y: float, radius: float) -> np.ndarray:
    inside: np.ndarray = (grid[0] - x) ** 2 + (grid[1] - y) ** 2 < radius**2
    return inside


def _grow(grid: Grid, t: float, size: float) -> np.ndarray:
    return _disc(grid, 0, 0, size * (0.35 + 0.65 * abs(np.sin(np.pi * t))))


def _spin(grid: Grid, t: float, size: float) -> np.ndarray:
    along = grid[0] * np.cos(np.pi * t) + grid[1] * np.sin(np.pi * t)
    across = grid[1] * np.cos(np.pi * t) - grid[0] * np.sin(np.pi * t)
    bar: np.ndarray = (np.abs(along) < size * 1.1) & (np.abs(across) < size * 0.18)
    return bar


def _orbit(grid: Grid, t: float, size: float) -> np.ndarray:
    angles = 2 * np.pi * (t + np.arange(4) / 4)
    discs = [_disc(grid, size * np.cos(a), size * np.sin(a), size * 0.22) for a in angles]
    return np.any(discs, axis=0)


def _blinds(grid: Grid, t: float, size: float) -> np.ndarray:
    stripes = np.sin((grid[0] / size - t) * 4 * np.pi) > 0
    slid: np.ndarray = stripes & (np.abs(grid[1]) < size * 0.8) & (np.abs(grid[0]) < size)
    return slid


def _ring(grid: Grid, t: float, size: float) -> np.ndarray:
    x = 0.4 * size * np.sin(2 * np.pi * t)
    return _disc(grid, x, 0, size * 0.8) & ~_disc(grid, x, 0, size * 0.55)


ACTIONS: dict[str, Shape] = {
    "blinds": _blinds,
    "grow": _grow,
    "orbit": _orbit,
    "ring": _ring,
    "spin": _spin,
}
DOMAINS = ("day", "night")


def make_collection(root: Path, domain: str, *, per_action: int, seed: int = 0) -> int:
    """Write `root/<action>/<action>_<number>.mp4`, MPEG-4 Part 2 of 12 frames; returns how many.

    Every video has its own place, size, speed, phase and colours. `day` is dark on bright; `night` is
    dim on dark, tinted and noisy.
    """
    random = np.random.default_rng([seed, DOMAINS.index(domain)])
    for action, shape in ACTIONS.items():
        folder = root / action
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_action):
            write_video(folder / f"{action}_{number:02}.mp4", _frames(shape, domain, random), FPS)
    return per_action * len(ACTIONS)


def write_video(
    path: Path, frames: np.ndarray, fps: int, codec: str = "mpeg4", **options: str
) -> None:
    """Encode (F, H, W, 3) uint8 RGB at high quality into the container that the suffix names.

    Args:
        options: of the encoder.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _frames(shape: Shape, domain: str, random: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    centre_x, centre_y = WIDTH * random.uniform(0.35, 0.65), HEIGHT * random.uniform(0.4, 0.6)
    size, phase, speed = random.uniform(24, 38), random.uniform(), random.uniform(0.6, 1.4)
    background, foreground = random.uniform(0.65, 0.95, 3), random.uniform(0.0, 0.4, 3)
    slope = random.uniform(-0.1, 0.1, 2)
    frames = []
    for t in np.arange(FRAMES) / FRAMES:
        mask = shape((x - centre_x, y - centre_y), phase + speed * t, size)[..., None]
        light = (slope[0] * (x / WIDTH - 0.5) + slope[1] * (y / HEIGHT - 0.5))[..., None]
        image = np.where(mask, foreground, background) + light
        if domain == "night":
            image = np.clip(image, 0, 1) ** 1.5 * [0.35, 0.45, 0.7] + random.normal(
                0, 0.05, image.shape
            )
        frames.append((np.clip(image, 0, 1) * 255).astype(np.uint8))
    return np.stack(frames)
