"""The group lasso: by hand, and against torch-pruning's regulariser."""

import pytest
import torch
import torch_pruning
from torch import nn

import models
from pruning.channels.graph import dependency_graph
from pruning.sparse_learning import group_lasso


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def with_zero_gradients(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def test_worked_by_hand() -> None:
    """Two units of norms 5 and 1: the stronger is shrunk once, the weaker 16 times as fast; the outputs not at all."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([3.0, 1.0]).view(2, 1, 1, 1))
        model[2].weight.copy_(torch.tensor([4.0, 0.0]).view(1, 2, 1, 1))
    graph = dependency_graph(model, torch.zeros(1, 1, 2, 2))
    with_zero_gradients(model)
    model[2].weight.grad.fill_(7.0)
    group_lasso(graph, model, 0.1)()
    found = gradients(model)
    assert found["0.weight"].flatten().tolist() == pytest.approx([0.3, 1.6])
    assert found["2.weight"].flatten().tolist() == pytest.approx([7.4, 7.0])
    assert not found["0.bias"].any()
    assert not found["2.bias"].any()


def test_of_equal_units_none_is_shrunk_faster_and_frozen_weights_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1))
    for layer in model:
        nn.init.ones_(layer.weight)
    graph = dependency_graph(model, torch.zeros(1, 1, 2, 2))
    with_zero_gradients(model)
    model[1].weight.grad = None
    group_lasso(graph, model, 0.5)()
    assert model[0].weight.grad.flatten().tolist() == [0.5] * 3
    assert model[1].weight.grad is None


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn", "googlenet"])
def test_it_is_torch_prunings(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = models.build(name, 10, (3, 32, 32)), torch.randn(2, 3, 32, 32)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    graph = dependency_graph(model, inputs)
    with_zero_gradients(model)
    group_lasso(graph, model, 0.5)()
    found = gradients(model)
    with_zero_gradients(model)
    norm = torch_pruning.importance.GroupMagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
    outputs = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.GroupNormPruner(model, inputs, norm, reg=0.5, ignored_layers=outputs)
    pruner.regularize(model)
    expected = gradients(model)
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-3, atol=1e-4)
    assert sum(bool(gradient.any()) for gradient in found.values()) > 16
