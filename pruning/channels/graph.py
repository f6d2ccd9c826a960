"""Dependency groups: which channels of which layers can only go together, what they score and what they cost.

A *unit* is what is removed at once: one channel of a plain convolution with all that depends on it (its entry in a
norm, its place in a residual sum and in whatever is added to it or gates it, its 49 inputs of a linear layer after 7x7
maps), one whole group of a grouped convolution, or one channel of each group of a group norm. A *group* is all
units that the same layers make: the two convolutions whose outputs are added, say, or one. So a group that keeps a unit
leaves none of its layers empty.

From a network to a smaller one there are four steps, each with a result to look at:

    graph = dependency_graph(model, example_input)                        # of the dense network, once
    scores = group_scores(graph, magnitude_l1(model, [], generator))      # score
    plan = allocate(graph, scores, 0.5)                                   # allocate
    small = apply_plan(model, plan)                                       # apply

with `allocate` in `pruning.allocation` and `apply_plan` in `pruning.surgery`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.channels.layers import makes_channels
from pruning.channels.plans import SIDES, VERSION, Plan, check_plan, sizes, weight_sides
from pruning.channels.surgery import layer_sizes
from pruning.channels.tracing import Tracker, track
from pruning.weights.masks import prunable

COSTS = ("params", "channels", "macs")  # what is counted: prunable weights, removable units, multiply-adds


@dataclass(frozen=True)
class Group:
    """`size` removable units, the graph's units start .. start + size - 1.

    name: the first layer, in the order of the forward pass, that makes its channels (with the first unit's number if
    that layer gave another group its name); width: how many of that layer's channels make up one unit (1 where units
    differ in that).
    """

    name: str
    start: int
    size: int
    width: int


@dataclass(frozen=True)
class Member:
    """A group's part of one axis of one layer: place index[i] goes with the group's unit[i]; side is "out" or "in"."""

    layer: str
    side: str
    index: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Layer:
    """What a layer's channels cost, in weights and in places of one image where these are used.

    per_pair: weights per pair of output and input channel, or per output channel if groups > 1; 0 for norms, and for
    a weight that is counted with an earlier layer. positions: summed over the layer's calls; 0 if it is never called.
    shape: of the weight, () where per_pair is 0. sides: see `weight_sides`; further: a plan's further keys.
    """

    per_pair: int
    positions: int
    shape: tuple[int, ...]
    sides: tuple[str, ...]
    further: Mapping[str, Any]

    @property
    def groups(self) -> int:
        """Number of convolution groups."""
        return self.further.get("groups", 1)


@dataclass(frozen=True)
class Graph:
    """The dependency groups of a dense network and the sums of its costs.

    axes: (layer, side) -> unit at each of its places, -1 where nothing can be cut; in module order. other_weights:
    prunable weights that are in no layer here; other_macs: MACs of operations that nothing is known about.
    """

    groups: tuple[Group, ...]
    layers: Mapping[str, Layer]
    axes: Mapping[tuple[str, str], np.ndarray]
    other_weights: int
    other_macs: int

    @property
    def size(self) -> int:
        """Number of removable units."""
        return sum(group.size for group in self.groups)

    def members(self, group: Group) -> list[Member]:
        """Where the group's units lie, axis by axis, in module order."""
        found = []
        for (layer, side), units in self.axes.items():
            index = np.flatnonzero((units >= group.start) & (units < group.start + group.size))
            if len(index):
                found.append(Member(layer, side, index, units[index] - group.start))
        return found


def dependency_graph(model: nn.Module, example_input: Tensor | Sequence[Tensor], protect: Iterable[str] = ()) -> Graph:
    """The dependency groups of `model`, which is neither run nor changed.

    example_input: a tensor (N, C, ...) of the size the network is for, or one per argument; only shapes and dtypes
    count. protect: paths of modules of which nothing is cut, neither what they make nor what they read. Inputs and
    outputs of the network are never cut. Groups come in the order of the forward pass.
    Raises ValueError, naming module and operation, if the model can't be traced, if an operation that is not known to
    treat channels one by one meets channels that could be cut, or if there is no module of a protected path.
    """
    protect = [protect] if isinstance(protect, str) else list(protect)
    paths = [path for path, _ in model.named_modules() if path]
    for path in protect:
        if path not in paths:
            raise ValueError(f"protect: there is no module {path!r}; choices: {', '.join(paths)}")
    tracker = track(model, example_input, protect)
    roots = tracker.classes.roots(np.arange(len(tracker.classes.parent)))
    makers = _makers(tracker)
    fixed = np.ones(len(roots), dtype=bool)  # such as a parameter that meets no channels
    for ids in makers.values():
        fixed[roots[ids]] = False
    for ids in tracker.fixed:
        fixed[roots[ids]] = True
    fixed = fixed[roots]
    _refuse(tracker, makers, roots, fixed)
    groups, unit = _groups(makers, roots, fixed)
    axes = {
        (path, side): unit[tracker.axes[path, side]] if (path, side) in tracker.axes else np.full(count, -1)
        for path, size in layer_sizes(model).items()
        for side, count in size.items()
        if side in SIDES
    }
    layers, other_weights = _layers(model, tracker)
    return Graph(groups, layers, axes, other_weights, tracker.opaque_macs)


