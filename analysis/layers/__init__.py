"""Per-layer figures: weights and channels kept, sensitivity to pruning, distributions of scores and weights."""
