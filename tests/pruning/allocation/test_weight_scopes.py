"""Scopes: exact counts under heavy ties, floors and earlier cuts; torch's own pruning as the oracle."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from pruning.allocation.scopes import SCOPES
from pruning.allocation.sensitivity import Curves
from pruning.allocation.weight_budget import weight_masks
from pruning.allocation.weight_scopes import both_counts, global_counts
from pruning.weights.masks import Masks, Scores, keep_top

SPARSITIES = [0.1, 0.5, 0.9, 0.99]
schedules = st.lists(st.floats(0, 0.98), min_size=2, max_size=5).map(sorted)
INF = float("inf")
LINEAR = {"0": {0.5: 0.05}, "1": {0.5: 0.1, 1: 0.2}, "2": {0.5: 0.3, 1: 0.6}}

tied = st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=60)
zeros = st.integers(1, 60).map(lambda n: [0.0] * n)
networks = st.lists(tied | zeros, min_size=1, max_size=6).map(
    lambda layers: {f"layer{i}.weight": torch.tensor(layer) for i, layer in enumerate(layers)}
)


def distinct(*shapes: tuple[int, ...]) -> Scores:
    """Scores 1 .. n in random order, cut into tensors of the given shapes."""
    sizes = [int(torch.tensor(shape).prod()) for shape in shapes]
    values = (torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(3)) + 1.0).split(sizes)
    return {f"{i}.weight": value.view(shape) for i, (value, shape) in enumerate(zip(values, shapes, strict=True))}


def facts(scope: str, scores: Scores, seed: int = 0) -> dict[str, Any]:
    """What a scope needs besides scores: made-up curves; protected ends, so that every layer may be cut."""
    if scope == "sensitivity":
        return {"curves": made_up(scores, seed)}
    return {"ends": ("first.weight", "last.weight")} if scope == "uniform_plus" else {}


def made_up(scores: Scores, seed: int = 0) -> Curves:
    """Drops like those of a noisy scan: not convex, some negative, some equal at several ratios."""
    generator = torch.Generator().manual_seed(seed)
    drops = torch.randint(-2, 9, (len(scores), 3), generator=generator) / 10
    return {
        name: dict(zip((0.25, 0.5, 0.9), row.tolist(), strict=True)) for name, row in zip(scores, drops, strict=True)
    }


def joined(masks: Masks) -> Tensor:
    return torch.cat([mask.flatten() for mask in masks.values()])


def scores_of(*layers: list[float]) -> Scores:
    return {str(i): torch.tensor(layer) for i, layer in enumerate(layers)}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sparsity", SPARSITIES)
@settings(deadline=None, max_examples=25)
@given(scores=networks)
def test_masks_are_exact_to_the_weight_and_empty_no_layer(scope: str, sparsity: float, scores: Scores) -> None:
    total = sum(score.numel() for score in scores.values())
    keep = total - round(sparsity * total)
    if keep < len(scores):
        with pytest.raises(ValueError, match=f"cannot keep {keep} weights"):
            weight_masks(scores, sparsity, scope, **facts(scope, scores))
        return
    masks = weight_masks(scores, sparsity, scope, **facts(scope, scores))
    assert joined(masks).sum() == keep
    for name, score in scores.items():
        kept, cut = score[masks[name]], score[~masks[name]]
        assert masks[name].shape == score.shape
        assert len(kept) >= 1
        assert not len(cut) or kept.min() >= cut.max()


@settings(deadline=None)
@given(networks, st.data())
def test_global_without_a_floor_is_one_stable_ranking_of_everything(scores: Scores, data: st.DataObject) -> None:
    everything = torch.cat(list(scores.values()))
    keep = data.draw(st.integers(0, len(everything)))
    counts = global_counts(scores, keep, floor=0)
    assert torch.equal(joined({n: keep_top(s, counts[n]) for n, s in scores.items()}), keep_top(everything, keep))


@settings(deadline=None)
@given(networks, st.integers(1, 5), st.data())
def test_a_global_layer_above_its_floor_holds_only_top_scores(scores: Scores, floor: int, data: Any) -> None:
    least = {name: min(floor, len(score)) for name, score in scores.items()}
    keep = data.draw(st.integers(sum(least.values()), sum(map(len, scores.values()))))
    counts = global_counts(scores, keep, floor)
    assert sum(counts.values()) == keep
    assert all(least[name] <= counts[name] <= len(scores[name]) for name in scores)
    kept = {name: score.sort(descending=True).values[: counts[name]] for name, score in scores.items()}
    cut = {name: score.sort(descending=True).values[counts[name] :] for name, score in scores.items()}
    best_cut = max((float(c.max()) for c in cut.values() if len(c)), default=-INF)
    assert all(kept[name].min() >= best_cut for name in scores if counts[name] > least[name])


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_global_masks_are_torchs_on_distinct_scores(sparsity: float) -> None:
    shapes = [(8, 3, 3, 3), (16, 8, 3, 3), (10, 16)]
    scores = distinct(*shapes)
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(16, 10)]
    for layer, score in zip(layers, scores.values(), strict=True):
        layer.weight.data = score.clone()
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=sparsity)
    masks = weight_masks(scores, sparsity, "global", floor=0)  # torch has no floor, and empties one at 99 %
    for layer, mask in zip(layers, masks.values(), strict=True):
        assert torch.equal(mask, layer.weight_mask.bool())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("size", [10, 15, 25, 50])
@pytest.mark.parametrize("sparsity", [*SPARSITIES, 0.25, 0.3, 0.7])
def test_one_layer_is_torchs_l1_unstructured_halves_to_even(scope: str, size: int, sparsity: float) -> None:
    scores = distinct((1, size))
    layer = nn.Linear(size, 1)
    layer.weight.data = scores["0.weight"].clone()
    prune.l1_unstructured(layer, "weight", amount=sparsity)
    masks = weight_masks(scores, sparsity, scope, floor=0, **facts(scope, scores))
    assert torch.equal(masks["0.weight"], layer.weight_mask.bool())


@pytest.mark.parametrize(
    ("layers", "keep", "floor", "counts"),
    [
        (([9, 8, 7], [1, 2, 3]), 3, 0, [3, 0]),
        (([9, 8, 7], [1, 2, 3]), 3, 1, [2, 1]),
        (([9, 8, 7], [1, 2]), 4, 5, [3, 2, "refused"]),  # the floors alone ask for 5
        (([1, 1], [1, 1], [1, 1]), 3, 0, [2, 1, 0]),  # ties: earlier layers
        (([1, 1], [1, 1], [1, 1]), 3, 1, [1, 1, 1]),
        # The floor lifts layer 2 to two weights, which pushes layer 0 below its own: ranked a third time.
        (([4, 4, 3], [9, 8, 7, 6, 5, 5], [1, 1, 1]), 7, 2, [2, 3, 2]),
        (([-INF, -INF, 5], [1, 1, 1]), 3, 2, [1, 2]),  # a floor of two, but one weight left
        (([-INF], [1, 2]), 1, 1, [0, 1]),
        (([], [1, 2]), 1, 1, [0, 1]),
    ],
)
def test_global_counts_by_hand(layers: tuple, keep: int, floor: int, counts: list) -> None:
    scores = scores_of(*([float(x) for x in layer] for layer in layers))
    if counts[-1] == "refused":
        with pytest.raises(ValueError, match="cannot keep 4 weights: 2 layers keep at least 5"):
            global_counts(scores, keep, floor)
    else:
        assert list(global_counts(scores, keep, floor).values()) == counts


@pytest.mark.parametrize("scope", SCOPES)
@settings(deadline=None, max_examples=50)
@given(scores=networks, points=schedules, seed=st.integers(0, 99))
def test_a_growing_schedule_nests_its_masks_whatever_is_scored_in_between(
    scope: Any, scores: Any, points: Any, seed: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = sum(score.numel() for score in scores.values())
    assume(total - round(points[-1] * total) >= len(scores))
    previous = None
    for point in points:
        scores = {name: torch.rand(score.shape, generator=generator) for name, score in scores.items()}
        masks = weight_masks(scores, point, scope, previous=previous, **facts(scope, scores, seed))
        assert joined(masks).sum() == total - round(point * total)
        assert all(mask.any() for mask in masks.values())
        if previous is not None:
            assert not (joined(masks) & ~joined(previous)).any()
        previous = masks


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_both_takes_what_is_low_in_the_network_and_in_the_layer(layers: Any, data: Any) -> None:
    """For some number of the network's lowest weights, by hand, as sorted lists; one less takes too few."""
    everything = sorted((value, -i, -j) for i, layer in enumerate(layers) for j, value in enumerate(layer))
    total = len(everything)

    def kept(gone: int) -> list[int]:
        lowest = [-i for _, i, _ in everything[:gone]]
        most = [math.floor(Fraction(len(layer) * gone, total) + Fraction(1, 2)) for layer in layers]
        return [len(layer) - min(lowest.count(i), most[i]) for i, layer in enumerate(layers)]

    keep = data.draw(st.integers(0, total))
    gone = min(gone for gone in range(total + 1) if sum(kept(gone)) <= keep)
    counts = list(both_counts(scores_of(*([float(x) for x in layer] for layer in layers)), keep, floor=0).values())
    assert sum(counts) == keep
    assert all(low <= n <= high for low, n, high in zip(kept(gone), counts, kept(max(gone - 1, 0)), strict=True))


