"""Scopes of single weights: how many each layer keeps.

A scope is one function (scores, keep, floor, facts) -> Counts, which sum to `keep`; within a layer the highest scores
stay, whatever the scope. A score of -inf marks a weight that is gone already: no scope ever brings one back. Their
names are in `pruning.allocation.scopes`, the forms for channels in `channel_scopes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from pruning.allocation.lamp import lamp
from pruning.allocation.sensitivity import Curves, envelopes, give_up
from pruning.weights.masks import Scores, has_nan, largest

Counts = dict[str, int]  # parameter name -> number of weights kept
SPARED = Fraction(1, 5)  # of the classifier's weights (or the units it reads), which uniform_plus keeps at least


class Facts(NamedTuple):
    """What a scope may have to know besides scores.

    ends: names of the first and the last prunable weight of the whole network, whether they have scores or not; None:
    the first and last of the scores. curves: of a sensitivity scan, if there was one.
    """

    ends: tuple[str, str] | None = None
    curves: Curves | None = None


NO_FACTS = Facts()


def global_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
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


def layer_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """Keep-counts of the same kept fraction in every layer.

    Each layer's share of `keep` is rounded half to even; the sum is then repaired by single weights, in the
    order of largest rounding error in the direction needed, ties in module order. A share below `floor` (or
    below what is left, if that is less) or above what is left of its layer stops there, and the others make
    it up. Raises ValueError on NaN, and if `keep` is less than the floors ask for or more than is left.
    """
    low, high = bounds(scores, keep, floor)
    return apportion(_sizes(scores), keep, low, high)


def erk_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """Erdos-Renyi-Kernel (Evci et al. 2020, arXiv:1911.11134): small layers are kept denser than large ones.

    A layer's density is in proportion to (n_in + n_out + kernel height + width) / (n_in * n_out * height * width), so
    the number of weights it keeps to the sum of its weight's dimensions; a layer that would keep more than it has left
    keeps all, one below its floor that, and the others are scaled again. Raises ValueError as `layer_counts`.
    """
    low, high = bounds(scores, keep, floor)
    return apportion({name: sum(score.shape) for name, score in scores.items()}, keep, low, high)


def lamp_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """Global, each score divided by the sum of those in its layer that are not smaller (see `pruning.lamp`).

    LAMP (Lee et al. 2021, arXiv:2010.07611). The paper's scores are squared magnitudes: criterion magnitude_l2.
    Raises ValueError as `global_counts`, and on scores that are negative or infinite.
    """
    return global_counts({name: lamp(score, name) for name, score in scores.items()}, keep, floor)


def uniform_plus_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """As `layer_counts`, but the first layer is not cut, and the classifier loses at most 80 % of its weights.

    Gale et al. 2019, arXiv:1902.09574. The classifier is the last layer (see `Facts`) if that is linear, its weight a
    matrix. Raises ValueError as `layer_counts`; what the first layer and the classifier keep counts as their floors.
    """
    names = list(scores) or [""]
    first, last = facts.ends or (names[0], names[-1])
    least = {}
    if last in scores and scores[last].ndim == 2:
        least[last] = math.ceil(SPARED * scores[last].numel())
    if first in scores:
        least[first] = scores[first].numel()
    low, high = bounds(scores, keep, floor, least)
    return apportion(_sizes(scores), keep, low, high)


def sensitivity_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """The least summed accuracy drop that a sensitivity scan lets expect (see `pruning.sensitivity`).

    Every layer gives up weights in the order of rising drop per weight along its curve's envelope, in proportion where
    that is equal; numbers are then rounded as in `apportion`. Raises ValueError as `layer_counts`, and if there are no
    curves, or none of one of the layers.
    """
    low, high = bounds(scores, keep, floor)
    sizes, curves = _sizes(scores), envelopes(facts.curves, scores)
    least, most = ({name: sizes[name] - kept[name] for name in sizes} for kept in (high, low))
    gone = give_up(curves, sizes, least, most, sum(sizes.values()) - keep)
    return rounded({name: sizes[name] - gone[name] for name in sizes}, keep)


def bounds(scores: Scores, keep: int, floor: int, least: Counts | None = None) -> tuple[Counts, Counts]:
    """The fewest and the most weights each layer may keep: its floor, and those that are left (not -inf).

    least: higher floors of single layers. Raises ValueError on a negative floor, on NaN, and if no counts within
    these bounds sum to `keep`.
    """
    if floor < 0:
        raise ValueError(f"floor must not be negative; it is {floor}")
    for name, score in scores.items():
        if has_nan(score):
            raise ValueError(f"scores of {name!r} hold NaN, which has no rank")
    high = {name: int((score > -torch.inf).count_nonzero()) for name, score in scores.items()}
    least = least or {}
    low = {name: min(max(floor, least.get(name, 0)), most) for name, most in high.items()}
    fewest, most = sum(low.values()), sum(high.values())
    if not fewest <= keep <= most:
        spared = "".join(f", {count} in {name}" for name, count in least.items())
        raise ValueError(
            f"cannot keep {keep} weights: {len(scores)} layers keep at least {fewest} (floor {floor} each{spared}), "
            f"and {most} are left"
        )
    return low, high


def apportion(sizes: Mapping[str, float], keep: int, low: Counts, high: Counts) -> Counts:
    """Whole counts that sum to `keep`, in proportion to `sizes` (>= 0), each in its [low, high].

    Shares out of bounds stop at their bound and the others are scaled again; then they are `rounded`. The
    bounds must allow `keep`, as `bounds` has checked.
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
    return rounded({name: shares[name] for name in sizes}, keep)


def rounded(shares: Mapping[str, Fraction], keep: int) -> Counts:
    """Whole counts that sum to `keep`, as the shares do, each less than one away from its share.

    Each is rounded half to even, and the sum repaired by ones in the order of largest rounding error, ties in the order
    of `shares`.
    """
    counts = {name: round(share) for name, share in shares.items()}
    missing = keep - sum(counts.values())
    sign = 1 if missing > 0 else -1
    by_error = sorted(counts, key=lambda name: sign * (counts[name] - shares[name]))
    return counts | {name: counts[name] + sign for name in by_error[: abs(missing)]}


def _sizes(scores: Scores) -> dict[str, int]:
    return {name: score.numel() for name, score in scores.items()}


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
