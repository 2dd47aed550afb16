"""What both stages share: manifests, the feature store, files and locks. No torch, no decoder."""

from store.read import FeatureStore

__all__ = ["FeatureStore"]
