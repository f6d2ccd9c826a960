"""Tables of layers' times: interpolation by hand, what is measured, and targets that count time."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import models
import pruning
from pruning.allocation.channel_budget import achieved, allocate
from pruning.allocation.channel_scopes import unit_costs
from pruning.channels.graph import costs, dependency_graph
from pruning.measure.layer_latency import WIDTHS, LayerLatency, layer_latencies
from tests.networks import Mixed

IMAGE = torch.zeros(1, 3, 32, 32)
RESNET = dependency_graph(models.build("resnet20", 10), IMAGE)


def by_macs(graph: Any) -> Any:
    """Tables in which every multiply-add takes a nanosecond."""
    found = {}
    for path, layer in graph.layers.items():
        if layer.per_pair:
            outputs, inputs = (tuple(range(1, len(graph.axes[path, side]) + 1)) for side in ("out", "in"))
            times = np.outer(outputs, inputs) * float(layer.per_pair * layer.positions)
            found[path] = LayerLatency(outputs, inputs, times)
    return dataclasses.replace(graph, latencies=found)


TIMED = by_macs(RESNET)


def random_scores(graph: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return {group.name: torch.rand(group.size, generator=generator) for group in graph.groups}


def test_a_table_by_hand() -> None:
    table = LayerLatency((2, 4), (1, 3), np.array([[10.0, 30.0], [20.0, 60.0]]))
    assert [table.at(2, 1), table.at(4, 3), table.at(3, 1), table.at(2, 2), table.at(3, 2)] == [10, 60, 15, 20, 30]
    assert table.at(1, 1) == 10
    assert table.at(8, 9) == 60


def test_every_layer_is_measured_at_widths_from_one_channel_to_all() -> None:
    torch.manual_seed(0)
    model = models.build("resnet8", 10)
    graph = dependency_graph(model, IMAGE)
    model.layer1.eval()
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    modes = [module.training for module in model.modules()]
    tables = layer_latencies(model, IMAGE, graph)
    assert [len(module._forward_pre_hooks) for module in model.modules()] == hooks
    assert [module.training for module in model.modules()] == modes
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert set(tables) == set(layers)
    for path, table in tables.items():
        assert table.nanoseconds.shape == (len(table.outputs), len(table.inputs))
        assert (table.nanoseconds > 0).all()
        assert (np.diff(table.nanoseconds, axis=0) >= 0).all()
        assert (np.diff(table.nanoseconds, axis=1) >= 0).all()
        if isinstance(layers[path], nn.Conv2d):
            assert (table.outputs[0], table.outputs[-1]) == (1, layers[path].out_channels)
            assert len(table.outputs) == WIDTHS
    assert tables["conv1"].inputs == (3,)
    assert tables["fc"].outputs == (10,)
    wide, narrow = tables["layer1.0.conv1"].nanoseconds[-1, -1], tables["fc"].nanoseconds[0, 0]
    assert wide > narrow  # 2.4 M multiply-adds and ten


def test_grouped_layers_and_those_called_twice() -> None:
    model = Mixed()
    graph = dependency_graph(model, torch.zeros(1, 3, 9, 9))
    tables = layer_latencies(model, torch.zeros(2, 3, 9, 9), graph)
    assert tables["depthwise"].inputs == (12,)
    assert set(tables["depthwise"].outputs) <= set(range(2, 25, 2))
    assert tables["grouped"].outputs[-1] == 16
    assert costs(dataclasses.replace(graph, latencies=tables))["latency"] > 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 0.9), st.sampled_from(["global", "layer", "erk"]))
def test_time_that_is_multiply_adds_gives_the_same_plan(seed: int, target: float, scope: str) -> None:
    scores = random_scores(RESNET, seed)
    assert costs(TIMED)["latency"] == costs(RESNET)["macs"]
    plans = [
        allocate(graph, scores, target, scope=scope, sparsity_of=what)
        for graph, what in ((RESNET, "macs"), (TIMED, "latency"))
    ]
    assert plans[0] == plans[1]


def test_what_a_channel_costs_is_the_mean_over_half_of_its_group() -> None:
    """Of 4 and 6 channels in a row, on 8 x 8 places, whose times are multiply-adds."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 2, 1))
    graph = by_macs(dependency_graph(model, torch.zeros(1, 3, 8, 8)))
    first, second = 64 * 9 * (3 * 4 + 4 * 6) / 2 / 2, 64 * (9 * 4 * 6 + 6 * 2) / 2 / 3
    assert unit_costs(graph, "latency").tolist() == [int(first)] * 4 + [int(second)] * 6


def test_what_brings_no_time_does_not_count() -> None:
    """Layers that get no faster below half of their multiply-adds."""
    graph = TIMED
    stairs = {
        path: LayerLatency(table.outputs, table.inputs, np.maximum(table.nanoseconds, table.nanoseconds.max() / 2))
        for path, table in graph.latencies.items()
    }
    graph = dataclasses.replace(graph, latencies=stairs)
    removed = achieved(graph, allocate(graph, random_scores(graph), 0.48, sparsity_of="latency"))
    assert removed["latency"] == pytest.approx(0.48, abs=0.005)
    assert removed["macs"] > 0.5
    with pytest.raises(ValueError, match=r"0\.7 of latency is out of reach"):
        allocate(graph, random_scores(graph), 0.7, sparsity_of="latency")


def test_pruning_measures_what_it_was_not_given() -> None:
    torch.manual_seed(0)
    model, image = models.build("resnet8", 10).eval(), torch.zeros(1, 3, 16, 16)
    small, plan = pruning.prune(model, image, sparsity=0.4, granularity="channel", sparsity_of="latency")
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    graph = dependency_graph(model, image)
    with pytest.raises(ValueError, match="the graph has no latencies"):
        allocate(graph, random_scores(graph), 0.4, sparsity_of="latency")
    assert plan["layers"]
