"""One trial, from the dense baseline to its row."""
