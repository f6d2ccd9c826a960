"""Criteria from activations on calibration data; forward passes only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pruning.calibration.hooks import Batches, columns, evaluating, exact, require_batches, users, watching
from pruning.channels.graph import Graph
from pruning.channels.plans import Plan
from pruning.channels.rules.variables import operation
from pruning.channels.tracing import Tracker, track
from pruning.criteria.scoring import by_group, gone_units, units_left
from pruning.weights.masks import Scores, prunable

EXACT_ZEROS = ("relu", "relu6")  # activations that map all negative numbers to exactly 0
ACTIVATIONS = (*EXACT_ZEROS, "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "hardtanh")


def activation(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Share of the weights of w's filter that have a lower |w| * (L2 norm of the inputs that w multiplies).

    Wanda (Sun et al. 2024, arXiv:2306.11695) compares weights of one output with each other only, as norms of
    different layers' inputs do not compare: large feature maps would win. A convolution counts as a linear layer on
    its unfolded input, zero padding included.
    """
    scores = {}
    for name, norm in input_norms(model, batches).items():
        filters = (prunable(model)[name].detach().abs() * norm).flatten(1)
        lower = torch.searchsorted(filters.sort(1).values, filters.contiguous())
        scores[name] = (lower / filters.shape[1]).to(norm.dtype).reshape(norm.shape)
    return scores


def input_norms(model: nn.Module, batches: Batches) -> Scores:
    """L2 norm, over all images and positions, of the input that each weight multiplies, in the weights' shapes."""
    return {name: sums.sqrt() for name, (sums, _, _) in _input_sums(model, batches, torch.square).items()}


