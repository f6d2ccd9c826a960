"""Data sets by name: decoded once, cached, and split identically for all trials."""
