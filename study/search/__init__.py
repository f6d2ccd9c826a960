"""The search: Optuna's samplers, the store of all trials, and early stopping. The only place that knows Optuna."""
