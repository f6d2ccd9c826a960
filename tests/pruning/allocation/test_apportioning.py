"""Scopes that share a number of weights out by layers' sizes: by hand, and their rounding."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from pruning.allocation.weight_budget import weight_masks
from pruning.allocation.weight_scopes import Facts, apportion, erk_counts, layer_counts, uniform_plus_counts
from pruning.weights import masks

SMALL = {"stem": torch.rand(4, 3, 3, 3), "conv": torch.rand(8, 4, 3, 3), "head": torch.rand(10, 8)}  # 108, 288, 80


@pytest.mark.parametrize(
    ("sizes", "keep", "floor", "counts"),
    [
        ([10, 20, 30], 30, 1, [5, 10, 15]),
        ([5, 5], 5, 1, [3, 2]),  # 2.5 + 2.5 rounds to 2 + 2: the tie for the missing one goes to the first
        ([3, 3, 4], 5, 1, [1, 2, 2]),  # 1.5 + 1.5 + 2 rounds to 2 + 2 + 2: the first of two equals gives one
        ([7, 7, 6], 10, 1, [3, 4, 3]),
        ([1, 1, 98], 10, 1, [1, 1, 8]),  # shares 0.1, 0.1, 9.8, and a floor of one
        ([2, 100], 20, 5, [2, 18]),  # a floor of five, in a layer of two
    ],
)
def test_layer_counts_by_hand(sizes: list[int], keep: int, floor: int, counts: list[int]) -> None:
    scores = {str(i): torch.rand(size) for i, size in enumerate(sizes)}
    assert list(layer_counts(scores, keep, floor).values()) == counts


@settings(deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.data())
def test_layer_counts_are_within_one_weight_of_the_exact_share(sizes: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, sum(sizes)))
    counts = layer_counts({str(i): torch.zeros(size) for i, size in enumerate(sizes)}, keep, floor=0)
    assert sum(counts.values()) == keep
    for size, count in zip(sizes, counts.values(), strict=True):
        assert abs(count - Fraction(keep * size, sum(sizes))) < 1


layer_bounds = st.tuples(st.integers(0, 50), st.integers(0, 20), st.integers(0, 20))


@settings(deadline=None)
@given(st.lists(layer_bounds, max_size=8), st.data())
def test_apportion_holds_its_bounds_and_its_proportions(rows: list[tuple[int, int, int]], data: Any) -> None:
    sizes = {str(i): size for i, (size, _, _) in enumerate(rows)}
    low = {str(i): min(a, b) for i, (_, a, b) in enumerate(rows)}
    high = {str(i): max(a, b) if size else min(a, b) for i, (size, a, b) in enumerate(rows)}
    keep = data.draw(st.integers(sum(low.values()), sum(high.values())))
    counts = apportion(sizes, keep, low, high)
    assert sum(counts.values()) == keep
    assert all(low[name] <= counts[name] <= high[name] for name in sizes)
    # One scale fits all: nobody below their upper bound holds less per size, by more than rounding, than
    # another who is above their lower bound.
    below = [(counts[n] + 1) / sizes[n] for n in sizes if counts[n] < high[n]]
    above = [(counts[n] - 1) / sizes[n] for n in sizes if counts[n] > low[n]]
    assert not below or not above or min(below) >= max(above)


@pytest.mark.parametrize(
    ("keep", "floor", "counts"),
    [
        (49, 1, [13, 18, 18]),  # the sums of their dimensions
        (98, 1, [26, 36, 36]),
        (300, 1, [92, 128, 80]),  # 80, 110 and 110, but the last has 80: 220 as 13 to 18
        (46, 16, [16, 16, 16, "refused"]),
        (49, 16, [16, 17, 16]),  # 16.5 each for the two, and the first gets its floor
    ],
)
def test_erk_counts_by_hand(keep: int, floor: int, counts: list) -> None:
    if counts[-1] == "refused":
        with pytest.raises(ValueError, match="at least 48"):
            erk_counts(SMALL, keep, floor)
    else:
        assert list(erk_counts(SMALL, keep, floor).values()) == counts


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.98])
def test_erk_is_the_density_of_the_paper(sparsity: float) -> None:
    """Densities eps * (1 - ...) as Evci et al. state them, at most 1, with the eps that meets the target."""
    weights = masks.prunable(models.build("resnet20", 10))
    raw = {name: sum(w.shape) / w.numel() for name, w in weights.items()}
    total = sum(w.numel() for w in weights.values())
    low, high = 0.0, 1e6
    for _ in range(100):
        eps = (low + high) / 2
        kept = sum(min(1, eps * raw[name]) * w.numel() for name, w in weights.items())
        low, high = (eps, high) if kept < (1 - sparsity) * total else (low, eps)
    found = weight_masks({name: w.detach() for name, w in weights.items()}, sparsity, "erk")
    for name, weight in weights.items():
        assert int(found[name].sum()) == pytest.approx(min(1, eps * raw[name]) * weight.numel(), abs=1)


@pytest.mark.parametrize(
    ("keep", "ends", "counts"),
    [
        (476, None, [108, 288, 80]),
        (238, None, [108, 102, 28]),  # 130 of the others' 368
        (143, None, [108, 19, 16]),  # 35: the head keeps a fifth of its 80
        (125, None, [108, 1, 16]),
        (124, None, "cannot keep 124 weights: 3 layers keep at least 125 .floor 1 each, 16 in head, 108 in stem."),
        (60, ("first", "last"), [14, 36, 10]),  # both ends of the network are protected: an eighth (13.6, 36.3, 10.1)
        (60, ("first", "head"), [12, 32, 16]),  # 44 of 396
        (124, ("stem", "conv"), [108, 13, 3]),  # the last is a convolution, so no classifier
    ],
)
def test_uniform_plus_counts_by_hand(keep: int, ends: tuple | None, counts: list | str) -> None:
    if isinstance(counts, str):
        with pytest.raises(ValueError, match=counts):
            uniform_plus_counts(SMALL, keep, 1, Facts(ends))
    else:
        assert list(uniform_plus_counts(SMALL, keep, 1, Facts(ends)).values()) == counts


def test_uniform_plus_respects_what_is_gone() -> None:
    before = {name: torch.ones_like(score, dtype=torch.bool) for name, score in SMALL.items()}
    before["stem"][0], before["head"][1:] = False, False  # 81 and 8 are left, of which neither can go
    found = weight_masks(SMALL, 1 - 100 / 476, "uniform_plus", previous=before)
    assert [int(mask.sum()) for mask in found.values()] == [81, 11, 8]
    assert weight_masks({}, 0.0, "uniform_plus") == {}
    with pytest.raises(ValueError, match="cannot keep 2 weights: 1 layers keep at least 4"):
        weight_masks({"0": torch.ones(4)}, 0.5, "uniform_plus")
