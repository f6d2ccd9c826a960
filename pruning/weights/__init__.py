"""Single weights: masks, and n:m blocks."""
