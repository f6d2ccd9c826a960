"""Searches tried out on recorded trials, in simulated time."""
