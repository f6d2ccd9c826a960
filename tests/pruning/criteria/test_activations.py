"""Activation criteria: by hand, and against activations recorded by hooks."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from pruning.allocation.weight_budget import weight_masks
from pruning.calibration.hooks import as_matrices
from pruning.channels.graph import dependency_graph, plan_without
from pruning.channels.surgery import apply_plan
from pruning.criteria import activations
from tests.networks import Mixed

GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def by_hand() -> Any:
    """Hidden units relu(x1) and relu(x1 - x2), and two logits of them."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 0.0], [1.0, -1.0]])
    model[2].weight.data = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    images = torch.tensor([[3.0, 1.0], [4.0, 5.0], [-1.0, 2.0], [0.0, -7.0]])  # hidden: (3, 2), (4, 0), (0, 0), (0, 7)
    return model, [(images[:3], torch.zeros(3).long()), (images[3:], torch.zeros(1).long())]


def test_by_hand() -> None:
    model, batches = by_hand()
    norms = activations.input_norms(model, batches)
    assert norms["2.weight"].tolist() == 2 * [pytest.approx([5, math.sqrt(53)])]
    assert norms["0.weight"].tolist() == 2 * [pytest.approx([math.sqrt(26), math.sqrt(79)])]
    # Of the products each filter has a lower and a higher one: [5, 2 sqrt 53], [2.5, 3 sqrt 53], [sqrt 26, 0], ...
    scores = activations.activation(model, batches, GENERATOR)
    assert scores["2.weight"].tolist() == [[0, 0.5], [0, 0.5]]
    assert scores["0.weight"].tolist() == [[0.5, 0], [0, 0.5]]
    scores = activations.apoz(model, batches, GENERATOR)
    assert scores["2.weight"].tolist() == [[0.5, 1.0], [0.25, 1.5]]
    assert scores["0.weight"].tolist() == [[0.75, 0.0], [0.75, 1.0]]


def test_channels_by_hand() -> None:
    model, batches = by_hand()
    graph = dependency_graph(model, batches[0][0])
    assert activations.activation_channels(graph, model, None, batches, GENERATOR)["0"].tolist() == [7 / 4, 9 / 4]
    assert activations.apoz_channels(graph, model, None, batches, GENERATOR)["0"].tolist() == [0.5, 0.5]


def test_wanda_of_a_convolution_is_wanda_of_the_linear_layer_of_its_unfolded_input() -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
    x = torch.randn(5, 4, 7, 7).relu()
    unfolded = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 36)  # (images and positions, weights)
    batches = [(x[:2], x[:2]), (x[2:], x[2:])]
    norms = unfolded.norm(dim=0)
    torch.testing.assert_close(activations.input_norms(conv, batches)["weight"][0], norms.reshape(4, 3, 3))
    score = activations.activation(conv, batches, GENERATOR)["weight"].flatten(1)
    for filter_score, weight in zip(score, conv.weight.detach().flatten(1), strict=True):
        assert filter_score.argsort().tolist() == (weight.abs() * norms).argsort().tolist()
        assert filter_score.sort().values.tolist() == pytest.approx([i / 36 for i in range(36)])
    share = (unfolded != 0).float().mean(0).reshape(4, 3, 3)
    score = activations.apoz(conv, [(x[:2], x[:2]), (x[2:], x[2:])], GENERATOR)["weight"]
    torch.testing.assert_close(score, conv.weight.detach().abs() * share)


def test_grouped_convolutions_score_their_own_inputs() -> None:
    conv = nn.Conv2d(4, 4, 1, groups=2, bias=False)
    x = torch.randn(3, 4, 5, 5)
    norms = x.transpose(0, 1).flatten(1).norm(dim=1).reshape(2, 1, 2)
    found = activations.input_norms(conv, [(x, x)])["weight"]
    torch.testing.assert_close(as_matrices(conv, found), norms.expand(2, 2, 2))


def test_the_same_share_of_every_filter_is_kept_whatever_the_scale_of_its_layer() -> None:
    model, batches = by_hand()
    model[0].weight.data *= 1000
    masks = weight_masks(activations.activation(model, batches, GENERATOR), 0.5, "global")
    assert [mask.sum(1).tolist() for mask in masks.values()] == [[1, 1], [1, 1]]


@pytest.mark.parametrize("cut", [False, True])
def test_channels_of_a_residual_network_against_hooks(cut: Any) -> None:
    torch.manual_seed(0)
    model = models.build("resnet8", 3).eval()
    images = torch.randn(6, 3, 16, 16)
    graph, plan = dependency_graph(model, images), None
    if cut:
        plan = plan_without(graph, torch.arange(graph.size).numpy() % 4 == 0)
        model = apply_plan(model, plan)
    seen = []
    handles = [
        module.register_forward_hook(lambda m, i, o: seen.append(o.transpose(0, 1).flatten(1).clone()))
        for module in (model.relu, model.layer1[0].relu)
    ]
    model(images)
    for handle in handles:
        handle.remove()
    stem, inner, end = seen  # the block's one ReLU runs after its first convolution and after the sum
    batches = [(images[:4], images[:4]), (images[4:], images[4:])]
    apoz = activations.apoz_channels(graph, model, plan, batches, GENERATOR)
    mean = activations.activation_channels(graph, model, plan, batches, GENERATOR)
    for group, outputs in (("conv1", [stem, end]), ("layer1.0.conv1", [inner])):
        left = apoz[group] > -math.inf
        assert left.sum() == len(inner)
        share = sum(1 - (o == 0).double().mean(1) for o in outputs) / len(outputs)
        torch.testing.assert_close(apoz[group][left], share)
        expected = sum(o.double().mean(1) for o in outputs).detach() / len(outputs)
        torch.testing.assert_close(mean[group][left], expected, rtol=1e-5, atol=1e-6)


def test_activations_without_exact_zeros_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 3))
    batches = [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))]
    graph = dependency_graph(model, batches[0][0])
    with pytest.raises(ValueError, match="no activation .* group '0'"):
        activations.apoz_channels(graph, model, None, batches, GENERATOR)
    with pytest.raises(ValueError, match="no ReLU"):
        activations.apoz(model, batches, GENERATOR)
    expected = F.silu(model[0](batches[0][0])).abs().mean((0, 2, 3)).detach().double()
    score = activations.activation_channels(graph, model, None, batches, GENERATOR)["0"]
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-6)


def test_concatenations_flattened_maps_and_functions() -> None:
    """Mixed (functional activations, a layer called twice); a ReLU after a flatten, where a channel has 4 places."""
    model: nn.Module = Mixed().eval()
    batches = [(torch.randn(2, 3, 9, 9), torch.tensor([0, 1]))]
    graph = dependency_graph(model, batches[0][0])
    scores = activations.activation_channels(graph, model, None, batches, GENERATOR)
    side = scores[next(g.name for g in graph.groups if g.name.startswith("stem"))]
    assert side.isfinite().all()

    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.ReLU(), nn.Linear(12, 2))
    images = torch.randn(5, 1, 2, 2)
    graph = dependency_graph(model, images)
    score = activations.activation_channels(graph, model, None, [(images, images)], GENERATOR)["0"]
    expected = model[0](images).relu().mean((0, 2, 3)).detach().double()
    torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["activation", "apoz"])
def test_no_data_is_an_error(name: Any) -> None:
    with pytest.raises(ValueError, match="needs data"):
        getattr(activations, name)(nn.Linear(2, 2), [], GENERATOR)
