"""Channels: which of them depend on each other, plans of what to cut, and networks cut by a plan."""
