"""Measures of a network: parameters, MACs, bytes, latency, and how its weights and scores are distributed."""
