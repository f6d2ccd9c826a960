"""Calibration images: what layers see on them, and updates of the weights that stay."""
