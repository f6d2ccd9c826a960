"""Pruning in pure torch: tensors and modules in, tensors and modules out.

Scores (`criteria`) become keep-counts and masks (`scopes`, `masks`), or a plan of channels to cut (`channels`,
`allocation`, `plans`, `surgery`), at each cut (`cutting`) of a schedule (`schedules`); what is left is priced by
`cost` and timed by `latency`. For a loop of one's own, `prune` is the door.
"""

from pruning.cutting import prune
from pruning.masks import hold_masks
from pruning.surgery import apply_plan

__all__ = ["apply_plan", "hold_masks", "prune"]
