"""Optuna's samplers by name, and the one file that uses its private names."""
