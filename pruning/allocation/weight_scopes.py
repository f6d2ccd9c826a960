"""Scopes of single weights: how many each layer keeps.

A scope is a function (scores, keep, floor, facts) -> Counts, which sum to `keep`. In every scope the highest scores of
a layer are kept. Weights with score -inf were removed before and stay so. SCOPES in `pruning.allocation.scopes` names
the functions; their counterparts for channels are in `channel_scopes`.

    scores: weight name -> scores of the weights that may be cut; higher = keep.
    keep: number of weights to keep in all layers together.
    floor: weights that every layer keeps at least, or all it has left if fewer.
    facts: see `Facts`.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pruning.allocation.lamp import lamp
from pruning.allocation.sensitivity import Curves, envelopes, give_up
from pruning.calibration.hooks import exact
from pruning.weights.masks import Scores, has_nan, largest

Counts = dict[str, int]  # parameter name -> number of weights kept
SPARED = Fraction(1, 5)  # least share of the classifier's weights (or input units) that uniform_plus keeps


class Facts(NamedTuple):
    """Further inputs of a scope besides scores.

    Attributes:
      ends: names of the first and last prunable weight of the whole network, with or without scores; None: the first
        and last with scores.
      curves: from a sensitivity scan, if there was one.
    """

    ends: tuple[str, str] | None = None
    curves: Curves | None = None


NO_FACTS = Facts()


def global_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """Keep-counts of the `keep` highest scores of the whole network; among equal scores the earlier layer's are kept.

    A layer that would keep fewer than `floor` weights (or than it has left, if fewer) keeps that many, and the others
    are ranked again until no layer falls short. Raises ValueError on NaN, and if `keep` is below the sum of floors or
    above the number of weights left. Args: as every weight scope, see the module.
    """
    low, _ = bounds(scores, keep, floor)
    top, highest = keep, list(scores.values())
    while top:
        highest = [largest(highest, top)]  # each ranking needs only the scores selected by the one before
        ranked = _counts_from(scores, highest[0].min().reshape(1), top)
        counts = {name: max(low[name], ranked[name]) for name in scores}
        excess = sum(counts.values()) - keep
        if not excess:
            return counts
        top -= excess  # never too many: dropping one rank removes at most one weight from the counts
    return low


def layer_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """Keep-counts with the same kept fraction in every layer.

    Each layer's share of `keep` is rounded half to even; the sum is then repaired by single weights, in the order of
    the largest rounding error in the required direction, ties in module order. A share below `floor` (or below what is
    left, if that is less) or above what is left is clipped, and the other layers compensate. Raises ValueError on NaN,
    and if `keep` is below the sum of floors or above the number of weights left. Args: as every weight scope, see the
    module.
    """
    low, high = bounds(scores, keep, floor)
    return apportion(_sizes(scores), keep, low, high)


def both_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """Keep-counts if what goes is low both in the network and in its layer.

    For some number `gone`, a layer of n of all N weights loses those of its weights that are among the network's `gone`
    lowest scores, but at most n * gone / N of them (rounded half up). So a layer whose scores are all low for a reason
    of scale loses little more than others. `gone` is the smallest number that leaves at most `keep`; if it leaves
    fewer, the first layers where `gone` - 1 takes less keep more. Ours; no publication. Raises ValueError on NaN, and
    if `keep` is below the sum of floors or above the number of weights left. Args: as every weight scope, see the
    module.
    """
    low, high = bounds(scores, keep, floor)
    sizes = _sizes(scores)
    total = sum(sizes.values())
    if not total:
        return low
    values = torch.cat([score.flatten() for score in scores.values()])
    ascending = np.sort(values.to(exact(values)).cpu().numpy())  # on a CPU six times as fast as torch's

    def kept(gone: int) -> Counts:
        threshold = torch.tensor([ascending[min(gone, total - 1)]], device=values.device)
        network = _counts_from(scores, threshold, total - gone)
        layer = {name: n - (2 * n * gone + total) // (2 * total) for name, n in sizes.items()}
        return {name: min(max(network[name], layer[name], low[name]), high[name]) for name in sizes}

    gone = bisect.bisect_left(range(total), True, key=lambda gone: sum(kept(gone).values()) <= keep)
    counts, before = kept(gone), kept(max(gone - 1, 0))
    for name in counts:
        counts[name] += min(before[name] - counts[name], keep - sum(counts.values()))
    return counts


def erk_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """Erdos-Renyi-Kernel (Evci et al. 2020, arXiv:1911.11134): small layers are kept denser than large ones.

    A layer's density is proportional to (n_in + n_out + kernel height + width) / (n_in * n_out * height * width), so
    its number of kept weights is proportional to the sum of its weight's dimensions. A layer that would exceed what it
    has left keeps all, one below its floor keeps the floor, and the others are scaled again. Raises ValueError as
    `layer_counts`.
    Args: as every weight scope, see the module.
    """
    low, high = bounds(scores, keep, floor)
    return apportion({name: sum(score.shape) for name, score in scores.items()}, keep, low, high)


def lamp_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """As `global_counts`, with each score divided by the sum of its layer's scores that are not smaller.

    LAMP (Lee et al. 2021, arXiv:2010.07611), see `pruning.allocation.lamp`. The paper's scores are squared magnitudes:
    criterion magnitude_l2. Raises ValueError as `global_counts`, and on scores that are negative or infinite. Args: as
    every weight scope, see the module.
    """
    return global_counts({name: lamp(score, name) for name, score in scores.items()}, keep, floor)


def uniform_plus_counts(scores: Scores, keep: int, floor: int = 1, facts: Facts = NO_FACTS) -> Counts:
    """As `layer_counts`, but the first layer is not cut, and the classifier loses at most 80 % of its weights.

    Gale et al. 2019, arXiv:1902.09574. The classifier is the last layer (see `Facts`) if its weight is a matrix, that
    is, if it is linear. Raises ValueError as `layer_counts`; what the first layer and the classifier keep counts as
    their floors. Args: as every weight scope, see the module.
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
    """The keep-counts with the least summed accuracy drop predicted by a scan (see `pruning.allocation.sensitivity`).

    Weights are removed first where the scan shows the smallest drop per weight (on each curve's convex hull), in equal
    proportion where that is equal, and rounded as in `apportion`. Raises ValueError as `layer_counts`, and if there
    are no curves, or none for one of the layers. Args: as every weight scope, see the module.
    """
    low, high = bounds(scores, keep, floor)
    sizes, curves = _sizes(scores), envelopes(facts.curves, scores)
    least, most = ({name: sizes[name] - kept[name] for name in sizes} for kept in (high, low))
    gone = give_up(curves, sizes, least, most, sum(sizes.values()) - keep)
    return rounded({name: sizes[name] - gone[name] for name in sizes}, keep)


