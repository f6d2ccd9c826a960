"""Channel pruning: dependency groups, plans of the channels to remove, and surgery that applies a plan."""
