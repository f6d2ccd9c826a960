"""What a trial does, from the dense baseline to its row."""
