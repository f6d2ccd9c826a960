"""Pruning in pure torch: tensors and modules in, tensors and modules out.

Each cut (`pipeline`) of a schedule (`schedules`) computes scores (`criteria`), allocates a target among the layers
(`allocation`), and applies masks (`weights`) or a plan of channels to remove (`channels`). `measure` counts and times
the result. `prune` does one cut in one call.
"""

from pruning.channels.surgery import apply_plan
from pruning.pipeline import prune
from pruning.weights.masks import hold_masks, prunable

__all__ = ["apply_plan", "hold_masks", "prunable", "prune"]
