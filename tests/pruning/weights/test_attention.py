"""The weights inside of nn.MultiheadAttention: counted, masked, in blocks, scored or refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning.criteria.registry import CRITERIA
from pruning.measure.cost import layer_costs, macs, nonzero_macs
from pruning.weights.blocks import input_axes
from pruning.weights.masks import apply_masks, layer_name, prunable, sparsity, weight_name
from tests.cutting import begin, prune_to, score


class Attends(nn.Module):
    """Rows of pixels as five tokens of six channels, which attend to one another."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, **settings)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1, 2)))
        return self.last(self.attention(x, x, value=x, need_weights=False)[0].mean(1))


IMAGES = torch.rand(4, 1, 5, 6)
BATCHES = [(IMAGES, torch.tensor([0, 1, 2, 0]))]


def test_they_are_prunable() -> None:
    weights = prunable(Attends())
    sizes = {"first.weight": 36, "attention.in_proj_weight": 108, "attention.out_proj.weight": 36, "last.weight": 18}
    assert {name: weight.numel() for name, weight in weights.items()} == sizes
    assert all(weight_name(layer_name(name)) == name for name in weights)
    other = prunable(nn.MultiheadAttention(6, 2, kdim=4, vdim=8))
    assert list(other) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    assert input_axes(Attends(), 3) == dict.fromkeys(sizes, 1)
    assert list(input_axes(Attends(), 4)) == []


@pytest.mark.parametrize("settings", [{}, {"kdim": 6, "bias": False}])
def test_their_costs(settings: Any) -> None:
    """Five tokens: 5 * 6 * 18 for queries, keys and values; 2 * 5 * 5 * 6 for the products; 5 * 36 for what follows."""
    model = Attends(**settings)
    assert macs(model, (1, 5, 6)) == 5 * 36 + 5 * 108 + 2 * 5 * 5 * 6 + 5 * 36 + 18
    rows = {row["layer"]: row for row in layer_costs(model, (1, 5, 6))}
    assert [row["macs"] for row in rows.values()] == [180, 540, 180, 18]
    packed = rows["attention.in_proj_weight"]
    about = ("MultiheadAttention", 6, 18, 108 + 18 * (not settings))
    assert (packed["type"], packed["in_channels"], packed["out_channels"], packed["params"]) == about
    masks = {"attention.in_proj_weight": torch.arange(108).reshape(18, 6) % 3 > 0}
    apply_masks(model, masks)
    assert sparsity(model) == pytest.approx(36 / 198)
    assert nonzero_macs(model, (1, 5, 6)) == macs(model, (1, 5, 6)) - 180


@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if criterion.weight])
def test_criteria_value_them_or_say_that_they_cannot(name: Any) -> None:
    pruned = begin(Attends().double(), IMAGES)
    batches = [(images.double(), labels) for images, labels in BATCHES]
    if name == "bn_scale":
        return  # there is no batch norm
    if name in ("activation", "apoz", "fisher", "obs", "obc", "regression"):
        with pytest.raises(ValueError, match=r"inside of module 'attention' \(MultiheadAttention\) are not seen"):
            score(pruned, CRITERIA[name], batches, torch.Generator())
        return
    scores = score(pruned, CRITERIA[name], batches, torch.Generator())
    assert scores.keys() == prunable(pruned.model).keys()
    assert all((value != 0).any() for value in scores.values())
    after = prune_to(pruned, 0.5, batches, torch.Generator(), scores)
    assert sparsity(after.model) == 0.5
