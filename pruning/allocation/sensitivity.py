"""Sensitivity: what a scan of layers cut alone says about how much each should give up when all are cut together.

A scan's *curve* is what accuracy it cost to cut one layer (or one dependency group), at several ratios, and nothing
else. If drops add up, the ratios that meet a target at the least summed drop are those at which all curves have the
same slope: no layer could then give up a weight for less than another (Lagrange multipliers: Everett 1963, "Generalized
Lagrange multiplier method for solving problems of optimum allocation of resources"; of measured curves, on their lower
convex envelopes: Shoham & Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import groupby, pairwise
from operator import itemgetter

Curves = Mapping[str, Mapping[float, float]]  # parameter or group -> ratio of it that is gone -> accuracy drop
Envelope = list[tuple[Fraction, Fraction]]  # (ratio, drop) from (0, 0) to ratio 1, of strictly rising slope


def envelopes(curves: Curves | None, names: Iterable[str]) -> dict[str, Envelope]:
    """The lower convex envelope of each of these layers' or groups' curves.

    Ratios are in [0, 1], drops finite. A negative drop (noise) counts as it is, but nothing cut costs nothing: what a
    curve says of ratio 0 doesn't count. One that stops short of ratio 1, as scans do, ends there at the worst drop of
    all curves: a layer that is gone costs what the worst cut did. Raises ValueError if there are no curves or none of
    one of the names, and on ratios and drops out of range.
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
    """How many of its `sizes` weights each layer gives up, `total` in all, at the least summed drop.

    Weights go in the order of rising drop per weight, each layer giving up `low` at least (those gone already) and
    `high` at most; layers whose next weights cost the same give them up in equal proportion. Exact, for `low` summing
    to no more and `high` to no less than `total`.
    """
    gone = {name: Fraction(low[name]) for name in curves}
    left = total - sum(gone.values(), Fraction(0))
    pieces: list[
        tuple[Fraction, str, Fraction]
    ] = []  # (drop per weight, layer, weights): the parts of the envelopes between the bounds
    for name, envelope in curves.items():
        for (start, before), (end, after) in pairwise(envelope):
            first, last = (min(max(x * sizes[name], Fraction(low[name])), Fraction(high[name])) for x in (start, end))
            if first < last:
                pieces.append(((after - before) / (end - start) / sizes[name], name, last - first))
    for _, equal in groupby(sorted(pieces, key=itemgetter(0)), key=itemgetter(0)):
        widths = {name: width for _, name, width in equal}
        room = sum(widths.values(), Fraction(0))
        share = min(left / room, Fraction(1))
        left -= share * room
        gone |= {name: gone[name] + share * width for name, width in widths.items()}
    return gone


def marginal_drops(envelope: Envelope, units: int) -> list[Fraction]:
    """What the first, second, ... of a group's `units` adds to the drop, along its envelope; never falling."""
    drops, piece = [], 0
    for unit in range(units + 1):
        ratio = Fraction(unit, units)
        while envelope[piece + 1][0] < ratio:
            piece += 1
        (start, before), (end, after) = envelope[piece : piece + 2]
        drops.append(before + (ratio - start) * (after - before) / (end - start))
    return [after - before for before, after in pairwise(drops)]


def _lower_hull(points: Mapping[float, float]) -> Envelope:
    """The corners, from left to right, of the largest convex function that is nowhere above the points."""
    hull: Envelope = []
    for point in sorted((Fraction(float(x)), Fraction(float(y))) for x, y in points.items()):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(a: tuple[Fraction, Fraction], b: tuple[Fraction, Fraction]) -> Fraction:
    return (b[1] - a[1]) / (b[0] - a[0])
