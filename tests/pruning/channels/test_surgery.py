"""Cut networks against masked ones, torch-pruning's, and a plan by hand; plans composed, saved and refused."""

import copy
import json
import warnings
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from hypothesis import given, settings
from torch import nn
from torchvision.ops import Permute

from models import build
from pruning.allocation.channel_budget import allocate
from pruning.channels.graph import costs, dependency_graph, group_scores, plan_without
from pruning.channels.plans import compose, kept, remainder
from pruning.channels.surgery import apply_plan, carry_state, mask_units, slice_like
from pruning.criteria.magnitude import magnitude_l1, magnitude_l2, random
from pruning.measure.cost import macs
from pruning.weights.masks import prunable
from tests.networks import NETWORKS, Function, Three, example_plan, trained_like

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("googlenet", "efficientnet_b0", "convnext_tiny")]
IMAGE = torch.zeros(1, 3, 32, 32)


def outputs(model: Any, images: Any) -> Any:
    with torch.no_grad():
        out = model(images)
    return torch.cat([part.flatten() for part in (out.values() if isinstance(out, dict) else [out])])


def check_cut(model: Any, graph: Any, plan: Any, images: Any) -> Any:
    """Checks that the cut network computes what the masked one does, with the predicted size and cost; returns it."""
    small = apply_plan(model, plan)
    expected = outputs(small, images)
    masked = copy.deepcopy(model)
    for sides in (("out",), ("out", "in")):
        mask_units(masked, plan, sides)
        assert (outputs(masked, images) - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
    left = costs(graph, plan)
    assert left["params"] == sum(weight.numel() for weight in prunable(small).values())
    assert left["params"] == sum(int(weight.count_nonzero()) for weight in prunable(masked).values())
    assert left["macs"] == macs(small, images.shape[1:])
    return small


DEEPER = ("resnet34", "resnet50", "vgg16_bn", "vgg19_bn")  # of the same blocks as others, which do every night
CUT = [
    pytest.param(name, marks=[pytest.mark.slow] if name in DEEPER else [])
    for name in NETWORKS
    if name != "convnext_tiny"  # see test_norms.py
]


@pytest.mark.parametrize("name", CUT)
def test_cut_is_masked(name: Any, device: torch.device) -> None:
    factory, side = NETWORKS[name]
    torch.manual_seed(0)
    model = trained_like(factory()).to(device)
    graph = dependency_graph(model, torch.zeros(1, 3, side, side, dtype=torch.float64))
    scores = group_scores(graph, random(model, [], torch.Generator().manual_seed(0)))
    plan = allocate(graph, scores, 0.4, scope="layer")
    images = torch.rand(2, 3, side, side, dtype=torch.float64).to(device)
    assert costs(graph, plan)["params"] < 0.7 * costs(graph)["params"]
    small = check_cut(model, graph, plan, images)
    assert {tensor.device.type for tensor in small.state_dict().values()} == {device.type}
    assert (outputs(small, images) - outputs(model, images)).abs().max() > 1e-3  # and cutting did something


class Scale(nn.Module):
    """Multiplies each channel by its own factor, like ConvNeXt's layer_scale."""

    def __init__(self, channels: Any) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Any) -> Any:
        return self.factor * x


def shuffled(x: Any) -> Any:
    """The first channels of each half, then the second ones, and so on."""
    n, channels, height, width = x.shape
    return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, -1, height, width)


