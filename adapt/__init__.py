"""Stage two: cached features in, predictions out. The only place where gradients exist."""
