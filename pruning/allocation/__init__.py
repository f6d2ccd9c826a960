"""Allocation: scores and a target become the numbers of weights or channels that each layer keeps."""
