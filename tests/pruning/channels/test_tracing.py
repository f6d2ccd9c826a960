"""The model is left unchanged; opaque modules may be protected; what can't be traced is refused."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from models import build
from pruning.channels.graph import costs, dependency_graph
from pruning.measure.cost import macs
from pruning.weights.masks import prunable
from tests.networks import Wrapped

IMAGE = torch.zeros(1, 3, 32, 32)


def test_the_model_is_left_as_it_is() -> None:
    model = build("resnet8", 10).train()
    model.bn1.eval()
    before = copy.deepcopy(model)
    calls = []
    model.conv1.register_forward_hook(lambda *_: calls.append(1))
    dependency_graph(model, IMAGE)
    assert not calls
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert vars(model).keys() == vars(before).keys()


def weight_normed() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Conv2d(8, 8, 3))


def test_weights_that_hooks_compute_are_refused() -> None:
    with pytest.raises(ValueError, match="module 'middle' computes its weight by a hook"):
        dependency_graph(Wrapped(weight_normed()), torch.zeros(1, 3, 8, 8))


def test_what_is_protected_may_be_anything() -> None:
    """A protected module is never cut, so it needs no rule; its MACs still count."""
    middle = nn.Sequential(nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 8, 3), nn.Conv2d(8, 8, 1))
    model = Wrapped(nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Conv2d(5, 8, 1), middle))
    graph = dependency_graph(model, torch.zeros(1, 3, 8, 8), protect=["middle.3"])
    assert [g.name for g in graph.groups] == ["conv", "middle.0"]
    assert costs(graph)["macs"] == macs(model, (3, 8, 8))
    assert costs(graph)["params"] == sum(weight.numel() for weight in prunable(model).values())


def test_tied_weights_are_refused_but_may_be_protected() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    model[3].weight = model[1].weight
    with pytest.raises(ValueError, match=r"module '1' \(Conv2d\)"):
        dependency_graph(model, torch.zeros(1, 3, 4, 4))
    graph = dependency_graph(model, torch.zeros(1, 3, 4, 4), protect=["1", "3"])
    assert graph.groups == ()
    assert costs(graph) == {"params": 12 + 16 + 8, "channels": 0, "macs": 16 * (12 + 16 + 16 + 8)}


def test_a_number_of_all_channels_is_refused() -> None:
    """`max()` compares channels with each other; without axes it gives no tensor of channels at all."""

    class Normed(nn.Module):
        def forward(self, x: Any) -> Any:
            return x / x.max()

    with pytest.raises(ValueError, match="operation 'max' in module 'middle' is not known to act on each channel"):
        dependency_graph(Wrapped(Normed()), torch.zeros(1, 3, 8, 8))


def test_a_branch_of_training_alone_is_refused() -> None:
    """Its layers are not in the traced graph, so they would keep the channels of the network before the cut."""

    class Helped(nn.Module):
        def __init__(self, helper: bool) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
            self.helper = nn.Conv2d(8, 4, 1) if helper else None

        def forward(self, x: Any) -> Any:
            x = self.conv(x)
            return (self.head(x), self.helper(x)) if self.training and self.helper is not None else self.head(x)

    with pytest.raises(ValueError, match="module 'helper' is used in training only"):
        dependency_graph(Helped(True), IMAGE)
    assert [group.name for group in dependency_graph(Helped(False), IMAGE).groups] == ["conv"]
