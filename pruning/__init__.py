"""Pruning in pure torch: tensors and modules in, tensors and modules out.

Scores (`criteria`) and a target (`allocation`) become masks (`weights`) or a plan of channels to cut (`channels`), at
each cut (`pipeline`) of a schedule (`schedules`); what is left is counted and timed by `measure`. For a loop of one's
own, `prune` is the door.
"""

from pruning.channels.surgery import apply_plan
from pruning.pipeline import prune
from pruning.weights.masks import hold_masks, prunable

__all__ = ["apply_plan", "hold_masks", "prunable", "prune"]
