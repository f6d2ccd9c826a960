"""Criteria: how a weight or a channel is valued; the higher a score, the longer it stays."""
