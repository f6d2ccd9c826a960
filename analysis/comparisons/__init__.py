"""Levels of an axis against each other: criteria, scopes, effects, ranks, importance."""
