"""Shortcuts that pad channels with zeros: cut, they pad with fewer, also after loading, exporting and tracing again."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pruning.channels.graph import dependency_graph, plan_without
from pruning.channels.plans import compose
from pruning.channels.surgery import apply_plan
from tests.networks import PaddedShortcuts, trained_like

IMAGES = torch.rand(2, 3, 12, 12, dtype=torch.float64)


def test_zeros_are_cut_with_the_channels_that_they_are_added_to() -> None:
    model = trained_like(PaddedShortcuts())
    graph = dependency_graph(model, IMAGES)
    assert [(group.name, group.size) for group in graph.groups if "conv1" not in group.name] == [
        ("conv", 4),
        ("blocks.1.conv2", 4),  # what the first shortcut pads
        ("blocks.3.conv2", 8),
    ]
    removed = np.zeros(graph.size, dtype=bool)
    removed[[1, 8 + 8 + 0]] = True  # a channel of the stem, and the first of the zeros
    plan = plan_without(graph, removed)
    assert plan["layers"]["blocks.1.shortcut"] == {
        "pad": [0, 0, 0, 0, 2, 2],
        "pad_axis": -3,
        "out": {"of": 8, "removed": [0, 3]},
        "in": {"of": 4, "removed": [1]},
    }
    small = apply_plan(model, plan)
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(small.blocks[1].shortcut(x), F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)))
    assert model.blocks[1].shortcut(x).shape[1] == 7  # the dense network still pads as before
    assert isinstance(small.blocks[1].shortcut, type(model.blocks[1].shortcut))


def test_a_block_may_pad_among_other_things() -> None:
    class Inline(PaddedShortcuts.Block):
        def forward(self, x: Any) -> Any:
            y = self.conv2(F.relu(self.bn1(self.conv1(F.pad(x, (1, 1, 1, 1))))))
            return F.relu(y) + F.pad(x[..., ::2, ::2], pad=[0, 1, 0, 1, 1, 3])

    block = Inline(4, 8)
    model = trained_like(nn.Sequential(nn.Conv2d(3, 4, 1), block, nn.Conv2d(8, 2, 1)))
    graph = dependency_graph(model, IMAGES)
    generator = np.random.default_rng(0)
    plans = []
    now = model
    for _ in range(2):
        again = dependency_graph(now, IMAGES)
        plans.append(plan_without(again, generator.permutation(again.size) < 2))
        now = apply_plan(now, plans[-1])
    whole = apply_plan(model, compose(*plans))
    assert graph.size - 4 == dependency_graph(now, IMAGES).size
    with torch.no_grad():
        assert torch.equal(whole(IMAGES), now(IMAGES))
    assert whole[1].now == now[1].now != whole[1].written == (0, 1, 0, 1, 1, 3)


def test_a_cut_network_is_exported() -> None:
    model = PaddedShortcuts().eval()
    images = IMAGES.float()
    graph = dependency_graph(model, images)
    small = apply_plan(model, plan_without(graph, np.arange(graph.size) % 2 == 0))
    program = torch.export.export(small, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    with torch.no_grad():
        torch.testing.assert_close(program(images[:1].repeat(3, 1, 1, 1)), small(images[:1].repeat(3, 1, 1, 1)))
