"""Dependency groups against torch-pruning's and by hand, scores, costs, and what is refused."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
import torchvision.models as tv
from torch import nn
from torch_pruning.pruner.importance import MagnitudeImportance

from models import build
from pruning.channels.graph import costs, dependency_graph, group_scores, plan_without, removed_units
from pruning.criteria.magnitude import magnitude_l1, magnitude_l2
from pruning.measure.cost import macs
from pruning.weights.masks import prunable
from tests.networks import NETWORKS, LeNet, Mixed, Three

IMAGE = torch.zeros(1, 3, 32, 32)


def filters(group: Any, graph: Any) -> Any:
    """The convolutions and linear layers whose filters form a group."""
    weighted = {path for path, layer in graph.layers.items() if layer.per_pair}
    return frozenset(m.layer for m in graph.members(group) if m.side == "out" and m.layer in weighted)


def torch_prunings_groups(model: Any, example: Any) -> Iterator[Any]:
    """torch-pruning's groups of all layers but the classifier, each as the layers whose filters it prunes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)
    *_, classifier = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    names = {layer: path for path, layer in model.named_modules()}
    filters = (torch_pruning.prune_conv_out_channels, torch_pruning.prune_linear_out_channels)
    depthwise = torch_pruning.prune_depthwise_conv_out_channels
    for group in graph.get_all_groups(ignored_layers=[classifier]):
        found = {names[item.dep.target.module] for item in group if item.dep.handler in (*filters, depthwise)}
        yield frozenset(found), group


@pytest.mark.parametrize(
    ("factory", "count"),
    [
        (lambda: build("resnet18", 10), 12),
        (lambda: tv.resnet18(), 12),
        (lambda: build("resnet50", 10), 37),
        (lambda: tv.resnet50(), 37),
        (lambda: build("vgg16_bn", 10), 13),
        (lambda: build("resnet56", 10), None),
        (lambda: tv.mobilenet_v2(), None),
        (lambda: build("googlenet", 10), 57),
        (lambda: build("mobilenet_v3_small", 10), None),
        (lambda: build("efficientnet_b0", 10), None),
        (lambda: build("convnext_tiny", 10), 4 + 18),
        (NETWORKS["vgg11 with 7x7 maps"][0], None),
        (LeNet, None),
    ],
    ids=[
        "resnet18",
        "tv-resnet18",
        "resnet50",
        "tv-resnet50",
        "vgg16_bn",
        "resnet56",
        "mobilenet_v2",
        "googlenet",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "convnext_tiny",
        "vgg11",
        "LeNet",
    ],
)
def test_groups_are_torch_prunings(factory: Any, count: Any) -> None:
    model = factory()
    graph = dependency_graph(model, IMAGE)
    ours = {filters(group, graph) for group in graph.groups}
    assert ours == {found for found, _ in torch_prunings_groups(model, IMAGE)}
    assert len(ours) == len(graph.groups) == (count or len(ours))


def test_densenet_has_a_group_per_convolution() -> None:
    graph = dependency_graph(tv.densenet121(), IMAGE)
    assert len(graph.groups) == 120
    first = graph.groups[0]
    readers = {m.layer for m in graph.members(first) if m.side == "in"}
    # Its first block's six layers and the transition after it read what the stem makes.
    block = {f"features.denseblock1.denselayer{i}.conv1" for i in range(1, 7)}
    assert readers == block | {"features.transition1.conv"}


def test_groups_by_hand() -> None:
    graph = dependency_graph(Three(), torch.zeros(1, 1, 4, 4))
    assert [(g.name, g.start, g.size, g.width) for g in graph.groups] == [("conv1", 0, 4, 1), ("conv2", 4, 3, 1)]
    made, normed, read = graph.members(graph.groups[0])
    assert [(m.layer, m.side) for m in (made, normed, read)] == [("conv1", "out"), ("bn1", "out"), ("conv2", "in")]
    assert made.index.tolist() == read.unit.tolist() == [0, 1, 2, 3]
    _, flat = graph.members(graph.groups[1])
    assert (flat.layer, flat.side) == ("fc", "in")
    assert flat.unit.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert costs(graph) == {"params": 36 + 12 + 24, "channels": 7, "macs": 36 * 16 + 12 * 16 + 24}


