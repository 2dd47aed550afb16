"""Measurements on real features and real video. Run from the repository root: python -m benchmarks.NAME."""
