"""Simulates searches on recorded trials, in simulated time."""
