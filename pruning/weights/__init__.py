"""Pruning of single weights: masks and n:m blocks."""
