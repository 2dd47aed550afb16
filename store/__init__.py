"""What both stages share: manifests, the feature store, files and locks. Neither torch nor a decoder."""

from store.read import FeatureStore

__all__ = ["FeatureStore"]
