"""Video file -> RGB frames. The only file that knows decord.

decord can loop forever or crash on a bad file, so it lives in spawned processes: `Decoder` runs one,
keeps a deadline, and replaces it when it hangs or dies. A pipe carries the frames; a full pipe holds the
decoder back, so memory stays flat however long the video is.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from extract.errors import DecodeError
from extract.files import sha256_of

DEADLINE_SECONDS = 120.0
"""Longest silence of a decoder before it counts as hung: generous, a 4K block on a busy disk takes a few."""


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What the file says of itself, and how many frames really came out."""

    fps: float
    width: int
    height: int
    container_frames: int
    decoded_frames: int
    source_bytes: int
    source_sha256: str

    @property
    def seconds(self) -> float:
        """Length by the decoded frames."""
        return self.decoded_frames / self.fps if self.fps > 0 else 0.0


class Decoder:
    """One decoding process. `start` a file, take its `blocks`, then read `facts`.

    Raises:
        DecodeError: decord itself cannot be imported in the process.
    """

    def __init__(self, *, block: int, deadline: float = DEADLINE_SECONDS) -> None:
        self.block = block
        self.deadline = deadline
        self.facts: VideoFacts | None = None
        self._path: Path | None = None
        self._spawn()

    def start(self, path: Path, stride: int = 1) -> None:
        """Begin to decode; returns at once. The blocks must be taken to the end before the next start."""
        self._path, self.facts = path, None
        self._pipe.send((str(path), stride, self.block))

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield (F, H, W, 3) uint8, every `stride`-th frame in order, F <= block.

        Raises:
            DecodeError: the file is unreadable, the decoder died or hung; the message names the file.
        """
        while True:
            kind, value = self._receive()
            if kind == "frames":
                yield np.frombuffer(self._pipe.recv_bytes(), dtype=np.uint8).reshape(value)
            elif kind == "done":
                self.facts = VideoFacts(**value)
                return
            else:
                raise DecodeError(f"{self._path}: {value}")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _spawn(self) -> None:
        # Spawn, never fork: a decord reader hung after a fork, and CUDA forbids it.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        kind, value = self._receive()
        if kind != "ready":
            self.close()
            raise DecodeError(f"decord does not start: {value}")

    def _receive(self) -> tuple[str, Any]:
        try:
            if self._pipe.poll(self.deadline):
                message: tuple[str, Any] = self._pipe.recv()
                return message
            reason = f"the decoder gave no frame for {self.deadline:.0f} s and was stopped"
        except (EOFError, ConnectionResetError):
            self._process.join()
            reason = f"the decoder died (exit code {self._process.exitcode})"
        self.close()
        if self._path is None:
            raise DecodeError(f"decord does not start: {reason}")
        broken, self._path = self._path, None
        self._spawn()
        raise DecodeError(f"{broken}: {reason}")


def _serve(pipe: Connection) -> None:
    """The decoding process: answers each request with blocks, then `done` or `error`."""
    try:
        import decord
    except Exception as error:  # reported to the parent, which stops the run
        pipe.send(("broken", f"{type(error).__name__}: {error}"))
        return
    decord.logging.set_level(decord.logging.QUIET)
    pipe.send(("ready", decord.__version__))
    while True:
        try:
            path, stride, block = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            pipe.send(("done", _decode(pipe, Path(path), stride, block)))
        except BrokenPipeError:
            return
        except KeyboardInterrupt:
            return
        except DecodeError as error:  # one bad video; the parent records it and goes on
            pipe.send(("error", str(error)))
        except Exception as error:
            pipe.send(("error", f"unexpected {type(error).__name__}: {error}"))


def _decode(pipe: Connection, path: Path, stride: int, block: int) -> dict[str, Any]:
    import decord

    size = check_file(path)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        frames = len(reader)
    except Exception as error:
        raise DecodeError(f"not a video that decord can open ({_reason(error)})") from error
    if frames == 0:
        raise DecodeError("no frames")
    height = width = decoded = 0
    kept: list[np.ndarray] = []
    for begin in range(0, frames, block):
        indices = list(range(begin, min(begin + block, frames)))
        try:
            # All frames in order, then every stride-th: decord's own seeking is slower and less exact.
            got = reader.get_batch(indices).asnumpy()
        except Exception as error:
            raise DecodeError(
                f"decoding stopped after {decoded} of {frames} frames ({_reason(error)})"
            ) from error
        decoded += len(got)
        height, width = got.shape[1:3]
        kept.extend(got[-begin % stride :: stride])
        if len(kept) >= block or indices[-1] == frames - 1:
            for at in range(0, len(kept), block):
                block_FHWC = np.stack(kept[at : at + block])
                pipe.send(("frames", block_FHWC.shape))
                pipe.send_bytes(block_FHWC.data.cast("B"))
            kept = []
    fps = float(reader.get_avg_fps())
    return {
        "fps": fps if math.isfinite(fps) else 0.0,
        "width": width,
        "height": height,
        "container_frames": frames,
        "decoded_frames": decoded,
        "source_bytes": size,
        "source_sha256": sha256_of(path),
    }


def check_file(path: Path) -> int:
    """Size in bytes of a file worth opening: "it did not raise" does not mean that a video is whole.

    Raises:
        DecodeError: no file, not a plain file, empty, or an AVI shorter than its header says.
    """
    try:
        facts = os.stat(path)
    except OSError as error:
        raise DecodeError(error.strerror or str(error)) from error
    if not stat.S_ISREG(facts.st_mode):
        raise DecodeError("not a plain file")
    if facts.st_size == 0:
        raise DecodeError("the file is empty")
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"AVI ":
        # decord opens an AVI cut in half without a word; the header knows how long it should be.
        claimed = int.from_bytes(head[4:8], "little") + 8
        if claimed > facts.st_size:
            raise DecodeError(
                f"cut off: the AVI header says {claimed} bytes, the file has {facts.st_size}"
            )
    return facts.st_size


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