class Drawn(nn.Module):
    """A randomly drawn network: each step takes one or two of the tensors so far and appends a new one."""

    def __init__(self, steps: Any) -> None:
        super().__init__()
        self.layers, self.steps, widths = nn.ModuleList(), [], [3]
        for kind, first, second, width in steps:
            a, b = first % len(widths), second % len(widths)
            layer, made = self.draw(kind, widths[a], widths[b], width)
            if made:
                self.steps.append((kind, a, b, len(self.layers)))
                self.layers.append(layer)
                widths.append(made)
        self.layers.append(nn.Linear(widths[-1] + widths[len(widths) // 2], 2))
        self.middle = len(widths) // 2

    @staticmethod
    def draw(kind: Any, a: Any, b: Any, width: Any) -> Any:
        """The step's layer, and its channels; 0 if it does not fit the tensors it was drawn for."""
        if kind == "conv":
            return nn.Sequential(nn.Conv2d(a, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()), width
        if kind == "depthwise":
            return nn.Conv2d(a, a * (width % 2 + 1), 3, padding=1, groups=a), a * (width % 2 + 1)
        if kind == "grouped" and a % 2 == 0:
            return nn.Conv2d(a, 2 * width, 1, groups=2), 2 * width
        if kind == "twice":
            return nn.Conv2d(a, a, 1), a
        if kind == "transposed":
            return nn.ConvTranspose2d(a, width, 3, padding=1), width
        if kind == "scale":
            return Scale(a), a
        if kind == "behind":
            layers = nn.Linear(a, width), nn.GELU(), nn.Linear(width, a)
            return nn.Sequential(Permute([0, 2, 3, 1]), *layers, Permute([0, 3, 1, 2])), a
        if kind == "pad":
            amounts = (0, 0, 0, 0, width // 2, 1)
            return Function(lambda x: F.pad(x, amounts)), a + width // 2 + 1
        if kind == "slice" and a > 2:
            return Function(lambda x: torch.cat([x[:, a // 2 :], x[:, 1 : a // 2]], 1)), a - 1
        if kind == "shuffle" and a % 2 == 0:
            return Function(shuffled), a
        fits = {"add": a == b, "gate": a == b, "cat": True, "chunk": a % 2 == 0}
        return nn.Identity(), fits.get(kind, False) * {"cat": a + b, "chunk": a // 2}.get(kind, a)

    def forward(self, x: Any) -> Any:
        found = [x]
        for kind, a, b, i in self.steps:
            layer, left, right = self.layers[i], found[a], found[b]
            if kind == "cat":
                found.append(torch.cat([left, right], dim=1))
            elif kind == "add":
                found.append(F.relu(left + right))
            elif kind == "gate":
                found.append(left * F.relu(F.adaptive_avg_pool2d(right, 1)))
            elif kind == "chunk":
                found.append(left.chunk(2, dim=1)[1])
            else:
                found.append(layer(layer(left)) if kind == "twice" else layer(left))
        return self.layers[-1](torch.cat([found[-1].mean((2, 3)), found[self.middle].mean((2, 3))], 1))


KINDS = ["conv", "conv", "transposed", "depthwise", "grouped", "twice", "scale", "behind"]
KINDS += ["add", "gate", "cat", "chunk", "pad", "slice", "shuffle"]
STEP = st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9), st.integers(2, 6))


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, min_size=3, max_size=9), st.integers(0, 2**31), st.floats(0, 1))
def test_cut_is_masked_in_any_network(steps: Any, seed: Any, share: Any) -> None:
    torch.manual_seed(seed)
    model = trained_like(Drawn([("conv", 0, 0, 4), *steps]), seed)
    images = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    graph = dependency_graph(model, images)
    generator = np.random.default_rng(seed)
    removed = generator.random(graph.size) < share
    for group in graph.groups:  # one unit of each group stays
        removed[group.start + generator.integers(group.size)] = False
    plan = plan_without(graph, removed)
    small = check_cut(model, graph, plan, images)
    # Cutting what has been cut, found anew in the smaller network, is cutting both at once.
    again = dependency_graph(small, images)
    if again.size == (~removed).sum():
        second = plan_without(
            again, np.array([g.size > 1 and unit == 0 for g in again.groups for unit in range(g.size)])
        )
        smallest = check_cut(small, again, second, images)
        assert state_equal(smallest, apply_plan(model, compose(plan, second)))


def state_equal(one: Any, two: Any) -> Any:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_plan_by_hand() -> None:
    model = trained_like(Three())
    graph = dependency_graph(model, torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    scores = {"conv1": torch.tensor([3.0, 0.5, 2.0, 1.0]), "conv2": torch.tensor([0.7, 5.0, 4.0])}
    # Of 72 weights, conv1's unit 1 takes 9 + 3; conv2's unit 0 then 3 + 8; conv1's unit 3 then 9 + 2: 34 of 72.
    plan = allocate(graph, scores, 34 / 72)
    assert plan == {
        "version": 1,
        "layers": {
            "conv1": {"out": {"of": 4, "removed": [1, 3]}, "in": {"of": 1, "removed": []}},
            "bn1": {"out": {"of": 4, "removed": [1, 3]}},
            "conv2": {"out": {"of": 3, "removed": [0]}, "in": {"of": 4, "removed": [1, 3]}},
            "fc": {"out": {"of": 2, "removed": []}, "in": {"of": 12, "removed": [0, 1, 2, 3]}},
        },
    }
    small = apply_plan(model, plan)
    assert torch.equal(small.conv1.weight, model.conv1.weight[[0, 2]])
    assert torch.equal(small.conv1.bias, model.conv1.bias[[0, 2]])
    assert torch.equal(small.bn1.running_var, model.bn1.running_var[[0, 2]])
    assert torch.equal(small.conv2.weight, model.conv2.weight[[1, 2]][:, [0, 2]])
    assert torch.equal(small.fc.weight, model.fc.weight[:, 4:])
    assert torch.equal(small.fc.bias, model.fc.bias)
    assert (small.conv1.out_channels, small.bn1.num_features, small.conv2.in_channels) == (2, 2, 2)
    assert (small.conv2.out_channels, small.fc.in_features, small.fc.out_features) == (2, 8, 2)
    assert costs(graph, plan) == {"params": 38, "channels": 4, "macs": 18 * 16 + 4 * 16 + 16}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", SLOW[0]])
def test_half_of_each_layer_is_torch_prunings(name: Any) -> None:
    """The same channels, parameters and MACs, and all weights equal."""
    torch.manual_seed(0)
    model = build(name, 10).eval()
    gammas = {f"{path}.weight": m.weight.detach() ** 2 for path, m in model.named_modules() if hasattr(m, "eps")}
    graph = dependency_graph(model, IMAGE)
    scores = group_scores(graph, magnitude_l2(model, [], torch.Generator()) | gammas, sides=("out", "in"))
    small = apply_plan(model, allocate(graph, scores, 0.5, scope="layer", sparsity_of="channels"))
    halve_by_torch_pruning(model)
    assert macs(small, (3, 32, 32)) == macs(model, (3, 32, 32))
    assert state_equal(small, model)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", *SLOW])
def test_half_of_each_layer_costs_what_torch_prunings_does(name: Any) -> None:
    """Its importance differs (it counts depthwise filters twice, and layer_scale), but as many channels remain."""
    model = build(name, 10).eval()
    graph = dependency_graph(model, IMAGE)
    scores = group_scores(graph, magnitude_l2(model, [], torch.Generator()))
    small = apply_plan(model, allocate(graph, scores, 0.5, scope="layer", sparsity_of="channels"))
    halve_by_torch_pruning(model)
    assert macs(small, (3, 32, 32)) == macs(model, (3, 32, 32))
    shapes = [{key: tensor.shape for key, tensor in net.state_dict().items()} for net in (small, model)]
    assert shapes[0] == shapes[1]


def halve_by_torch_pruning(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importance = torch_pruning.importance.MagnitudeImportance(p=2, group_reduction="sum", normalizer=None)
        *_, classifier = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
        torch_pruning.pruner.MagnitudePruner(
            model, IMAGE, importance=importance, pruning_ratio=0.5, ignored_layers=[classifier]
        ).step()


def test_a_plan_is_replayed_bit_for_bit_from_json() -> None:
    model = build("resnet8", 10)
    _, plan = example_plan(model)
    before = copy.deepcopy(model)
    again = json.loads(json.dumps(plan))
    assert again == plan
    assert state_equal(apply_plan(model, plan), apply_plan(model, again))
    assert state_equal(model, before)


def test_what_a_cut_network_keeps() -> None:
    model = build("resnet8", 10).to(memory_format=torch.channels_last).half()
    model.layer1.eval()
    model.layer2[0].conv1.weight.requires_grad_(False)
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    _, plan = example_plan(model.float())
    small = apply_plan(model.half(), plan)
    assert {tensor.dtype for tensor in small.parameters()} == {torch.float16}
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    assert small.conv1.weight.requires_grad
    assert not small.layer2[0].conv1.weight.requires_grad
    assert small.conv1.weight.grad is None
    assert small.layer2[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.layer2[0].conv2.weight.is_contiguous()
    small.float().train()(IMAGE.repeat(2, 1, 1, 1)).sum().backward()


def test_cutting_in_turn_is_cutting_at_once() -> None:
    """Iterative cutting: scores are of the present network, plan and target of the dense one."""
    torch.manual_seed(0)
    model = build("resnet20", 10)
    graph, plan = example_plan(model, 0.2)
    now = apply_plan(model, plan)
    for target in (0.4, 0.6):
        with torch.no_grad():
            for weight in prunable(now).values():
                weight.mul_(torch.rand_like(weight))  # stands for fine-tuning
        scores = group_scores(graph, magnitude_l1(now, [], torch.Generator()), plan=plan)
        whole = allocate(graph, scores, target, sparsity_of="macs", previous=plan)
        rest = remainder(whole, plan)
        assert compose(plan, rest) == whole
        now, plan = apply_plan(now, rest), whole
        assert macs(now, (3, 32, 32)) == costs(graph, plan)["macs"]
        assert abs(1 - macs(now, (3, 32, 32)) / macs(model, (3, 32, 32)) - target) < 0.005
    shapes = [tensor.shape for tensor in apply_plan(model, plan).state_dict().values()]
    assert [tensor.shape for tensor in now.state_dict().values()] == shapes


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_an_optimiser_goes_on_with_the_channels_that_stay(optimizer: Any) -> None:
    model = build("resnet8", 10)
    _, plan = example_plan(model)
    settings = {"SGD": {"lr": 0.1, "momentum": 0.9}, "AdamW": {"lr": 0.1}}[optimizer]
    old = getattr(torch.optim, optimizer)(model.parameters(), **settings)
    model(torch.rand(4, 3, 32, 32)).logsumexp(1).sum().backward()
    old.step()
    small = apply_plan(model, plan)
    new = getattr(torch.optim, optimizer)(small.parameters(), **settings)
    carry_state(old, model, new, small, plan)
    key = {"SGD": "momentum_buffer", "AdamW": "exp_avg_sq"}[optimizer]
    rows, columns = kept(plan["layers"]["layer1.0.conv2"]["out"]), kept(plan["layers"]["layer1.0.conv2"]["in"])
    assert 0 < len(columns) < 16
    dense = old.state[model.layer1[0].conv2.weight][key]
    carried = new.state[small.layer1[0].conv2.weight]
    assert torch.equal(carried[key], dense[rows][:, columns])
    assert optimizer == "SGD" or carried["step"] == 1
    uncut = old.state[model.fc.bias][key].clone()  # whole, but not shared
    small(torch.rand(4, 3, 32, 32)).sum().backward()
    new.step()
    assert torch.equal(old.state[model.fc.bias][key], uncut)
    assert not torch.equal(new.state[small.fc.bias][key], uncut)
    assert old.state[model.layer1[0].conv2.weight][key] is dense
    assert new.state[small.layer1[0].conv2.weight][key].shape == (len(rows), len(columns), 3, 3)
    with pytest.raises(ValueError, match="of SGD can't be carried over to Adagrad"):
        carry_state(torch.optim.SGD(model.parameters()), model, torch.optim.Adagrad(small.parameters()), small, plan)


def test_slices_of_what_is_no_parameter() -> None:
    model = Three()
    removed = np.array([False, True, False, False, True, False, False])
    plan = plan_without(dependency_graph(model, torch.zeros(1, 1, 4, 4)), removed)
    assert slice_like("conv1.bias", torch.arange(4), plan).tolist() == [0, 2, 3]
    assert slice_like("bn1.num_batches_tracked", torch.tensor(5), plan) == 5
    assert slice_like("elsewhere.weight", torch.arange(4), plan).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"'conv2\.weight' is \(2, 3, 1, 1\); .* \[3, 4\]"):
        slice_like("conv2.weight", torch.zeros(2, 3, 1, 1), plan)


def test_groups_go_as_a_whole() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1, groups=2), nn.Conv2d(8, 2, 1))
    graph = dependency_graph(model, torch.zeros(1, 3, 4, 4))
    assert [(g.name, g.size, g.width) for g in graph.groups] == [("0", 2, 2)]
    plan = plan_without(graph, np.array([True, False]))
    assert plan["layers"]["1"] == {
        "out": {"of": 8, "removed": [0, 1, 2, 3]},
        "in": {"of": 4, "removed": [0, 1]},
        "groups": 2,
    }
    small = apply_plan(model, plan)
    assert (small[1].groups, small[1].in_channels, small[1].out_channels) == (1, 2, 4)
    plan["layers"]["1"]["out"]["removed"] = [4, 5, 6, 7]
    with pytest.raises(ValueError, match="layer '1': of its 2 groups only whole ones"):
        apply_plan(model, plan)
