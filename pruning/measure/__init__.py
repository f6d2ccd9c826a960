"""Measurements of a network: parameters, MACs, bytes, latency, and distributions of weights and scores."""
