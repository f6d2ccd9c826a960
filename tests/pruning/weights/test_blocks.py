"""n:m: exactly n of every m along the inputs, against an independent count and torch's own sparsifiers."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.ao.pruning.sparsifier.weight_norm_sparsifier import WeightNormSparsifier
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

import models
import pruning
from pruning.criteria.registry import CRITERIA
from pruning.settings import Granularity
from pruning.weights.blocks import input_axes, keep_blocks, pattern
from pruning.weights.masks import prunable, sparsity
from tests.cutting import begin, prune_to

IMAGES = torch.zeros(2, 3, 32, 32)
BATCHES = [(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)), torch.arange(4))]


@st.composite
def blocked_scores(draw: Any) -> Any:
    """Scores with few distinct values, so that ties are common; with n, m and the axis of the blocks."""
    m = draw(st.integers(2, 8))
    n = draw(st.integers(1, m - 1))
    axis = draw(st.integers(0, 1))
    shape = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    shape[axis] *= m
    values = draw(st.lists(st.integers(0, 3), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(values, dtype=torch.float32).reshape(shape), n, m, axis


@given(blocked_scores())
def test_of_every_block_the_n_highest_stay_and_of_equal_ones_the_first(drawn: Any) -> None:
    scores, n, m, axis = drawn
    mask = keep_blocks(scores, n, m, axis)
    assert mask.shape == scores.shape
    other = [range(size) for i, size in enumerate(scores.shape) if i != axis]
    for place in np.ndindex(*map(len, other)):
        line = (*place[:axis], slice(None), *place[axis:])
        values, kept = scores[line].tolist(), mask[line].tolist()
        for start in range(0, len(values), m):
            ranked = sorted(range(start, start + m), key=lambda i: (-values[i], i))
            assert sorted(ranked[:n]) == [i for i in range(start, start + m) if kept[i]]


def test_a_row_by_hand() -> None:
    scores = torch.tensor([[1.0, 4, 3, 2, 5, 5, 5, 5]])
    assert keep_blocks(scores, 2, 4).tolist() == [[False, True, True, False, True, True, False, False]]
    assert keep_blocks(scores, 1, 2).tolist() == [[False, True, True, False, True, False, True, False]]
    assert keep_blocks(scores, 3, 8).tolist() == [[False] * 4 + [True] * 3 + [False]]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4)])
def test_a_networks_blocks_run_along_the_inputs_at_one_place_of_the_kernel(n: Any, m: Any) -> None:
    torch.manual_seed(0)
    model = models.build("resnet20", 10).eval()
    before = copy.deepcopy(model)
    pruned, masks = pruning.prune(model, IMAGES, granularity=f"{n}:{m}")
    assert pruned is model
    assert set(prunable(model)) - set(masks) == {"conv1.weight"}  # of three colours
    assert torch.equal(model.conv1.weight, before.conv1.weight)
    for name in masks:
        weight = model.get_parameter(name).detach()
        if weight.ndim == 4:  # as NVIDIA's apex does: places of the kernel and filters first, inputs last
            weight = weight.permute(2, 3, 0, 1).reshape(-1, weight.shape[1])
        assert (np.count_nonzero(weight.numpy().reshape(-1, m), axis=1) == n).all()
        assert torch.equal(model.get_parameter(name), before.get_parameter(name) * masks[name])
    weights = sum(weight.numel() for weight in prunable(model).values())
    assert sparsity(model) == pytest.approx((1 - n / m) * (1 - model.conv1.weight.numel() / weights))


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4)])
def test_magnitude_masks_are_those_of_torchs_sparsifier(n: Any, m: Any) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(48, 20), nn.ReLU(), nn.Linear(24, 7))
    theirs = copy.deepcopy(ours)
    masks = pruning.prune(ours, torch.zeros(1, 48), granularity=f"{n}:{m}")[1]
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, m), zeros_per_block=m - n)
    sparsifier.prepare(theirs, [{"tensor_fqn": name} for name in masks])
    sparsifier.step()
    for name, mask in masks.items():
        layer = theirs.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(layer.parametrizations.weight[0].mask.bool(), mask)


def test_torch_packs_2_4_weights_without_loss() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 64)).half()
    dense = model[0].weight.detach().clone()
    pruning.prune(model, torch.zeros(1, 128), granularity="2:4")
    packed = sparse_semi_structured_from_dense_cutlass(model[0].weight.detach())
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(*packed), model[0].weight)
    lossy = sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(dense))
    assert not torch.equal(lossy, dense)


def test_layers_stay_dense_whose_inputs_are_no_multiple_of_m() -> None:
    model = nn.ModuleDict(
        {
            "colours": nn.Conv2d(3, 8, 3),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "grouped": nn.Conv2d(16, 8, 3, groups=4),  # four inputs a group
            "line": nn.Conv1d(8, 3, 5),
            "up": nn.ConvTranspose2d(8, 5, 2),  # its weight is (inputs, outputs, ...)
            "up_in_groups": nn.ConvTranspose2d(8, 8, 2, groups=4),  # two inputs a group
            "classifier": nn.Linear(12, 10),
            "odd": nn.Linear(10, 4),
        }
    )
    assert input_axes(model, 4) == {
        "grouped.weight": 1, "line.weight": 1, "up.weight": 0, "classifier.weight": 1
    }  # fmt: skip
    masks = pruning.prune(model, torch.zeros(1), granularity="1:4")[1]
    assert list(masks) == list(input_axes(model, 4))
    up = model["up"].weight.detach().reshape(2, 4, 5, 2, 2)
    assert (up.count_nonzero(1) == 1).all()
    for name in ("colours", "depthwise", "up_in_groups", "odd"):
        assert model[name].weight.all()


@pytest.mark.parametrize("criterion", [name for name, form in CRITERIA.items() if form.weight is not None])
def test_every_criterion_that_values_weights_cuts_blocks(criterion: Any) -> None:
    torch.manual_seed(0)
    model = models.build("resnet8", 10).eval()
    _, masks = pruning.prune(model, IMAGES, granularity="2:4", criterion=criterion, batches=BATCHES, protect=["fc"])
    assert "fc.weight" not in masks
    assert model.fc.weight.all()
    for name, mask in masks.items():
        assert (mask.unflatten(1, (-1, 4)).sum(2) == 2).all()
        assert not model.get_parameter(name)[~mask].any()


def test_what_is_gone_stays_gone_though_scores_change() -> None:
    first = prune_to(begin(models.build("resnet8", 10), IMAGES, "2:4"), 0.5, criterion=CRITERIA["random"])
    again = prune_to(first, 0.5, criterion=CRITERIA["random"], generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(again.masks[name], mask) for name, mask in first.masks.items())


@pytest.mark.parametrize("wrong", ["4:4", "0:4", "5:4", "0:0"])
def test_numbers_that_prune_nothing_or_all_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="needs 0 < n < m"):
        pattern(wrong)


def test_names_that_are_no_pattern() -> None:
    assert [pattern(name) for name in ("weight", "n:m", "2:4 ", "-2:4", "a2:4")] == [None] * 5
    assert (pattern("2:4"), pattern("16:32")) == ((2, 4), (16, 32))
    assert [Granularity(name).implied_sparsity for name in ("2:4", "1:4", "3:4", "channel")] == [0.5, 0.75, 0.25, None]


def test_scores_without_rank_and_broken_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        keep_blocks(torch.full((1, 4), torch.nan), 2, 4)
    with pytest.raises(ValueError, match="no multiple of 4"):
        keep_blocks(torch.zeros(4, 6), 2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 0.8}, "granularity 2:4 has sparsity 0.5, not 0.8"),
        ({"only": "fc"}, "by weight or by channel, not by 2:4"),
        ({"granularity": "2:5"}, "no layer that may be cut has a multiple of 5 inputs"),
        ({"protect": ["layer1", "layer2", "layer3", "fc"]}, "multiple of 4 inputs"),
        ({"granularity": "n:m"}, "unknown granularity 'n:m'; choose from weight, channel, hybrid, or n:m such as"),
        ({"granularity": "weight"}, "granularity 'weight' needs a sparsity"),
        ({"criterion": "fpgm"}, "scores channels only"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(arguments: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        pruning.prune(models.build("resnet8", 10), IMAGES, **{"granularity": "2:4", **arguments})