def test_scores_by_hand() -> None:
    graph = dependency_graph(Three(), torch.zeros(1, 1, 4, 4))
    scores = {
        "conv1.weight": torch.arange(36.0).reshape(4, 1, 3, 3),
        "bn1.weight": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "conv2.weight": torch.arange(12.0).reshape(3, 4, 1, 1),
        "fc.weight": torch.ones(2, 12),
    }
    filters = group_scores(graph, scores)
    assert filters["conv1"].tolist() == [36 + 1, 117 + 2, 198 + 3, 279 + 4]
    assert filters["conv2"].tolist() == [6, 22, 38]
    mean = group_scores(graph, scores, reduce="mean", sides=("out", "in"))
    assert mean["conv1"].tolist() == [(36 + 1 + 12) / 13, (117 + 2 + 15) / 13, (198 + 3 + 18) / 13, (279 + 4 + 21) / 13]
    assert mean["conv2"].tolist() == [(6 + 8) / 12, (22 + 8) / 12, (38 + 8) / 12]
    # After a cut the scores are of the smaller network; a criterion may also score whole filters.
    plan = plan_without(graph, np.array([False, True, False, False, False, False, False]))
    cut = {"conv1.weight": torch.tensor([5.0, 6.0, 7.0]), "conv2.weight": torch.ones(3, 3, 1, 1, dtype=torch.bfloat16)}
    again = group_scores(graph, cut, plan=plan)
    assert again["conv1"].tolist() == [5, float("-inf"), 6, 7]
    assert again["conv2"].tolist() == [3, 3, 3]