@pytest.mark.parametrize("scope", SCOPES)
def test_a_cut_after_another_scopes_cut_revives_nothing(scope: str) -> None:
    scores = scores_of([1.0] * 10, [2.0] * 10, [3.0] * 10)
    lopsided = {"0": torch.arange(10) < 1, "1": torch.arange(10) < 4, "2": torch.arange(10) < 10}
    masks = weight_masks(scores, 0.6, scope, previous=lopsided, **facts(scope, scores) | {"curves": LINEAR})
    expected = {
        "global": [1, 1, 10],
        "knapsack": [1, 1, 10],  # every weight costs the same
        "both": [1, 3, 8],  # of the lowest 22: 7 or less of each layer, and 2 of the last
        "layer": [1, 4, 7],  # 4 each, but 1 and 4 are left in two
        "erk": [1, 4, 7],  # layers of one shape
        "lamp": [1, 4, 7],  # all scores of a layer are equal: its n-th has 1 / n
        "uniform_plus": [1, 4, 7],
        "sensitivity": [1, 1, 10],  # layer 1 loses accuracy at a third of the rate of layer 2
    }[scope]
    assert [int(mask.sum()) for mask in masks.values()] == expected
    assert not (joined(masks) & ~joined(lopsided)).any()


@pytest.mark.parametrize("scope", SCOPES)
def test_protected_weights_count_towards_the_total(scope: str) -> None:
    scores = distinct((8, 3, 9), (4, 5))
    masks = weight_masks(scores, 0.5, scope, fixed=100, **facts(scope, scores))
    assert joined(masks).sum() == 236 + 100 - 168 - 100


