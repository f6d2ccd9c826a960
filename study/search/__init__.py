"""The search with Optuna: trial queue, store of all trials, recovery, suggestions and early stopping."""