def group_scores(
    graph: Graph,
    scores: Mapping[str, Tensor],
    *,
    reduce: str = "sum",
    sides: Sequence[str] = ("out",),
    plan: Plan | None = None,
) -> dict[str, Tensor]:
    """A score per unit of every group, from scores per weight, over all members of the group.

    scores: parameter name -> tensor of the parameter's shape, or (outputs,), of the network as it is after `plan`
    (in the dense network's indices); units gone score -inf. Parameters without scores don't count. reduce: "sum" of
    a unit's elements, or "mean", their average. sides: "out" counts the filters that make the channels (and their
    norms), as Li et al. 2016, arXiv:1608.08710; "in" counts the weights that read them. By default the filters alone:
    their sum does not grow with the number of readers, and saliencies w * dL/dw, of which both sides have the same
    sum, don't count twice. Both sides, summed, of |w| ** p are torch-pruning's MagnitudeImportance of these layers
    with group_reduction="sum" and normalizer=None.
    Returns group name -> float64 (size,), on the CPU. Raises ValueError on an unknown `reduce` or side, on shapes that
    don't fit, and for a unit that nothing scores.
    """
    if reduce not in ("sum", "mean") or not sides or not set(sides) <= set(SIDES):
        raise ValueError(f"reduce is sum or mean and sides are of out and in, not {reduce!r} and {list(sides)}")
    gone = np.zeros(graph.size, dtype=bool) if plan is None else removed_units(graph, plan)
    total, count = np.zeros(graph.size), np.zeros(graph.size)
    for (path, side), dense_units in graph.axes.items():
        score, layer = scores.get(f"{path}.weight"), graph.layers[path]
        on = ("out",) if score is not None and score.ndim == 1 else layer.sides
        if score is None or side not in on or (side if layer.groups == 1 else "out") not in sides:
            continue
        dim = on.index(side)
        units = dense_units[~np.append(gone, False)[dense_units]]
        if score.shape[dim] != len(units):
            raise ValueError(f"scores of '{path}.weight' are {tuple(score.shape)}, its {side} channels {len(units)}")
        exact = torch.promote_types(score.dtype, torch.float32)
        sums = score.detach().transpose(0, dim).reshape(len(units), -1).sum(1, dtype=exact).double().cpu().numpy()
        total += np.bincount(units[units >= 0], sums[units >= 0], graph.size)
        count += np.bincount(units[units >= 0], minlength=graph.size) * (score.numel() / len(units))
    for group in graph.groups:
        if not (count + gone)[group.start : group.start + group.size].all():
            raise ValueError(f"no scores for the channels of group {group.name!r}")
    values = total / np.maximum(count, 1) if reduce == "mean" else total
    values[gone] = -np.inf
    return {g.name: torch.from_numpy(values[g.start : g.start + g.size].copy()) for g in graph.groups}


def costs(graph: Graph, plan: Plan | None = None) -> dict[str, int]:
    """What `plan` (by default: none) leaves: `params` (prunable weights), `channels` (removable units), `macs`.

    Exact. MACs are those of one image at the example's size. Raises ValueError if the plan is for another network.
    """
    return costs_without(graph, np.zeros(graph.size, dtype=bool) if plan is None else removed_units(graph, plan))


def costs_without(graph: Graph, removed: np.ndarray) -> dict[str, int]:
    """As `costs`, without the units where `removed` (size,) is True."""
    gone = np.append(removed, False)  # the unit -1
    left = {axis: len(units) - int(np.count_nonzero(gone[units])) for axis, units in graph.axes.items()}
    params, macs = graph.other_weights, graph.other_macs
    for path, layer in graph.layers.items():
        if layer.per_pair:
            weights = layer.per_pair * left[path, "out"] * (left[path, "in"] if layer.groups == 1 else 1)
            params += weights
            macs += weights * layer.positions
    return {"params": params, "channels": graph.size - int(np.count_nonzero(removed)), "macs": macs}


