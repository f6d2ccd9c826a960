"""Comparisons between the levels of an axis: criteria, scopes, effects, ranks, importance."""
