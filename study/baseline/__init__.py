"""The baseline: the dense network that all trials of a study start from."""
