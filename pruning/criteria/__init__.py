"""Criteria: score functions for weights and channels; the higher a score, the longer the weight or channel is kept."""
