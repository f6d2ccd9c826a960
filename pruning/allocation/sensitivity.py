"""Optimal allocation from a sensitivity scan, which cuts one layer (or dependency group) at a time.

A *curve* is the accuracy drop from cutting one layer only, at several ratios. If drops add up, the summed drop at a
given target is least where all curves have the same slope (Lagrange multipliers: Everett 1963, "Generalized Lagrange
multiplier method for solving problems of optimum allocation of resources"). Measured curves are replaced by their lower
convex envelopes (Shoham & Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import groupby, pairwise
from operator import itemgetter

Curves = Mapping[str, Mapping[float, float]]  # parameter or group -> share of it that is removed -> accuracy drop
Envelope = list[tuple[Fraction, Fraction]]  # (ratio, drop) from (0, 0) to ratio 1, with strictly rising slope


def envelopes(curves: Curves | None, names: Iterable[str]) -> dict[str, Envelope]:
    """The lower convex envelope of the curve of each of these layers or groups.

    Ratios are in [0, 1], drops finite. Negative drops (noise) are kept, but ratio 0 always has drop 0. A curve without
    ratio 1, as usual in scans, ends there at the largest drop of all curves. Raises ValueError if there are no curves
    or none for one of the names, and on ratios or drops out of range.
    """
    if curves is None:
        raise ValueError("scope sensitivity needs the curves of a sensitivity scan: run the scan, and pass its curves")
    for name in (names := list(names)):
        if not curves.get(name):
            raise ValueError(f"scope sensitivity: there is no curve of {name!r}; run the scan for it")
    for name, curve in curves.items():
        if not all(0 <= ratio <= 1 and math.isfinite(drop) for ratio, drop in curve.items()):
            raise ValueError(f"the curve of {name!r} must map ratios in [0, 1] to finite drops; it is {dict(curve)}")
    worst = max((drop for curve in curves.values() for drop in curve.values()), default=0.0)
    return {name: _lower_hull({1: worst, **curves[name], 0: 0.0}) for name in names}


def give_up(
    curves: Mapping[str, Envelope],
    sizes: Mapping[str, int],
    low: Mapping[str, int],
    high: Mapping[str, int],
    total: int,
) -> dict[str, Fraction]:
    """Number of weights that each layer loses, `total` in all, at the least summed drop.

    Weights are removed in the order of rising drop per weight; layers with equal drop per weight lose them in equal
    proportion. Exact.

    Args:
      curves: envelope of each layer.
      sizes: weights of each layer.
      low: fewest weights that each layer loses (those already removed); they sum to at most `total`.
      high: most weights that each layer loses; they sum to at least `total`.
      total: weights to remove.

    Returns:
      Layer -> exact share of `total`, not rounded.
    """
    gone = {name: Fraction(low[name]) for name in curves}
    left = total - sum(gone.values(), Fraction(0))
    pieces: list[tuple[Fraction, str, Fraction]] = []  # (drop per weight, layer, weights) between the bounds
    for name, envelope in curves.items():
        for (start, before), (end, after) in pairwise(envelope):
            first, last = (min(max(x * sizes[name], Fraction(low[name])), Fraction(high[name])) for x in (start, end))
            if first < last:
                pieces.append(((after - before) / (end - start) / sizes[name], name, last - first))
    for _, equal in groupby(sorted(pieces, key=itemgetter(0)), key=itemgetter(0)):
        widths = {name: width for _, name, width in equal}
        available = sum(widths.values(), Fraction(0))
        share = min(left / available, Fraction(1))
        left -= share * available
        gone |= {name: gone[name] + share * width for name, width in widths.items()}
    return gone


def marginal_drops(envelope: Envelope, units: int) -> list[Fraction]:
    """Increase of the drop by each of a group's `units` in turn, along its envelope; never decreasing."""
    drops, piece = [], 0
    for unit in range(units + 1):
        ratio = Fraction(unit, units)
        while envelope[piece + 1][0] < ratio:
            piece += 1
        (start, before), (end, after) = envelope[piece : piece + 2]
        drops.append(before + (ratio - start) * (after - before) / (end - start))
    return [after - before for before, after in pairwise(drops)]


def _lower_hull(points: Mapping[float, float]) -> Envelope:
    """Corners, by rising ratio, of the largest convex function below or through the points."""
    hull: Envelope = []
    for point in sorted((Fraction(float(x)), Fraction(float(y))) for x, y in points.items()):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction]) -> Fraction:
    return (b[1] - a[1]) / (b[0] - a[0])
