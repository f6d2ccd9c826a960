"""The baseline: the dense trained network that all trials of a study start from."""
