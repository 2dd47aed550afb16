"""A torch Dataset of a feature store, for training models of your own. `docs/store.md` has an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from adapt.sampling import centred
from store.errors import ConfigError, StoreError, counted, first_of
from store.ids import near_ids
from store.read import FeatureStore


class StoreDataset(Dataset[dict[str, Any]]):
    """The features of videos as items `{"video": id, "features": tensor, "label": number}`.

    `features` is float32, (T, width) with all T stored frames of the video, or (frames, width) with the
    centres of `frames` equal segments, which is how `adapt` evaluates. `label` is there if labels are
    given. Without `frames` videos differ in length, so a DataLoader needs `batch_size=None` or a
    `collate_fn`. Every item is checked against its crc32. Workers of a DataLoader may be forked or
    spawned: each opens the shards itself.

    Args:
        store: the folder of a store, or an open one.
        videos: the ids in the order of the items, or id -> label; None: all that the store has.
        frames: frames of an item; 0: all of the video.

    Raises:
        ConfigError: `frames` is negative.
        StoreError: the store cannot be read, or has no features of some videos.
    """

    def __init__(
        self,
        store: FeatureStore | str | Path,
        videos: Sequence[str] | Mapping[str, int] | None = None,
        *,
        frames: int = 0,
    ) -> None:
        if frames < 0:
            raise ConfigError(f"frames must be 0 or more, got {frames}.")
        self.store = store if isinstance(store, FeatureStore) else FeatureStore(store)
        self.videos = tuple(self.store if videos is None else videos)
        self.labels = dict(videos) if isinstance(videos, Mapping) else None
        self.frames = frames
        lacking = [video for video in self.videos if video not in self.store]
        if lacking:
            raise StoreError(
                f"{counted(len(lacking), 'video', 'has', of=len(self.videos))} no features in "
                f"{self.store.folder} "
                f"{first_of(lacking)}.{near_ids(lacking[0], self.store.records)} Extract them, or leave "
                "them out."
            )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: int) -> dict[str, Any]:
        video = self.videos[item]
        features_TD = torch.from_numpy(self.store[video])
        if self.frames:
            chosen_T = centred(torch.tensor([len(features_TD)]), self.frames)[0]
            features_TD = features_TD[chosen_T]
        label = {} if self.labels is None else {"label": int(self.labels[video])}
        return {"video": video, "features": features_TD.float(), **label}
