"""Masks of single weights that meet a sparsity target exactly."""

from __future__ import annotations

import torch

from pruning.allocation.scopes import SCOPES
from pruning.allocation.sensitivity import Curves
from pruning.allocation.weight_scopes import Facts
from pruning.weights.masks import Masks, Scores, keep_top


def weight_masks(
    scores: Scores,
    sparsity: float,
    scope: str,
    *,
    previous: Masks | None = None,
    fixed: int = 0,
    gone: int = 0,
    floor: int = 1,
    ends: tuple[str, str] | None = None,
    curves: Curves | None = None,
) -> Masks:
    """Masks that bring a network to a cumulative sparsity, exact to the weight.

    Of total = scored + fixed + gone weights, total - round_half_even(sparsity * total) are kept.

    Args:
      scores: floating-point scores of the weights that may be cut; higher = keep.
      sparsity: of the dense network, in [0, 1).
      scope: a name in SCOPES.
      previous: masks of the cut before; weights pruned there stay pruned.
      fixed: number of prunable weights that are kept, as their layers are protected.
      gone: number of prunable weights removed with channels.
      floor: weights that every layer keeps at least.
      ends: see `Facts`.
      curves: see `Facts`.

    Raises:
      ValueError: unknown scope; sparsity out of range; `previous` with other names or shapes; NaN scores; a target that
        the fixed weights, the floor or the previous cut rule out; and what the scope raises.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; choose from {', '.join(SCOPES)}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1); it is {sparsity}")
    total = fixed + gone + sum(score.numel() for score in scores.values())
    keep = total - round(sparsity * total) - fixed
    if keep < 0:
        raise ValueError(f"sparsity {sparsity} of {total} weights is out of reach: {fixed} are protected")
    if previous is not None:
        scores = _mask_scores(scores, previous)
    counts = SCOPES[scope].weights(scores, keep, floor, Facts(ends, curves))
    return {name: keep_top(score, counts[name]) for name, score in scores.items()}


def _mask_scores(scores: Scores, previous: Masks) -> Scores:
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    if {name: tuple(mask.shape) for name, mask in previous.items()} != shapes:
        raise ValueError(f"previous masks must have the names and shapes of the scores: {shapes}")
    return {name: score.masked_fill(~previous[name], -torch.inf) for name, score in scores.items()}
