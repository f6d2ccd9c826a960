"""Allocation from a sensitivity scan: hulls by hand, and the least summed drop over all combinations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.allocation.sensitivity import Curves, envelopes, marginal_drops
from pruning.allocation.weight_scopes import Facts, sensitivity_counts
from pruning.weights.masks import Scores


@pytest.mark.parametrize(
    ("curve", "corners"),
    [
        ({0.5: 0.25}, [(0, 0), (0.5, 0.25), (1, 1)]),  # ends at the worst of all curves
        ({0.5: 0.25, 0.75: 2}, [(0, 0), (0.5, 0.25), (1, 2)]),  # which may be its own
        ({0.5: 0.0625, 1: 0.25}, [(0, 0), (0.5, 0.0625), (1, 0.25)]),  # or is known
        ({0.25: 0.5, 0.5: 0.25}, [(0, 0), (0.5, 0.25), (1, 1)]),  # above the line from 0 to 0.5
        ({0.25: 0.25, 0.5: 0.5, 0.75: 0.75}, [(0, 0), (1, 1)]),  # no corners on a line
        ({0.25: -0.5, 0.5: 0.25}, [(0, 0), (0.25, -0.5), (1, 1)]),  # noise may gain
        ({0: 0.5, 0.5: 0.25}, [(0, 0), (0.5, 0.25), (1, 1)]),  # nothing cut costs nothing
        ({0.25: 0, 0.5: 0, 0.75: 0.25}, [(0, 0), (0.5, 0), (0.75, 0.25), (1, 1)]),
    ],
)
def test_envelopes_by_hand(curve: dict, corners: list) -> None:
    found = envelopes({"a": curve, "b": {0.5: 1.0}}, ["a"])["a"]
    assert [(float(x), float(y)) for x, y in found] == corners


def test_marginal_drops_by_hand() -> None:
    envelope = envelopes({"a": {0.5: 0.25, 1: 1}}, ["a"])["a"]
    assert marginal_drops(envelope, 4) == [0.125, 0.125, 0.375, 0.375]
    assert [float(drop) for drop in marginal_drops(envelope, 3)] == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert marginal_drops(envelope, 1) == [1]


@pytest.mark.parametrize("curve", [{0.5: math.nan}, {0.5: math.inf}, {1.5: 0.1}, {-0.5: 0.1}])
def test_what_is_no_curve_is_refused(curve: dict) -> None:
    with pytest.raises(ValueError, match="curve of 'b' must map ratios in .0, 1. to finite drops"):
        envelopes({"a": {0.5: 0.1}, "b": curve}, ["a"])


def network(sizes: list[int], gone: list[int]) -> Scores:
    scores = {str(i): torch.arange(float(size)) for i, size in enumerate(sizes)}
    for name, count in zip(scores, gone, strict=True):
        scores[name][:count] = -torch.inf
    return scores


def drop_of(curves: Curves, scores: Scores, kept: dict[str, int]) -> float:
    return sum(curves[name].get((len(score) - kept[name]) / len(score), 0.0) for name, score in scores.items())


def least_drop(curves: Curves, scores: Scores, keep: int, floor: int) -> float:
    """The least summed drop over all combinations of whole counts."""
    left = [int((score > -torch.inf).sum()) for score in scores.values()]
    choices = itertools.product(*(range(min(floor, most), most + 1) for most in left))
    return min(drop_of(curves, scores, dict(zip(scores, kept, strict=True))) for kept in choices if sum(kept) == keep)


def convex_hull_of(curve: dict[float, float]) -> dict[float, float]:
    """At each ratio of the curve, the least value interpolated between any two of its points."""
    points = {0.0: 0.0, **curve}
    return {
        x: min(
            points[a] if a == b else points[a] + (points[b] - points[a]) * (x - a) / (b - a)
            for a in points
            for b in points
            if a <= x <= b
        )
        for x in points
    }


@settings(deadline=None, max_examples=200)
@given(st.data(), st.booleans())
def test_no_combination_drops_less(data: st.DataObject, convex: bool) -> None:
    """For curves with a point at every whole count: the curves themselves if convex, else their envelopes."""
    sizes = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    curves = {}
    for i, size in enumerate(sizes):
        steps = data.draw(st.lists(st.integers(-2, 4), min_size=size, max_size=size))
        sums = itertools.accumulate(sorted(steps) if convex else steps)
        curves[str(i)] = {(k + 1) / size: total / 8 for k, total in enumerate(sums)}
    scores = network(sizes, [data.draw(st.integers(0, size)) for size in sizes])
    floor = data.draw(st.integers(0, 2))
    left = [int((score > -torch.inf).sum()) for score in scores.values()]
    keep = data.draw(st.integers(sum(min(floor, most) for most in left), sum(left)))
    kept = sensitivity_counts(scores, keep, floor, Facts(curves=curves))
    assert sum(kept.values()) == keep
    assert all(min(floor, most) <= count <= most for count, most in zip(kept.values(), left, strict=True))
    known = curves if convex else {name: convex_hull_of(curve) for name, curve in curves.items()}
    assert drop_of(known, scores, kept) == pytest.approx(least_drop(known, scores, keep, floor), abs=1e-9)


@pytest.mark.parametrize(
    ("curves", "sizes", "keep", "kept"),
    [
        # Per weight: 0.1 / 50 in "0" up to a half, 0.3 / 50 thereafter; 0.1 / 25 and 0.3 / 25 in "1".
        ({"0": {0.5: 0.1}, "1": {0.5: 0.1, 1: 0.4}}, [100, 50], 110, [60, 50]),
        ({"0": {0.5: 0.1}, "1": {0.5: 0.1, 1: 0.4}}, [100, 50], 90, [50, 40]),
        ({"0": {0.5: 0.1}, "1": {0.5: 0.1, 1: 0.4}}, [100, 50], 60, [35, 25]),
        ({"0": {0.5: 0.1}, "1": {0.5: 0.1, 1: 0.4}}, [100, 50], 20, [1, 19]),
        # The same curves, the same slopes per weight where the sizes are: equal shares, the odd one for the first.
        ({"0": {0.5: 0.1}, "1": {0.5: 0.1}}, [50, 50], 49, [25, 24]),
        ({"0": {0.5: 0.0}, "1": {0.5: 0.0}}, [30, 60], 60, [20, 40]),
        # Accuracy gained by cutting: to where it is gained, before anything else.
        ({"0": {0.5: 0.2}, "1": {0.2: -0.1}}, [10, 10], 18, [10, 8]),
    ],
)
def test_counts_by_hand(curves: dict, sizes: list[int], keep: int, kept: list[int]) -> None:
    assert list(sensitivity_counts(network(sizes, [0] * len(sizes)), keep, 1, Facts(curves=curves)).values()) == kept


def test_a_layer_that_is_past_its_share_waits() -> None:
    """Its weights with the smallest drop are already removed."""
    facts = Facts(curves={"0": {0.5: 0.1, 1: 0.5}, "1": {0.5: 0.2, 1: 0.7}})
    assert list(sensitivity_counts(network([10, 10], [0, 0]), 15, 1, facts).values()) == [5, 10]
    assert list(sensitivity_counts(network([10, 10], [5, 0]), 14, 1, facts).values()) == [5, 9]
    assert list(sensitivity_counts(network([10, 10], [2, 4]), 10, 1, facts).values()) == [5, 5]