def plan_without(graph: Graph, removed: np.ndarray) -> Plan:
    """The plan that cuts the units where `removed` (size,) is True."""
    gone = np.append(removed, False)
    layers: Plan = {path: dict(layer.further) for path, layer in graph.layers.items()}
    for (path, side), units in graph.axes.items():
        layers[path][side] = {"of": len(units), "removed": np.flatnonzero(gone[units]).tolist()}
    return {"version": VERSION, "layers": layers}


def removed_units(graph: Graph, plan: Plan) -> np.ndarray:
    """Which units a plan cuts: bool (size,). Raises ValueError if the plan is for another network, or parts a unit."""
    nothing = plan_without(graph, np.zeros(graph.size, dtype=bool))
    if sizes(check_plan(plan)) != sizes(nothing):
        raise ValueError("the plan is for another network than the graph")
    removed = np.zeros(graph.size, dtype=bool)
    for (path, side), units in graph.axes.items():
        cut = units[plan["layers"][path][side]["removed"]]
        removed[cut[cut >= 0]] = True
    if plan_without(graph, removed)["layers"] != plan["layers"]:
        raise ValueError("the plan cuts channels that can't be cut, or can't be cut one without the other")
    return removed


def _refuse(tracker: Tracker, made: Mapping[str, np.ndarray], roots: np.ndarray, fixed: np.ndarray) -> None:
    for node, reason, ids in tracker.demands:
        loose = roots[ids[~fixed[ids]]]
        if len(loose):
            makers = [path for path, ids in made.items() if np.isin(roots[ids], loose).any()]
            raise ValueError(
                f"{tracker.where(node)} {reason}, so the channels it gets can't be cut; "
                f"protect the module, or the layers that make them: {', '.join(makers)}"
            )


def _makers(tracker: Tracker) -> dict[str, np.ndarray]:
    """The layers that make new channels, in the order of the forward pass, with the variables they make."""
    return {
        path: ids
        for (path, side), ids in tracker.axes.items()
        if side == "out" and makes_channels(tracker.layers.get(path))
    }


def _groups(
    makers: Mapping[str, np.ndarray], roots: np.ndarray, fixed: np.ndarray
) -> tuple[tuple[Group, ...], np.ndarray]:
    """The groups, and the unit of every channel variable (-1: fixed)."""
    made = {path: roots[ids[~fixed[ids]]] for path, ids in makers.items() if not fixed[ids].all()}
    part, parts = np.full(len(roots), -1), 0
    for classes in made.values():  # what one layer makes is parted from what it doesn't
        _, place = np.unique(part[classes], return_inverse=True)
        part[classes] = parts + place
        parts += int(place.max()) + 1
    classes = np.unique(roots[~fixed])
    _, first, place = np.unique(part[classes], return_index=True, return_inverse=True)
    classes = classes[np.lexsort((classes, first[place]))]  # group by group, in the order of the forward pass
    unit = np.full(len(roots), -1)
    unit[classes] = np.arange(len(classes))
    sizes_of = np.bincount(place)[np.argsort(first)].tolist()
    starts = np.cumsum([0, *sizes_of])[:-1].tolist()
    maker = {int(u): path for path in reversed(made) for u in np.intersect1d(unit[made[path]], starts)}
    groups: dict[str, Group] = {}
    for start, size in zip(starts, sizes_of, strict=True):
        share = np.bincount(unit[made[maker[start]]], minlength=start + size)[start : start + size]
        name = maker[start] if maker[start] not in groups else f"{maker[start]} (unit {start})"
        groups[name] = Group(name, start, size, int(share[0]) if (share == share[0]).all() else 1)
    return tuple(groups.values()), unit[roots]


def _layers(model: nn.Module, tracker: Tracker) -> tuple[dict[str, Layer], int]:
    """Every layer's costs, and the prunable weights that are in none."""
    counted = prunable(model)
    layers = {}
    for path, size in layer_sizes(model).items():
        pairs = size["out"] * (size.get("in", 1) if "groups" not in size else 1)
        weight = counted.pop(f"{path}.weight", torch.empty(0))
        shape = tuple(weight.shape) if weight.numel() else ()
        further = {key: n for key, n in size.items() if key not in SIDES}
        layers[path] = Layer(weight.numel() // pairs, tracker.positions[path], shape, weight_sides(size), further)
    return layers, sum(weight.numel() for weight in counted.values())