def test_scores_of_grouped_convolutions() -> None:
    """A group of filters is scored by all its filters; they read only their own group's channels."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 1, 1))
    ones = {name: torch.ones_like(weight) for name, weight in prunable(model).items()}
    graph = dependency_graph(model, torch.zeros(1, 3, 2, 2))
    assert group_scores(graph, ones)["0"].tolist() == [2 * 3 + 3 * 2] * 2
    assert group_scores(graph, ones, sides=("out", "in"))["0"].tolist() == [2 * 3 + 3 * 2 + 3] * 2
    assert group_scores(graph, ones, reduce="mean")["0"].tolist() == [1, 1]


def test_scores_of_transposed_convolutions() -> None:
    """Their weights are (in, out, ...); in grouped ones each row is a filter of its group."""
    one, two, three = nn.ConvTranspose2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 1, groups=2), nn.ConvTranspose2d(6, 1, 1)
    model = nn.Sequential(one, two, three)
    scores = {"0.weight": torch.arange(12.0).reshape(3, 4, 1, 1), "1.weight": torch.ones(4, 3, 1, 1)}
    scores["2.weight"] = torch.arange(6.0).reshape(6, 1, 1, 1)
    graph = dependency_graph(model, torch.zeros(1, 3, 2, 2))
    first, second = (0 + 4 + 8) + (1 + 5 + 9), (2 + 6 + 10) + (3 + 7 + 11)
    assert group_scores(graph, scores)["0"].tolist() == [first + 6, second + 6]
    assert group_scores(graph, scores, sides=("out", "in"))["0"].tolist() == [first + 6 + 3, second + 6 + 12]
    assert group_scores(graph, scores, sides=("in",))["0"].tolist() == [3, 12]
    assert group_scores(graph, {"0.weight": torch.arange(4.0), "1.weight": torch.ones(6)})["0"].tolist() == [4, 8]


@pytest.mark.parametrize(("criterion", "p"), [(magnitude_l1, 1), (magnitude_l2, 2)])
@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn"])
def test_scores_are_torch_prunings(name: Any, criterion: Any, p: Any) -> None:
    model = build(name, 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(p))
    weights = criterion(model, [], torch.Generator())
    gammas = {f"{path}.weight": m.weight.detach().abs() ** p for path, m in model.named_modules() if hasattr(m, "eps")}
    graph = dependency_graph(model, IMAGE)
    both = group_scores(graph, weights | gammas, sides=("out", "in"))
    importance = MagnitudeImportance(p=p, group_reduction="sum", normalizer=None)
    theirs = {found: importance(group) for found, group in torch_prunings_groups(model, IMAGE)}
    for group in graph.groups:
        torch.testing.assert_close(both[group.name].float(), theirs[filters(group, graph)], rtol=1e-4, atol=1e-5)


def test_scores_that_do_not_fit_are_refused() -> None:
    graph = dependency_graph(Three(), torch.zeros(1, 1, 4, 4))
    fine = {"conv1.weight": torch.ones(4), "conv2.weight": torch.ones(3)}
    with pytest.raises(ValueError, match=r"conv2\.weight' are \(4,\), its out channels 3"):
        group_scores(graph, fine | {"conv2.weight": torch.ones(4)})
    with pytest.raises(ValueError, match="no scores for the channels of group 'conv2'"):
        group_scores(graph, {"conv1.weight": torch.ones(4)})
    with pytest.raises(ValueError, match="reduce is sum or mean"):
        group_scores(graph, fine, reduce="max")
    with pytest.raises(ValueError, match="sides"):
        group_scores(graph, fine, sides=("inside",))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("resnet34", "vgg19_bn")])
def test_costs_of_the_dense_network(name: Any) -> None:
    factory, side = NETWORKS[name]
    model = factory()
    graph = dependency_graph(model, torch.zeros(3, 3, side, side))
    dense = costs(graph)
    assert dense["params"] == sum(weight.numel() for weight in prunable(model).values())
    assert dense["macs"] == macs(model, (3, side, side))
    assert dense["channels"] == graph.size > 0


def test_a_layer_used_twice_is_cut_once() -> None:
    graph = dependency_graph(Mixed(), torch.zeros(1, 3, 9, 9))
    stream = next(g for g in graph.groups if g.name == "down")
    # `twice` reads and makes the stream that it is added to; `grouped` takes it two channels at a time; `excite` gates.
    assert filters(stream, graph) == {"down", "twice", "grouped", "excite"}
    assert (stream.size, stream.width) == (4, 2)
    assert graph.layers["twice"].positions == 2 * 81


class Joined(nn.Module):
    """Two concatenated convolutions, 2 + 4 channels, followed by `join`."""

    def __init__(self, join: Any) -> None:
        super().__init__()
        self.a, self.b, self.join = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1), join
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        joined = torch.cat([self.a(x), self.b(x)], 1)
        return self.fc((joined + self.join(joined)).mean((2, 3)))


def test_a_group_is_what_the_same_layers_make() -> None:
    """So that keeping one unit of each group leaves no layer empty."""
    image = torch.zeros(1, 3, 2, 2)
    graph = dependency_graph(Joined(nn.Conv2d(6, 6, 1)), image)
    assert [(g.name, g.size) for g in graph.groups] == [("a", 2), ("b", 4)]
    assert [filters(g, graph) for g in graph.groups] == [{"a", "join"}, {"b", "join"}]
    # Convolution groups of three channels: the first is both of a's and one of b's, the other is b's alone.
    graph = dependency_graph(Joined(nn.Conv2d(6, 6, 1, groups=2)), image)
    assert [(g.name, g.size, g.width) for g in graph.groups] == [("a", 1, 2), ("b", 1, 3)]


def test_one_layers_channels_in_several_groups_have_several_names() -> None:
    class Parted(Joined):
        def forward(self, x: Any) -> Any:
            return self.fc((self.join(x) + torch.cat([self.a(x), self.b(x)], 1)).mean((2, 3)))

    graph = dependency_graph(Parted(nn.Conv2d(3, 6, 1)), torch.zeros(1, 3, 2, 2))
    assert [(g.name, g.start, g.size) for g in graph.groups] == [("join", 0, 2), ("join (unit 2)", 2, 4)]
    assert [filters(g, graph) for g in graph.groups] == [{"join", "a"}, {"join", "b"}]


def test_outputs_are_never_cut() -> None:
    graph = dependency_graph(Mixed(), torch.zeros(1, 3, 9, 9))
    # `map` leaves the network through a permute, which no rule knows: behind the last layer all is output.
    assert all((graph.axes[path, "out"] == -1).all() for path in ("head", "second_head"))
    assert (graph.axes["stem.0", "in"] == -1).all()


def test_a_protected_module_keeps_its_shape() -> None:
    free = dependency_graph(Three(), torch.zeros(1, 1, 4, 4))
    graph = dependency_graph(Three(), torch.zeros(1, 1, 4, 4), protect=["conv2"])
    assert graph.groups == ()  # it reads one group and makes the other
    graph = dependency_graph(Three(), torch.zeros(1, 1, 4, 4), protect="fc")
    assert [g.name for g in graph.groups] == ["conv1"]
    assert costs(graph) == costs(free) | {"channels": 4}
    graph = dependency_graph(build("resnet8", 10), IMAGE, protect=["layer2"])
    assert [g.name for g in graph.groups] == ["layer1.0.conv1", "layer3.0.conv1", "layer3.0.conv2"]
    with pytest.raises(ValueError, match="protect: there is no module 'layer9'; choices: conv1, bn1"):
        dependency_graph(build("resnet8", 10), IMAGE, protect=["layer9"])


def test_layers_that_are_never_called_are_left_alone() -> None:
    model = Three()
    model.unused = nn.Linear(5, 7)
    graph = dependency_graph(model, torch.zeros(1, 1, 4, 4))
    assert (graph.axes["unused", "out"] == -1).all()
    assert costs(graph)["params"] == 72 + 35
    assert costs(graph)["macs"] == macs(Three(), (1, 4, 4))


def test_plans_of_other_networks_are_refused() -> None:
    graph = dependency_graph(build("resnet8", 10), IMAGE)
    plan = plan_without(graph, np.arange(graph.size) % 3 == 0)
    assert removed_units(graph, plan).tolist() == [i % 3 == 0 for i in range(graph.size)]
    with pytest.raises(ValueError, match="another network"):
        removed_units(dependency_graph(build("resnet20", 10), IMAGE), plan)
    plan["layers"]["bn1"]["out"]["removed"].pop()
    with pytest.raises(ValueError, match="can't be cut one without the other"):
        removed_units(graph, plan)