def test_nothing_pruned_at_sparsity_zero() -> None:
    assert joined(weight_masks(scores_of([0.0, 0.0], [1.0]), 0.0, "layer")).all()
    assert weight_masks({}, 0.0, "global") == {}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_scores_may_mix_dtypes_and_are_left_alone(scope: str, dtype: torch.dtype) -> None:
    scores = distinct((5, 3), (7, 9))
    mixed = {"0.weight": scores["0.weight"].to(dtype), "1.weight": scores["1.weight"]}
    copies = {name: score.clone() for name, score in mixed.items()}
    masks = weight_masks(mixed, 0.5, scope, **facts(scope, scores))
    same = weight_masks(scores, 0.5, scope, **facts(scope, scores))
    assert all(torch.equal(masks[name], mask) for name, mask in same.items())
    assert all(torch.equal(mixed[name], copy) for name, copy in copies.items())


def test_a_threshold_between_float32_values_is_not_rounded() -> None:
    scores = {"0": torch.tensor([1.0, 1.0]), "1": torch.tensor([1 + 1e-9, 0.0], dtype=torch.float64)}
    assert global_counts(scores, 1, floor=0) == {"0": 0, "1": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scope": "local"},
            "unknown scope 'local'; choose from global, knapsack, layer, both, erk, lamp, uniform_plus, sensitivity",
        ),
        ({"sparsity": 1.0}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": float("nan")}, r"sparsity must be in \[0, 1\)"),
        ({"sparsity": 0.9, "fixed": 90}, "sparsity 0.9 of 94 weights is out of reach: 90 are protected"),
        ({"sparsity": 0.75}, r"cannot keep 1 weights: 2 layers keep at least 2 \(floor 1 each\)"),
        ({"floor": -1}, "floor must not be negative"),
        ({"scores": scores_of([1.0, float("nan")], [1.0, 2.0])}, "scores of '0' hold NaN"),
        ({"previous": {"0": torch.ones(2, dtype=torch.bool)}}, "names and shapes"),
        (
            {"previous": {n: torch.zeros(2, dtype=torch.bool) for n in "01"}},
            "cannot keep 2 weights.* 0 are left",
        ),
    ],
)
@pytest.mark.parametrize("scope", SCOPES)
def test_bad_input_is_named(scope: str, options: dict, message: str) -> None:
    scores = scores_of([1.0, 2.0], [3.0, 4.0])
    arguments = {"scores": scores, "sparsity": 0.5, "scope": scope, **facts(scope, scores), **options}
    with pytest.raises(ValueError, match=message):
        weight_masks(**arguments)


@pytest.mark.parametrize("scope", SCOPES)
def test_every_device_makes_the_same_masks_of_scores_with_ties(scope: str, device: torch.device) -> None:
    scores = {name: score // 7 for name, score in distinct((64, 32, 3, 3), (10, 64)).items()}
    placed = {name: score.to(device) for name, score in scores.items()}
    found = joined(weight_masks(placed, 0.9, scope, **facts(scope, scores)))
    assert found.device.type == device.type
    assert found.numel() - int(found.sum()) == round(0.9 * found.numel())
    assert torch.equal(found.cpu(), joined(weight_masks(scores, 0.9, scope, **facts(scope, scores))))


@pytest.mark.parametrize("curves", [None, {}, {"0": {0.5: 0.1}}, {"0": {0.5: 0.1}, "1": {}}])
def test_sensitivity_asks_for_the_scan(curves: Curves | None) -> None:
    with pytest.raises(ValueError, match="scope sensitivity.*run the scan"):
        weight_masks(scores_of([1.0, 2.0], [3.0, 4.0]), 0.5, "sensitivity", curves=curves)
