"""Optuna's samplers by name, and an adapter for the private names of Optuna that are used."""
