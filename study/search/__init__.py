"""The search: queue and store of all trials (an Optuna study on a journal), recovery and early stopping."""
