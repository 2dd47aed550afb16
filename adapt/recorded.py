"""Where the features and manifests of a finished run lie now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapt.config import AdaptConfig
from adapt.listing import DataOptions
from adapt.runs import DataRecord
from store.datasets import dataset_of, manifest_path
from store.errors import RunError, StoreError
from store.read import FeatureStore


@contextmanager
def target_store(
    config: AdaptConfig, record: DataRecord, features: Path | None, manifests: Path | None
) -> Iterator[tuple[FeatureStore, DataOptions]]:
    """The store of a run's target domain, open, and the options that lead to its videos.

    Args:
        features, manifests: where they lie now, None if they have not moved.

    Raises:
        RunError: they are not there.
        StoreError: the features are others than those that the run was trained on.
    """
    options = DataOptions(
        features=features or Path(record.features),
        manifests=manifests or Path(record.manifests),
        store=record.store,
        allow_missing=record.allow_missing,
    )
    with domain_store(config, record, config.target, options) as store:
        yield store, options


@contextmanager
def domain_store(
    config: AdaptConfig, record: DataRecord, domain: str, options: DataOptions
) -> Iterator[FeatureStore]:
    """The store of any of a run's domains, open.

    Raises:
        RunError, StoreError: as `target_store`.
    """
    folder = options.features / dataset_of(domain, options.manifests) / record.store
    manifest = manifest_path(config.benchmark, domain, options.manifests)
    if not folder.is_dir() or not manifest.exists():
        raise RunError(
            f"The run's features {folder} or manifests {manifest} are not there any more. "
            "Where they lie now: --features and --manifests."
        )
    with FeatureStore(folder) as store:
        if store.index["config_sha256"] != record.feature_config_sha256:
            raise StoreError(
                f"{store.folder} was made with another config than the run's features."
            )
        yield store