def apoz(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """|w| times the share of non-zeros among w's inputs, over all images and positions (zeros of padding count).

    After Hu et al. 2016, arXiv:1607.03250. Raises ValueError if no layer's input contains an exact zero.
    """
    scores = _input_sums(model, batches, lambda x: (x != 0).to(x.dtype))
    if not any(bool(holds_zeros) for _, _, holds_zeros in scores.values()):
        raise ValueError("apoz counts zeros, but no layer's input contains any: the network has no ReLU")
    return {name: weight.detach().abs() * scores[name][0] / scores[name][1] for name, weight in prunable(model).items()}


def activation_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """Mean |a| over images and positions, where a is the channel after its activation function.

    Averaged over all activations that carry the channel; for a residual stream, those after its blocks. Raises
    ValueError for a group that no function of ACTIVATIONS follows. Args: as every channel criterion, see `Criterion`.
    """
    return _unit_means(graph, model, plan, batches, ACTIVATIONS, torch.abs)


def apoz_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """1 - the average percentage of zeros after ReLU, over images and positions (Hu et al. 2016, arXiv:1607.03250).

    Averaged over all ReLUs that carry the channel; for a residual stream, those after its blocks. Raises ValueError for
    a group that no ReLU follows, as other activations have no exact zeros. Args: as every channel criterion, see
    `Criterion`.
    """
    return _unit_means(graph, model, plan, batches, EXACT_ZEROS, lambda x: (x != 0).to(x.dtype))


def _input_sums(
    model: nn.Module, batches: Batches, function: Callable[[Tensor], Tensor]
) -> dict[str, tuple[Tensor, int, Tensor]]:
    """Sums of function(input) over images and positions, for the input of every weight.

    function: elementwise with f(0) = 0. Summed over images first, so that only one image is unfolded. Returns by weight
    name: the sums in the weight's shape; the number of images times positions; whether any input is exactly zero (a
    bool on the device).
    """
    weights, layers = prunable(model), users(model)
    totals = {
        name: torch.zeros(weight.shape, dtype=torch.float64, device=weight.device) for name, weight in weights.items()
    }
    counts = dict.fromkeys(weights, 0)
    zeros = {name: torch.zeros((), dtype=torch.bool, device=weight.device) for name, weight in weights.items()}

    def note(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        unfolded = columns(layer, function(x).sum(0, keepdim=True, dtype=exact(x)))
        sums = unfolded.double().sum(3)[0]  # (groups, weights of a filter)
        per_group = len(totals[name]) // len(sums)
        totals[name] += sums.repeat_interleave(per_group, 0).reshape(totals[name].shape)
        counts[name] += len(x) * unfolded.shape[3]
        zeros[name] |= (x == 0).any()

    with evaluating(model), torch.no_grad(), watching(layers, note):
        for images, _ in require_batches(batches):
            model(images)
    return {name: (total.to(exact(weights[name])), max(counts[name], 1), zeros[name]) for name, total in totals.items()}


def _unit_means(
    graph: Graph,
    model: nn.Module,
    plan: Plan | None,
    batches: Batches,
    operations: tuple[str, ...],
    function: Callable[[Tensor], Tensor],
) -> Scores:
    """Mean of function(activation) over images, positions, and the activations that carry a unit, by group."""
    tracker = track(model, require_batches(batches)[0][0][:1])
    units = {
        node: u
        for node, u in _units_of_nodes(graph, plan, tracker).items()
        if _activation_name(tracker, node) in operations
    }
    means = _node_means(model, tracker, batches, units, function)
    total, count = np.zeros(graph.size + 1), np.zeros(graph.size + 1)  # the last entry collects unit -1
    for node, mean in means.items():
        np.add.at(total, units[node], mean.cpu().numpy())
        np.add.at(count, units[node], 1)
    for group in graph.groups:
        found = (count[:-1] + gone_units(graph, plan))[group.start : group.start + group.size]
        if not found.all():
            raise ValueError(f"no activation ({', '.join(operations)}) follows the channels of group {group.name!r}")
    return by_group(graph, plan, torch.from_numpy(total[:-1] / np.maximum(count[:-1], 1)))


def _units_of_nodes(graph: Graph, plan: Plan | None, tracker: Tracker) -> dict[fx.Node, np.ndarray]:
    """The unit at each place of the channel axis, for every tensor in a pass of the network that `plan` leaves."""
    roots = tracker.classes.roots(np.arange(len(tracker.classes.parent)))
    left = units_left(graph, plan)
    unit = np.full(len(roots), -1)
    for axis, variables in tracker.axes.items():
        unit[roots[variables]] = left[axis]
    return {
        node: unit[roots[ids]]
        for node, ids in tracker.ids.items()
        if isinstance(ids, np.ndarray) and tracker.axis[node]
    }


def _activation_name(tracker: Tracker, node: fx.Node) -> str:
    """The plain name of an activation layer or function: `relu` for nn.ReLU as for F.relu."""
    if node.op == "call_module":
        return _ACTIVATION_NAMES.get(type(tracker.layers[str(node.target)]), "")
    return operation(node) if node.op in ("call_function", "call_method") else ""


_ACTIVATION_NAMES: dict[type, str] = {
    **{nn.ReLU: "relu", nn.ReLU6: "relu6", nn.LeakyReLU: "leaky_relu", nn.ELU: "elu", nn.SELU: "selu", nn.CELU: "celu"},
    **{nn.GELU: "gelu", nn.SiLU: "silu", nn.Mish: "mish", nn.Hardswish: "hardswish", nn.Hardtanh: "hardtanh"},
}


def _node_means(
    model: nn.Module,
    tracker: Tracker,
    batches: Batches,
    nodes: Mapping[fx.Node, Any],
    function: Callable[[Tensor], Tensor],
) -> dict[fx.Node, Tensor]:
    """Mean of function(value) over images and positions, float64 (channels,), for every node in `nodes`."""
    totals: dict[fx.Node, Any] = dict.fromkeys(nodes, 0.0)
    counts = dict.fromkeys(nodes, 0)

    class Observer(fx.Interpreter):
        def run_node(self, node: fx.Node) -> Any:
            value = super().run_node(node)
            if node in totals:
                # Immediately, as an in-place operation may overwrite it next.
                values = function(value).movedim(tracker.axis[node], 1).unsqueeze(-1).flatten(2)
                totals[node] = totals[node] + values.sum(2, dtype=exact(values)).double().sum(0)
                counts[node] += len(values) * values.shape[2]
            return value

    with evaluating(model), torch.no_grad():
        observer = Observer(model, graph=tracker.graph)
        observer.extra_traceback = False
        for images, _ in batches:
            observer.run(images)
    return {node: total / counts[node] for node, total in totals.items()}
