"""Allocation: turns scores and a target into the number of weights or channels that each layer keeps."""
