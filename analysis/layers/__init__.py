"""What happens in single layers: what is kept of them, how sensitive they are, how their weights are distributed."""
