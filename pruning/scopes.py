"""Scopes: over what scores are ranked. Scores and a target become exact keep-counts, and those become masks.

A score of -inf marks a weight that is gone already: no scope ever brings one back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import torch
from torch import Tensor

from pruning.masks import Masks, Scores, has_nan, keep_top, largest

Counts = dict[str, int]  # parameter name -> number of weights kept


def global_counts(scores: Scores, keep: int, floor: int = 1) -> Counts:
    """Keep-counts of the `keep` highest scores of the whole network; of equal scores the earlier layer's.

    A layer that would keep fewer than `floor` weights (or than it has left, if those are fewer) is fixed at
    that many, and the others are ranked again, until none falls short. The counts sum to `keep`.
    Raises ValueError on NaN, and if `keep` is less than the floors ask for or more than is left.
    """
    low, _ = bounds(scores, keep, floor)
    top, highest = keep, list(scores.values())
    while top:
        highest = [largest(highest, top)]  # each ranking looks at what the one before left
        ranked = _counts_from(scores, highest[0].min().reshape(1), top)
        counts = {name: max(low[name], ranked[name]) for name in scores}
        excess = sum(counts.values()) - keep
        if not excess:
            return counts
        top -= excess  # never too far: giving up one rank takes at most one weight from the counts
    return low


def layer_counts(scores: Scores, keep: int, floor: int = 1) -> Counts:
    """Keep-counts of the same kept fraction in every layer.

    Each layer's share of `keep` is rounded half to even; the sum is then repaired by single weights, in the
    order of largest rounding error in the direction needed, ties in module order. A share below `floor` (or
    below what is left, if that is less) or above what is left of its layer stops there, and the others make
    it up. Raises ValueError on NaN, and if `keep` is less than the floors ask for or more than is left.
    """
    low, high = bounds(scores, keep, floor)
    return apportion({name: score.numel() for name, score in scores.items()}, keep, low, high)


SCOPES: dict[str, Callable[[Scores, int, int], Counts]] = {"global": global_counts, "layer": layer_counts}


def weight_masks(
    scores: Scores,
    sparsity: float,
    scope: str,
    *,
    previous: Masks | None = None,
    fixed: int = 0,
    floor: int = 1,
) -> Masks:
    """Masks that bring a network to a cumulative `sparsity` in [0, 1), exact to the weight.

    scores: of the weights that may be cut, floating; fixed: the number of prunable weights that may not
    (those of protected layers), which count as kept; floor: weights every layer keeps at least; previous:
    masks of the cut before, whose pruned weights stay pruned. Of total = scored + fixed weights, total -
    round_half_even(sparsity * total) are kept. Raises ValueError on an unknown scope, a sparsity out of
    range, `previous` of other names or shapes, NaN scores, and on a target that the fixed weights, the
    floor or the previous cut forbid.
    """
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; choose from {', '.join(SCOPES)}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1); it is {sparsity}")
    total = fixed + sum(score.numel() for score in scores.values())
    keep = total - round(sparsity * total) - fixed
    if keep < 0:
        raise ValueError(f"sparsity {sparsity} of {total} weights is out of reach: {fixed} are protected")
    if previous is not None:
        scores = _without(scores, previous)
    counts = SCOPES[scope](scores, keep, floor)
    return {name: keep_top(score, counts[name]) for name, score in scores.items()}


def bounds(scores: Scores, keep: int, floor: int) -> tuple[Counts, Counts]:
    """The fewest and the most weights each layer may keep: its floor, and those that are left (not -inf).

    Raises ValueError on a negative floor, on NaN, and if no counts within these bounds sum to `keep`.
    """
    if floor < 0:
        raise ValueError(f"floor must not be negative; it is {floor}")
    for name, score in scores.items():
        if has_nan(score):
            raise ValueError(f"scores of {name!r} hold NaN, which has no rank")
    high = {name: int((score > -torch.inf).count_nonzero()) for name, score in scores.items()}
    low = {name: min(floor, most) for name, most in high.items()}
    least, most = sum(low.values()), sum(high.values())
    if not least <= keep <= most:
        raise ValueError(
            f"cannot keep {keep} weights: {len(scores)} layers keep at least {least} (floor {floor} each), "
            f"and {most} are left"
        )
    return low, high


def apportion(sizes: Mapping[str, float], keep: int, low: Counts, high: Counts) -> Counts:
    """Whole counts that sum to `keep`, in proportion to `sizes` (>= 0), each in its [low, high].

    Shares out of bounds stop at their bound and the others are scaled again. Then each share is rounded
    half to even, and the sum repaired by ones in the order of largest rounding error, ties in the order of
    `sizes`. The bounds must allow `keep`, as `bounds` has checked.
    """
    shares: dict[str, Fraction] = {}
    free = {name: Fraction(size) for name, size in sizes.items()}
    while free:
        scale = (keep - sum(shares.values())) / (sum(free.values()) or Fraction(1))
        clipped = {n: min(max(scale * size, Fraction(low[n])), Fraction(high[n])) for n, size in free.items()}
        change = {name: clipped[name] - scale * size for name, size in free.items()}
        # Only the side that errs more is settled: the next scale may bring back those on the other.
        excess = sum(change.values())
        settled = [name for name in free if excess == 0 or change[name] * excess > 0]
        shares |= {name: clipped[name] for name in settled}
        free = {name: size for name, size in free.items() if name not in settled}
    counts = {name: round(shares[name]) for name in sizes}
    missing = keep - sum(counts.values())
    sign = 1 if missing > 0 else -1
    by_error = sorted(counts, key=lambda name: sign * (counts[name] - shares[name]))
    return counts | {name: counts[name] + sign for name in by_error[: abs(missing)]}


def _counts_from(scores: Scores, threshold: Tensor, top: int) -> Counts:
    """How many of the `top` highest scores, the last equal to `threshold` (1,), each layer has; ties: the earlier."""
    layers = list(scores.values())
    # One synchronisation for all layers, where they are on a GPU.
    counts = torch.stack([(layer >= threshold).count_nonzero() for layer in layers]).tolist()
    surplus = sum(counts) - top
    for i in reversed(range(len(layers))):
        if surplus:
            ties = min(surplus, int((layers[i] == threshold).count_nonzero()))
            counts[i] -= ties
            surplus -= ties
    return dict(zip(scores, counts, strict=True))


def _without(scores: Scores, previous: Masks) -> Scores:
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    if {name: tuple(mask.shape) for name, mask in previous.items()} != shapes:
        raise ValueError(f"previous masks must have the names and shapes of the scores: {shapes}")
    return {name: score.masked_fill(~previous[name], -torch.inf) for name, score in scores.items()}
