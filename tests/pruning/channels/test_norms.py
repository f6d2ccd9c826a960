"""Layer and group norms, where masking differs from cutting; gates and scales; torchvision's networks that have them.

Cut networks are compared with smaller networks built with hand-picked weights, and trained, saved and loaded after a
cut.
"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt, LayerNorm2d
from torchvision.ops import Permute, SqueezeExcitation

from models import build, load, save
from pruning.channels.graph import costs, dependency_graph, plan_without
from pruning.channels.plans import compose, remainder
from pruning.channels.surgery import apply_plan, carry_state
from pruning.criteria.registry import CRITERIA
from pruning.measure.cost import macs
from tests.cutting import begin, score
from tests.networks import SIDES, Wrapped, example_plan, trained_like

IMAGES = torch.rand(2, 3, 8, 8, dtype=torch.float64)


def without(model: Any, images: Any, gone: Any) -> Any:
    """The network without the units that `gone` lists by group name, and the graph and plan."""
    graph = dependency_graph(model, images)
    assert gone.keys() <= {group.name for group in graph.groups}
    removed = np.zeros(graph.size, dtype=bool)
    for group in graph.groups:
        removed[[group.start + unit for unit in gone.get(group.name, [])]] = True
    plan = plan_without(graph, removed)
    return apply_plan(model, plan), graph, plan


def check_same(small: Any, by_hand: Any, images: Any) -> None:
    with torch.no_grad():
        expected = by_hand.double().eval()(images)
        assert (small(images) - expected).abs().max() <= 1e-9 * expected.abs().max().clamp(min=1)
    assert small.state_dict().keys() == by_hand.state_dict().keys()


class GroupNormed(nn.Module):
    """Two concatenated convolutions, normalised in `groups`, and a convolution normalised as a whole."""

    def __init__(self, a: Any, b: Any, width: Any, groups: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 3), nn.Conv2d(3, b, 3)
        self.norm, self.conv = nn.GroupNorm(groups, a + b), nn.Conv2d(a + b, width, 1)
        self.whole, self.fc = nn.GroupNorm(1, width), nn.Linear(width, 2)

    def forward(self, x: Any) -> Any:
        x = F.silu(self.norm(torch.cat([self.a(x), self.b(x)], 1)))
        return self.fc(F.gelu(self.whole(self.conv(x))).mean((2, 3)))


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 3), max_size=3), st.sets(st.integers(0, 4), max_size=4), st.integers(0, 1000))
def test_a_group_norm_loses_as_many_of_each_group(units: Any, others: Any, seed: Any) -> None:
    """Channels 0 .. 7 of 12 are a's; with three groups of four, unit u is channels u, 4 + u and 8 + u."""
    torch.manual_seed(seed)
    model = trained_like(GroupNormed(8, 4, 5, 3), seed)
    small, graph, plan = without(model, IMAGES, {"a": units, "conv": others})
    assert [(g.name, g.size, g.width) for g in graph.groups] == [("a", 4, 2), ("conv", 5, 1)]
    one = [u for u in range(4) if u not in units]
    joined, width = [*one, *(4 + u for u in one), *(8 + u for u in one)], [u for u in range(5) if u not in others]
    hand = GroupNormed(2 * len(one), len(one), len(width), 3).double()
    with torch.no_grad():
        for key in ("weight", "bias"):
            getattr(hand.a, key).copy_(getattr(model.a, key)[[*one, *(4 + u for u in one)]])
            getattr(hand.b, key).copy_(getattr(model.b, key)[one])
            getattr(hand.norm, key).copy_(getattr(model.norm, key)[joined])
            getattr(hand.whole, key).copy_(getattr(model.whole, key)[width])
        hand.conv.weight.copy_(model.conv.weight[width][:, joined])
        hand.conv.bias.copy_(model.conv.bias[width])
        hand.fc.weight.copy_(model.fc.weight[:, width])
        hand.fc.bias.copy_(model.fc.bias)
    check_same(small, hand, IMAGES)
    assert costs(graph, plan)["macs"] == macs(small, (3, 8, 8))
    assert (small.norm.num_groups, small.norm.num_channels) == (3, len(joined))


def test_groups_of_one_channel_each_are_not_cut() -> None:
    assert [g.size for g in dependency_graph(Wrapped(nn.GroupNorm(8, 8)), IMAGES.float()).groups] == [1]


@pytest.mark.parametrize("removed", [[0, 1], [0], [4, 5, 6], [0, 1, 2, 3]])
def test_plans_that_take_from_one_norm_group_more_than_from_another_are_refused(removed: Any) -> None:
    """Without two of eight, two groups of three would remain, but not the groups that the gammas were trained for."""
    model = Wrapped(nn.GroupNorm(2, 8)).double()
    small, _, plan = without(model, IMAGES, {"conv": [1]})
    assert plan["layers"]["middle"] == {"norm_groups": 2, "out": {"of": 8, "removed": [1, 5]}}
    assert (small.middle.num_groups, small.middle.num_channels) == (2, 6)
    plan["layers"]["middle"]["out"]["removed"] = removed
    with pytest.raises(ValueError, match="layer 'middle': its 2 norm_groups don't lose equally many"):
        apply_plan(model, plan)
    plan["layers"]["middle"]["norm_groups"] = 3
    with pytest.raises(ValueError, match="layer 'middle': its 3 norm_groups"):
        apply_plan(model, plan)


