"""LAMP by hand, by its definition in fractions, and beside torch-pruning's."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_pruning.pruner.importance import LAMPImportance

from pruning.allocation.lamp import lamp
from pruning.allocation.weight_scopes import lamp_counts
from pruning.weights.masks import Scores, keep_top

INF = float("inf")


def scores_of(*layers: list[float]) -> Scores:
    return {str(i): torch.tensor(layer) for i, layer in enumerate(layers)}


def test_lamp_by_hand() -> None:
    assert lamp(torch.tensor([[3.0, 2, 1], [2, 0, -INF]])).tolist() == [1, 2 / 5, 2 / 7, 1 / 8, 0, -INF]
    assert lamp(torch.zeros(2, 2)).tolist() == [0, 0, 0, 0]
    assert lamp(torch.tensor([])).tolist() == []
    # Layer 1's are twice layer 0's, which is all the same to LAMP, and of equal ones the first layer's stay.
    scores = scores_of([3.0, 2, 1, 2], [6.0, 4, 2, 4], [0.0, 0, 0])
    assert list(lamp_counts(scores, 5).values()) == [2, 2, 1]
    assert list(lamp_counts(scores, 4, floor=0).values()) == [2, 2, 0]
    for bad in ([1.0, -0.5], [1.0, INF]):
        with pytest.raises(ValueError, match="lamp ranks finite scores of at least 0; those of '1' are not"):
            lamp_counts(scores_of([1.0, 2.0], bad), 2)


whole = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=4)


@settings(deadline=None)
@given(whole, st.data())
def test_lamp_masks_are_those_of_its_definition(layers: list[list[int]], data: st.DataObject) -> None:
    """In exact fractions, weight by weight; among equal scores, the earlier one's sum excludes the later one."""
    shares = [
        Fraction(u, max(sum(v for j, v in enumerate(layer) if (v, -j) >= (u, -i)), 1))
        for layer in layers
        for i, u in enumerate(layer)
    ]
    keep = data.draw(st.integers(0, len(shares)))
    kept = sorted(sorted(range(len(shares)), key=lambda i: -shares[i])[:keep])
    scores = scores_of(*([float(u) for u in layer] for layer in layers))
    counts = lamp_counts(scores, keep, floor=0)
    assert torch.cat([keep_top(s, counts[n]) for n, s in scores.items()]).nonzero().flatten().tolist() == kept


def test_lamp_is_torch_prunings_and_exact_where_that_is_not() -> None:
    small, large = (torch.randn(n, generator=torch.Generator().manual_seed(0)).square() for n in (500, 1_000_000))
    theirs = LAMPImportance()._lamp(small.clone()).sort(descending=True).values
    assert torch.allclose(lamp(small), theirs.double(), rtol=1e-4)
    top = large.double().sort(descending=True).values[:50].tolist()
    assert lamp(large)[:50].tolist() == pytest.approx(
        [u / math.fsum(top[: i + 1]) for i, u in enumerate(top)], rel=1e-12
    )
