"""The search: the queue and the store of all trials, an Optuna study on a journal, and early stopping."""