class Block(nn.Module):
    """A ConvNeXt block of `dim` channels and a hidden layer, between a stem with its norm and a classifier."""

    def __init__(self, dim: Any, hidden: Any) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, dim, 2, 2), LayerNorm2d(dim, eps=1e-6)
        self.depthwise, self.norm = nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.back, self.scale = Permute([0, 3, 1, 2]), nn.Parameter(torch.ones(dim, 1, 1))
        self.maps, self.fc = nn.LayerNorm([dim, 4, 4]), nn.Linear(dim, 2)

    def forward(self, x: Any) -> Any:
        x = self.first(self.stem(x))
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + self.scale * self.back(self.down(F.gelu(self.up(y))))
        return self.fc(self.maps(x).mean((-2, -1)))


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 5), max_size=5), st.sets(st.integers(0, 8), max_size=8), st.integers(0, 1000))
def test_a_layer_norm_is_one_of_fewer(streams: Any, hiddens: Any, seed: Any) -> None:
    torch.manual_seed(seed)
    model = trained_like(Block(6, 9), seed)
    small, graph, plan = without(model, IMAGES, {"stem": streams, "up": hiddens})
    assert [(g.name, g.size) for g in graph.groups] == [("stem", 6), ("up", 9)]
    dim, hidden = ([u for u in range(n) if u not in gone] for n, gone in ((6, streams), (9, hiddens)))
    hand = Block(len(dim), len(hidden)).double()
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "up.weight":
            state[name] = tensor[hidden][:, dim]
        elif name == "up.bias":
            state[name] = tensor[hidden]
        elif name == "down.weight":
            state[name] = tensor[dim][:, hidden]
        elif name == "fc.weight":
            state[name] = tensor[:, dim]
        else:
            state[name] = tensor if name == "fc.bias" else tensor[dim]
    hand.load_state_dict(state)
    check_same(small, hand, IMAGES)
    assert costs(graph)["macs"] == macs(model, (3, 8, 8))
    assert costs(graph, plan)["macs"] == macs(small, (3, 8, 8))
    assert small.maps.normalized_shape == (len(dim), 4, 4)


class Upsampling(nn.Module):
    """Two transposed convolutions; the output of the first is added to that of a plain convolution."""

    def __init__(self, width: Any, inner: Any) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, inner, 1), nn.ConvTranspose2d(inner, width, 2, 2)
        self.side, self.last = nn.ConvTranspose2d(3, width, 2, 2), nn.ConvTranspose2d(width, 2, 3)

    def forward(self, x: Any) -> Any:
        return self.last(F.hardswish(self.up(F.relu(self.conv(x))) + self.side(x)))


@pytest.mark.parametrize("model", [GroupNormed(8, 4, 5, 3), Block(6, 9), Upsampling(4, 5)])
def test_cutting_in_turn_is_cutting_at_once(model: Any) -> None:
    graph = dependency_graph(model, IMAGES.float())
    first, whole = (plan_without(graph, np.arange(graph.size) % n == 0) for n in (4, 2))
    rest = remainder(json.loads(json.dumps(whole)), first)
    assert compose(first, rest) == whole
    turns, once = apply_plan(apply_plan(model, first), rest), apply_plan(model, whole)
    assert all(torch.equal(a, b) for a, b in zip(turns.parameters(), once.parameters(), strict=True))
    again = dependency_graph(turns, IMAGES.float())
    assert [g.size for g in again.groups] == [g.size - len(range(-g.start % 2, g.size, 2)) for g in graph.groups]
    with torch.no_grad():
        assert torch.equal(turns(IMAGES.float()), once(IMAGES.float()))


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "bn_scale"])
def test_criteria_see_channels_that_are_behind(name: Any) -> None:
    """1x1 convolutions, and linear layers between permutes: the same network in two layouts."""
    torch.manual_seed(0)
    first, ends = [nn.Conv2d(3, 6, 3), nn.ReLU()], [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)]
    convs = nn.Sequential(*first, nn.Conv2d(6, 9, 1), nn.ReLU(), nn.Conv2d(9, 5, 1), nn.ReLU(), *ends)
    middle = [Permute([0, 2, 3, 1]), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), Permute([0, 3, 1, 2])]
    linears = copy.deepcopy(nn.Sequential(*first, *middle, *ends))
    for a, b in zip(linears.parameters(), convs.parameters(), strict=True):
        a.data = b.data.reshape(a.shape)
    batches = [(IMAGES, torch.tensor([0, 3]))]
    scores = [score(begin(m.double(), IMAGES, "channel"), CRITERIA[name], batches).values() for m in (convs, linears)]
    assert [len(one) for one in scores[0]] == [6, 9, 5]
    for one, other in zip(*scores, strict=True):
        torch.testing.assert_close(one, other)


