"""Data sets by name, decoded once, and split for all trials alike."""