def bounds(scores: Scores, keep: int, floor: int, least: Counts | None = None) -> tuple[Counts, Counts]:
    """The fewest and the most weights that each layer may keep: its floor, and what is left (not -inf).

    Args:
      scores: weight name -> scores.
      keep: weights to keep in all layers together.
      floor: weights that every layer keeps at least.
      least: higher floors of single layers.

    Raises:
      ValueError: negative floor, NaN, or no counts within the bounds sum to `keep`.
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
    """Whole counts that sum to `keep`, proportional to `sizes`, within [low, high].

    Shares out of bounds are clipped and the others are scaled again; then they are `rounded`.

    Args:
      sizes: name -> relative share, >= 0.
      keep: sum of the counts; `bounds` has checked that low and high allow it.
      low: least count of each name.
      high: largest count of each name.
    """
    shares: dict[str, Fraction] = {}
    free = {name: Fraction(size) for name, size in sizes.items()}
    while free:
        scale = (keep - sum(shares.values())) / (sum(free.values()) or Fraction(1))
        clipped = {n: min(max(scale * size, Fraction(low[n])), Fraction(high[n])) for n, size in free.items()}
        change = {name: clipped[name] - scale * size for name, size in free.items()}
        # Settle only the bound with the larger total error: after rescaling, the others may be within bounds again.
        excess = sum(change.values())
        settled = [name for name in free if excess == 0 or change[name] * excess > 0]
        shares |= {name: clipped[name] for name in settled}
        free = {name: size for name, size in free.items() if name not in settled}
    return rounded({name: shares[name] for name in sizes}, keep)


def rounded(shares: Mapping[str, Fraction], keep: int) -> Counts:
    """Whole counts that sum to `keep`, as the shares do, each less than one away from its share.

    Each is rounded half to even; the sum is repaired by ones in the order of the largest rounding error, ties in the
    order of `shares`.
    """
    counts = {name: round(share) for name, share in shares.items()}
    missing = keep - sum(counts.values())
    sign = 1 if missing > 0 else -1
    by_error = sorted(counts, key=lambda name: sign * (counts[name] - shares[name]))
    return counts | {name: counts[name] + sign for name in by_error[: abs(missing)]}


def _sizes(scores: Scores) -> dict[str, int]:
    return {name: score.numel() for name, score in scores.items()}


def _counts_from(scores: Scores, threshold: Tensor, top: int) -> Counts:
    """How many of the `top` highest scores each layer has; ties: the earlier layer. threshold: (1,), the lowest one."""
    layers = list(scores.values())
    # A single GPU synchronisation for all layers.
    counts = torch.stack([(layer >= threshold).count_nonzero() for layer in layers]).tolist()
    surplus = sum(counts) - top
    for i in reversed(range(len(layers))):
        if surplus:
            ties = min(surplus, int((layers[i] == threshold).count_nonzero()))
            counts[i] -= ties
            surplus -= ties
    return dict(zip(scores, counts, strict=True))
