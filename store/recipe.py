"""How features were made: what a run keeps of their store, so that others can be made in the same way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from store.errors import StoreError, shortened
from store.format import config_sha256
from store.read import FeatureStore

NEEDED = (
    *("backbone", "weights_sha256", "preset", "stride", "frames_per_video", "decoder"),
    "compute_dtype",
)
"""What a store's config must say for its features to be made again from other videos."""


def names_published(backbone: str, weights: str) -> bool:
    """Return whether weights are seeded or published ones, which their name leads to, and no file's.

    Args:
        backbone, weights: as a store records them.
    """
    tag = backbone.partition(".")[2]  # of timm:MODEL.TAG
    return bool(re.fullmatch(r"random:\d+|imagenet1k_\w+", weights)) or weights == tag != ""


@dataclass(frozen=True)
class Recipe:
    """The config of a store, which decides the numbers, and what its weights are called."""

    config: Mapping[str, Any]
    """As the store's index has it: backbone, preset, number form, sha256 of the weights, and so on."""
    weights: str
    """A torchvision name, a tag of timm, `random:SEED`, or the name of the file that they were read from."""

    @staticmethod
    def of(store: FeatureStore) -> Recipe:
        """Return the recipe of a store's features."""
        return Recipe(store.config, str(store.index["run"].get("weights", "")))

    @staticmethod
    def load(record: Mapping[str, Any] | None) -> Recipe | None:
        """Return the recipe that `as_dict` gave; None where a run has recorded none.

        Raises:
            KeyError, TypeError: it is not such a record.
        """
        if record is None:
            return None
        return Recipe(dict(record["config"]), str(record["weights"]))

    def as_dict(self) -> dict[str, Any]:
        """Return numbers, texts and lists only, for JSON and for checkpoints."""
        return {"config": dict(self.config), "weights": self.weights}

    @property
    def sha256(self) -> str:
        """The sha256 of the config, as a store's index has it."""
        return config_sha256(self.config)

    def check_complete(self) -> None:
        """Make sure that the config says all that is needed to make such features again.

        Raises:
            StoreError: it does not. Stores that another program wrote may say less.
        """
        lacking = [name for name in NEEDED if name not in self.config]
        if "origin" in self.config:
            raise StoreError(
                f"The features were imported ({shortened(str(self.config['origin']))}), and how they "
                "were made is not known, so none can be made from videos. Import those of the other videos "
                "too, from the same origin, and use them."
            )
        if lacking:
            raise StoreError(
                "It is not known how the run's features were made: their store's config does not say "
                f"{', '.join(lacking)}. Predict from features that were made in the same way instead."
            )
