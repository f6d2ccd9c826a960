"""Masks: exact counts with defined ties, and zeros that stay zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from pruning.weights.masks import apply_masks, has_nan, hold_masks, keep_top, largest, prunable, sparsity

INF = float("inf")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = [
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    return nn.Sequential(*body, nn.Linear(4, 2))


def by_sorting(scores: list[float], keep: int) -> list[bool]:
    kept = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:keep]
    return [i in kept for i in range(len(scores))]


def test_prunable_names_convolutions_and_linear_layers_in_module_order() -> None:
    model = nn.ModuleDict({"z": nn.Conv1d(1, 1, 1), "norm": nn.BatchNorm1d(1), "a": nn.ConvTranspose3d(1, 1, 1)})
    model["inner"] = nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 2))
    assert list(prunable(model)) == ["z.weight", "a.weight", "inner.1.weight"]
    named = dict(model.named_parameters())
    assert all(named[name] is weight for name, weight in prunable(model).items())


def test_prunable_counts_a_shared_weight_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(prunable(model)) == ["0.weight"]
    assert list(prunable(nn.Linear(2, 1))) == ["weight"]
    assert prunable(nn.ReLU()) == {}


@pytest.mark.parametrize(
    ("scores", "keep", "mask"),
    [
        ([3.0, 1.0, 2.0], 2, [1, 0, 1]),
        ([1.0, 2.0, 2.0, 2.0], 2, [0, 1, 1, 0]),
        ([0.0, 0.0, 0.0], 1, [1, 0, 0]),
        ([-0.0, 0.0], 1, [1, 0]),
        ([-INF, 5.0, -INF, INF], 3, [1, 1, 0, 1]),
        ([-INF, -INF], 1, [1, 0]),
        ([[1.0, 4.0], [4.0, 4.0]], 2, [[0, 1], [1, 0]]),
        ([7.0], 1, [1]),
        ([7.0], 0, [0]),
        ([], 0, []),
    ],
)
def test_keep_top_by_hand(scores: list, keep: int, mask: list, device: torch.device) -> None:
    result = keep_top(torch.tensor(scores, device=device), keep)
    assert (result.dtype, result.device.type) == (torch.bool, device.type)
    assert torch.equal(result.cpu(), torch.tensor(mask, dtype=torch.bool))


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, -INF]) | st.floats(allow_nan=False, width=32)), st.data())
def test_keep_top_is_a_stable_sort(scores: list[float], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, len(scores)))
    assert keep_top(torch.tensor(scores), keep).tolist() == by_sorting(scores, keep)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.99])
def test_keep_top_agrees_with_torch_on_distinct_scores(fraction: float) -> None:
    layer = nn.Linear(37, 29)
    layer.weight.data = (torch.randperm(37 * 29) + 1.0).view(29, 37)
    expected = layer.weight.detach().abs()
    prune.l1_unstructured(layer, "weight", amount=fraction)
    assert torch.equal(keep_top(expected, int(layer.weight_mask.sum())), layer.weight_mask.bool())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_keep_top_in_every_dtype(dtype: torch.dtype, device: torch.device) -> None:
    scores = torch.randint(-9, 9, (5, 7), generator=torch.Generator().manual_seed(1))
    assert keep_top(scores.to(device, dtype), 17).flatten().tolist() == by_sorting(scores.flatten().tolist(), 17)


def test_ties_go_by_logical_index_whatever_the_memory_format() -> None:
    scores = torch.randint(0, 3, (4, 3, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    strided = scores.to(memory_format=torch.channels_last)
    assert torch.equal(keep_top(strided, 120), keep_top(scores, 120))


def test_keep_top_leaves_the_scores_alone() -> None:
    scores = torch.rand(1000, requires_grad=True)
    before = scores.detach().clone()
    assert not keep_top(scores, 100).requires_grad
    assert torch.equal(scores, before)


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_nan_has_no_rank(keep: int) -> None:
    with pytest.raises(ValueError, match="NaN"):
        keep_top(torch.tensor([1.0, float("nan")]), keep)
    assert not has_nan(torch.tensor([INF, -INF]))
    assert not has_nan(torch.tensor([]))


@pytest.mark.parametrize("keep", [-1, 4])
def test_keep_out_of_range(keep: int) -> None:
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        keep_top(torch.zeros(3), keep)
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        largest([torch.zeros(3)], keep)


def test_largest_over_several_tensors_and_dtypes(device: torch.device) -> None:
    parts = [torch.tensor([[1.0, 5.0]]), torch.tensor([4.0, 2.0], dtype=torch.bfloat16), torch.tensor([])]
    parts = [part.to(device) for part in parts]
    assert [sorted(largest(parts, k).tolist()) for k in range(5)] == [[], [5], [4, 5], [2, 4, 5], [1, 2, 4, 5]]


def test_every_device_keeps_the_first_of_many_equal_scores(device: torch.device) -> None:
    scores = torch.randint(0, 50, (64, 64, 3, 3)).float()
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    for keep in (0, 1, 3686, 33177, scores.numel()):
        expected = torch.zeros(scores.numel(), dtype=torch.bool)
        expected[order[:keep]] = True
        assert torch.equal(keep_top(scores.to(device), keep).cpu().flatten(), expected)


def test_apply_masks_zeroes_exactly_the_masked_weights_even_infinite_ones() -> None:
    model = network()
    masks = {name: torch.rand(weight.shape) > 0.5 for name, weight in prunable(model).items()}
    before = {name: weight.detach().clone() for name, weight in prunable(model).items()}
    model[0].weight.data[~masks["0.weight"]] = INF
    apply_masks(model, masks)
    for name, weight in prunable(model).items():
        assert weight.is_leaf
        assert torch.equal(weight, torch.where(masks[name], before[name], 0))


def test_held_weights_stay_zero_through_momentum_and_decay() -> None:
    model = network().to(memory_format=torch.channels_last)
    masks = {name: keep_top(weight.detach().abs(), weight.numel() // 3) for name, weight in prunable(model).items()}
    apply_masks(model, masks)
    dense = {name: weight.detach().clone() for name, weight in prunable(model).items()}
    hold = hold_masks(model, masks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True)
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        assert any((weight[~masks[name]] != 0).any() for name, weight in prunable(model).items())
        hold()
        for name, weight in prunable(model).items():
            assert (weight[~masks[name]] == 0).all()
    assert all((weight != dense[name])[masks[name]].any() for name, weight in prunable(model).items())


def test_holding_no_masks_changes_nothing() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hold_masks(model, {})()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("use", [apply_masks, hold_masks])
def test_masks_must_fit_the_model(use: Any) -> None:
    with pytest.raises(ValueError, match=r"'1\.weight'.*0\.weight, 5\.weight"):
        use(network(), {"1.weight": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        use(network(), {"5.weight": torch.ones(2, 3, dtype=torch.bool)})


def test_sparsity_counts_zero_prunable_weights_of_the_dense_network() -> None:
    model = network()  # 3 * 4 * 9 + 4 * 2 = 116 prunable weights
    assert sparsity(model) == 0
    model[1].weight.data.zero_()
    assert sparsity(model) == 0
    model[0].weight.data[0] = 0
    model[5].weight.data[:, 0] = 0
    assert sparsity(model) == 29 / 116
    smaller = nn.Sequential(nn.Conv2d(3, 3, 3, bias=False), nn.Flatten(), nn.Linear(3, 2))
    assert sparsity(smaller, dense_total=116) == 0.25


def test_sparsity_of_nothing_or_more_than_everything() -> None:
    with pytest.raises(ValueError, match="0 prunable"):
        sparsity(nn.ReLU())
    with pytest.raises(ValueError, match="116 prunable weights, of 115"):
        sparsity(network(), dense_total=115)
