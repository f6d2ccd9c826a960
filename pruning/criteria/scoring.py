"""What criteria that look at data share: a model held still, the columns its weights multiply, sums over units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruning.channels.graph import Graph, removed_units
from pruning.channels.layers import CONVS
from pruning.channels.plans import Plan
from pruning.weights.masks import PRUNABLE_LAYERS, prunable

Batches = Sequence[tuple[Tensor, Tensor]]  # images (N, C, ...) and labels (N,), on the model's device


def needed(batches: Batches) -> Batches:
    """The batches themselves; raises ValueError if there are none, for a criterion that looks at data."""
    if not sum(len(images) for images, _ in batches):
        raise ValueError("this criterion looks at data: it needs batches of images and labels")
    return batches


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, so that batch norm's statistics stay; afterwards every module is in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def users(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The layers that use each prunable weight: one, or several that share it."""
    layers = [module for module in model.modules() if isinstance(module, PRUNABLE_LAYERS)]
    return {name: [layer for layer in layers if layer.weight is weight] for name, weight in prunable(model).items()}


@contextmanager
def watching(layers: Mapping[str, Sequence[nn.Module]], hook: Any) -> Iterator[None]:
    """Calls hook(name, layer, input, output) after every call of a layer; its result, if not None, is the output."""
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: hook(name, layer, inputs[0], output))
        for name, several in layers.items()
        for layer in several
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def columns(layer: nn.Module, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """What a layer's weights multiply: its input as columns (N, groups, weights of a filter, positions).

    x: the layer's input, a batch; positions: indices of those of its output that count, by default all. A filter's
    weights in the order of `weight[i].flatten()` times the columns of its convolution group are its outputs, less the
    bias. Raises ValueError for a layer that is neither nn.Conv*d nor nn.Linear, or an input that is no batch.
    """
    if isinstance(layer, nn.Linear):
        x = x.reshape(len(x), -1, layer.in_features)
        return (x if positions is None else x[:, positions]).transpose(1, 2).unsqueeze(1)
    if not isinstance(layer, CONVS) or x.ndim != layer.weight.ndim:
        raise ValueError(f"only batches into nn.Conv*d and nn.Linear can be scored so, not into {layer}")
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    space = range(2, x.ndim)
    for axis, size, step, gap in zip(space, layer.kernel_size, layer.stride, layer.dilation, strict=True):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]  # a view: nothing is copied yet
    if positions is not None:
        index: Any = torch.unravel_index(positions, x.shape[2 : space.stop])
        x = x[:, :, *index]
        space = range(2, 3)
    places = math.prod(x.shape[axis] for axis in space)
    kernel = range(space.stop, x.ndim)
    return x.permute(0, 1, *kernel, *space).reshape(len(x), layer.groups, -1, places)


def rows(layer: nn.Module, y: Tensor) -> Tensor:
    """A layer's output, or its gradient, as (N, groups, filters of a group, positions), beside `columns`."""
    if isinstance(layer, nn.Linear):
        return y.reshape(len(y), -1, layer.out_features).transpose(1, 2).unsqueeze(1)
    groups: Any = layer.groups
    return y.reshape(len(y), groups, y.shape[1] // groups, -1)


def as_matrices(layer: nn.Module, weight: Tensor) -> Tensor:
    """A layer's weight, or anything of its shape, as (groups, filters of a group, weights of a filter)."""
    groups: Any = getattr(layer, "groups", 1)
    return weight.reshape(groups, len(weight) // groups, -1)


def exact(tensor: Tensor) -> torch.dtype:
    """The dtype to compute a tensor's scores in: its own, float32 at least."""
    return torch.promote_types(tensor.dtype, torch.float32)


def units_left(graph: Graph, plan: Plan | None) -> dict[tuple[str, str], np.ndarray]:
    """Of every axis of the network that `plan` leaves, the unit at each of its places; -1 where nothing can be cut."""
    gone = np.append(gone_units(graph, plan), False)
    return {axis: units[~gone[units]] for axis, units in graph.axes.items()}


def gone_units(graph: Graph, plan: Plan | None) -> np.ndarray:
    """Which units a plan, if there is one, cuts: bool (size,)."""
    return np.zeros(graph.size, dtype=bool) if plan is None else removed_units(graph, plan)


def unit_sums(graph: Graph, plan: Plan | None, values: Mapping[str, Tensor]) -> Tensor:
    """Sums over all members of each unit, (T, graph.size) float64 on the CPU.

    values: layer -> (T, output channels left), of the layers that count.
    """
    left = units_left(graph, plan)
    times = len(next(iter(values.values()))) if values else 0
    total = torch.zeros(times, graph.size + 1, dtype=torch.float64)  # the last place is of the unit -1
    for path, value in values.items():
        units = torch.from_numpy(left[path, "out"]) % (graph.size + 1)
        total.index_add_(1, units, value.detach().double().cpu())
    return total[:, :-1]


def by_group(graph: Graph, plan: Plan | None, values: Tensor) -> dict[str, Tensor]:
    """values (graph.size,) as scores of groups: float64 on the CPU, -inf for the units that `plan` has cut."""
    values = values.masked_fill(torch.from_numpy(gone_units(graph, plan)), -torch.inf)
    return {group.name: values[group.start : group.start + group.size].clone() for group in graph.groups}
