"""Cached features and the frames drawn from them, without a data loader in between.

`device`: one block, of the stored number type, where the network is; frames are picked by index arithmetic.
`host`: the block in main memory; the frames of a batch are copied to the device.
`mapped`: nothing is loaded; the frames of a batch are read through the shards' memory maps. For stores
larger than memory. Each shard is checked once on opening, by its sha256, and that is remembered.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from adapt.config import BANKS
from adapt.parallel import world
from adapt.sampling import centred, jittered
from store.errors import ConfigError
from store.machine import available_memory
from store.manifest import Video
from store.read import FeatureStore

_RELEASE_BYTES = 1 << 26
"""Mapped pages, and cached neighbours that the system maps with them, count as this process's memory
until they are given back: after so many bytes picked."""


class Bank(Protocol):
    """Features of V videos."""

    counts_V: Tensor
    """Frames per video, (V,) long, on the CPU."""
    width: int
    """D, the backbone's width."""

    def __len__(self) -> int:
        """V."""

    def gather(self, videos_B: Tensor, frames_BT: Tensor) -> Tensor:
        """Frames `frames_BT` of `videos_B`, float32 (B, T, D) on the device. Indices are on the CPU."""


def sample(bank: Bank, videos_B: Tensor, frames: int, generator: torch.Generator | None) -> Tensor:
    """Frame numbers (B, T): jittered by the (CPU) generator, else segment centres."""
    counts_B = bank.counts_V[videos_B]
    if generator is None:
        return centred(counts_B, frames)
    return jittered(counts_B, frames, generator)


class FeatureBank:
    """All features as one block (frames of all videos, D), on the device or in main memory."""

    def __init__(
        self, features: Sequence[np.ndarray], device: torch.device, *, on_host: bool = False
    ) -> None:
        self.device = device
        self.counts_V = torch.tensor([len(f) for f in features])
        self.width = features[0].shape[1]
        self._begin_V = self.counts_V.cumsum(0) - self.counts_V
        self.block = torch.from_numpy(np.concatenate(features))
        self._copied = on_host and device.type == "cuda"
        if self._copied:
            self.block = self.block.pin_memory()
        else:
            self.block = self.block.to(device)

    def __len__(self) -> int:
        return len(self.counts_V)

    def gather(self, videos_B: Tensor, frames_BT: Tensor) -> Tensor:
        """See `Bank`."""
        rows_BT = self._begin_V[videos_B, None] + frames_BT
        if self._copied:
            return _to(self.block[rows_BT], self.device)
        if self.device.type == "cuda":
            rows_BT = _to_device(rows_BT, self.device)
        return self.block[rows_BT].float()


class MappedBank:
    """Features left in their shards, read through memory maps at the datasets' file offsets.

    Raises:
        StoreError: a video is not in the store, or a shard is absent, cut or damaged.
    """

    def __init__(self, store: FeatureStore, videos: Sequence[Video], device: torch.device) -> None:
        self.device = device
        self.width, self._dtype = store.width, store.dtype
        store.check_shards([video.id for video in videos])
        self._maps: dict[Path, mmap.mmap] = {}
        self._videos = [self._map(store, video.id) for video in videos]
        self.counts_V = torch.tensor([len(video) for video in self._videos])
        self._touched = 0

    def _map(self, store: FeatureStore, video: str) -> np.ndarray:
        path, offset = store.location(video)
        if path not in self._maps:
            with path.open("rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):  # frames are far apart: reading ahead is waste
                self._maps[path].madvise(mmap.MADV_RANDOM)
        count = store.records[video].frames
        flat = np.frombuffer(self._maps[path], store.dtype, count * self.width, offset)
        return flat.reshape(count, self.width)

    def __len__(self) -> int:
        return len(self._videos)

    def gather(self, videos_B: Tensor, frames_BT: Tensor) -> Tensor:
        """See `Bank`."""
        picked = np.empty((*frames_BT.shape, self.width), self._dtype)
        for row, (video, frames_T) in enumerate(zip(videos_B.tolist(), frames_BT.numpy())):
            np.take(self._videos[video], frames_T, axis=0, out=picked[row])
        self._touched += picked.nbytes
        if self._touched > _RELEASE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)
            self._touched = 0
        return _to(torch.from_numpy(picked), self.device)


class JoinedBank:
    """Several banks as one: the videos of the first, then those of the second, and so on."""

    def __init__(self, banks: Sequence[Bank]) -> None:
        self._banks = banks
        self.counts_V = torch.cat([bank.counts_V for bank in banks])
        self.width = banks[0].width
        self._ends = torch.tensor([len(bank) for bank in banks]).cumsum(0)

    def __len__(self) -> int:
        return len(self.counts_V)

    def gather(self, videos_B: Tensor, frames_BT: Tensor) -> Tensor:
        """See `Bank`."""
        bank_B = torch.bucketize(videos_B, self._ends, right=True)
        picked, order = [], []
        for number, bank in enumerate(self._banks):
            of_bank = (bank_B == number).nonzero().squeeze(1)
            if len(of_bank):
                begin = int(self._ends[number]) - len(bank)
                picked.append(bank.gather(videos_B[of_bank] - begin, frames_BT[of_bank]))
                order.append(of_bank)
        joined = torch.cat(picked)
        return joined[torch.cat(order).argsort().to(joined.device)]


def joined(banks: Sequence[Bank]) -> Bank:
    """One bank of all, which is the only one where there is only one."""
    return banks[0] if len(banks) == 1 else JoinedBank(banks)


def choose_bank(asked: str, needed_bytes: int, device: torch.device, processes: int = 1) -> str:
    """`auto` by size: on the device if half its free memory suffices, else likewise on the host.

    Main memory is divided among the processes that train together or, as `processes` says, side by
    side: each has a bank of its own. Several that share a GPU share its memory too.

    Raises:
        ConfigError: device or host is asked for and has not the memory.
    """
    host = available_memory() // (world() * processes)
    room = {"device": host, "host": host, "mapped": needed_bytes}
    if device.type == "cuda":
        on_one = -(-processes // torch.cuda.device_count())
        room["device"] = torch.cuda.mem_get_info(device)[0] // on_one
    if asked == "auto":
        return next(
            name for name in BANKS[1:] if name == "mapped" or needed_bytes <= room[name] // 2
        )
    if needed_bytes > room[asked]:
        raise ConfigError(
            f"--bank {asked} needs {needed_bytes / 1e9:.1f} GB for the features, "
            f"{room[asked] / 1e9:.1f} GB are free. Use --bank mapped."
        )
    return asked


def needed_bytes(store: FeatureStore, videos: Sequence[Video]) -> int:
    """Bytes of the videos' features as stored."""
    frames = sum(store.records[video.id].frames for video in videos)
    return frames * store.width * store.dtype.itemsize


def load_bank(
    store: FeatureStore, videos: Sequence[Video], device: torch.device, kind: str
) -> Bank:
    """The videos' features, each checked against its crc32; if mapped, every shard by its sha256.

    Raises:
        StoreError: a video is not in the store, or its bytes are damaged.
    """
    if kind == "mapped":
        return MappedBank(store, videos, device)
    features = [store.read(video.id) for video in videos]
    return FeatureBank(features, device, on_host=kind == "host")


def _to(picked: Tensor, device: torch.device) -> Tensor:
    return _to_device(picked, device).float()


def _to_device(x: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":  # from pinned memory the copy does not stop the host
        return x.pin_memory().to(device, non_blocking=True)
    return x