def test_fpgm_of_a_transposed_convolution_is_that_of_its_filters() -> None:
    """Channel u of the first group is produced by column u of its weight."""
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Conv2d(4, 1, 1))
    graph = dependency_graph(model, IMAGES.float())
    fpgm: Any = CRITERIA["fpgm"]
    found = fpgm.channel(graph, model, None, [], torch.Generator())["0"]
    filters = [model[0].weight.detach()[:, u].flatten() for u in range(4)]
    by_hand = [sum(float((a - b).norm()) for b in filters) / 4 for a in filters]
    assert found.tolist() == pytest.approx(by_hand, rel=1e-4)


def test_half_of_convnext_is_torchvisions_of_half_the_width() -> None:
    """Every other channel of every layer: torchvision's own network of 48, 96, 192 and 384 channels."""
    torch.manual_seed(0)
    model = trained_like(build("convnext_tiny", 10))
    graph = dependency_graph(model, torch.zeros(1, 3, 32, 32, dtype=torch.float64))
    small = apply_plan(model, plan_without(graph, np.arange(graph.size) % 2 == 0))
    widths = [48, 96, 192, 384]
    blocks = [CNBlockConfig(*row) for row in zip(widths, [*widths[1:], None], (3, 3, 9, 3), strict=True)]
    half = ConvNeXt(blocks, num_classes=10)
    half.features[0][0] = nn.Conv2d(3, 48, 2, 2)
    state = {}
    for name, tensor in model.state_dict().items():
        made = tensor if name.startswith("classifier.2.") else tensor[1::2]
        reads = tensor.ndim > 1 and tensor.shape[1] > 3  # neither the stem, nor depthwise, nor a scale
        state[name] = made[:, 1::2] if reads else made
    half.double().load_state_dict(state)
    check_same(small, half, torch.rand(1, 3, 32, 32, dtype=torch.float64))


def test_transposed_convolutions_by_hand() -> None:
    model = trained_like(Upsampling(4, 5))
    small, graph, plan = without(model, IMAGES, {"conv": [0, 3], "up": [2]})
    hand = Upsampling(3, 3).double()
    with torch.no_grad():
        hand.conv.weight.copy_(model.conv.weight[[1, 2, 4]])
        hand.conv.bias.copy_(model.conv.bias[[1, 2, 4]])
        hand.up.weight.copy_(model.up.weight[[1, 2, 4]][:, [0, 1, 3]])
        hand.up.bias.copy_(model.up.bias[[0, 1, 3]])
        hand.side.weight.copy_(model.side.weight[:, [0, 1, 3]])
        hand.side.bias.copy_(model.side.bias[[0, 1, 3]])
        hand.last.weight.copy_(model.last.weight[[0, 1, 3]])
        hand.last.bias.copy_(model.last.bias)
    check_same(small, hand, IMAGES)
    assert costs(graph, plan)["macs"] == macs(small, (3, 8, 8))


@pytest.mark.parametrize("gate", [nn.Sigmoid, nn.Hardsigmoid])
def test_a_gates_own_channels_are_a_group_and_what_it_gates_another(gate: Any) -> None:
    model = Wrapped(SqueezeExcitation(8, 3, nn.SiLU, gate))
    graph = dependency_graph(model, IMAGES.float())
    assert [(g.name, g.size) for g in graph.groups] == [("conv", 8), ("middle.fc1", 3)]
    found = [[(m.layer, m.side) for m in graph.members(group)] for group in graph.groups]
    assert found[0] == [("conv", "out"), ("middle.fc1", "in"), ("middle.fc2", "out"), ("fc", "in")]
    assert found[1] == [("middle.fc1", "out"), ("middle.fc2", "in")]


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"])
def test_torchvisions_networks_cut_are_trained_saved_and_loaded(name: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    side = max(SIDES.get(name[:3], 0), 16)
    model = build(name, 10, (3, side, side))
    _, plan = example_plan(model, 0.8)
    small = apply_plan(model, plan).train()
    dense, optimizer = (torch.optim.AdamW(net.parameters(), lr=1e-3) for net in (model, small))
    images, labels = torch.rand(4, 3, side, side), torch.arange(4)
    F.cross_entropy(model(images), labels).backward()
    dense.step()
    carry_state(dense, model, optimizer, small, plan)
    before = copy.deepcopy(small.state_dict())
    F.cross_entropy(small(images), labels).backward()
    assert all(parameter.grad.isfinite().all() for parameter in small.parameters())
    optimizer.step()
    assert not any(torch.equal(before[key], tensor) for key, tensor in small.named_parameters())
    card = {"model": name, "num_classes": 10, "in_shape": (3, side, side), "class_names": list("abcdefghij")}
    save(tmp_path, small, {**card, "mean": [0.5] * 3, "std": [0.2] * 3}, plan)
    loaded, _ = load(tmp_path)
    assert sum(p.numel() for p in loaded.parameters()) < 0.3 * sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(loaded(images), small.eval()(images))
