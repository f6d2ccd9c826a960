"""Dependency groups: which channels of which layers must be removed together, their scores and their costs.

A *unit* is what is removed at once: one channel of a plain convolution with everything that depends on it (its entry
in a norm, its place in a residual sum, in the other operands of that sum and in gates, its 49 inputs of a linear layer
after 7x7 maps), one whole group of a grouped convolution, or one channel from each group of a group norm. A *group* is
all units that the same layers produce, for example the two convolutions whose outputs are added, or a single one. A
group that keeps a unit therefore leaves none of its layers empty.

Pruning a network takes four steps, each with a result that can be inspected:

    graph = dependency_graph(model, example_input)                        # of the dense network, once
    scores = group_scores(graph, magnitude_l1(model, [], generator))      # score
    plan = allocate(graph, scores, 0.5)                                   # allocate
    small = apply_plan(model, plan)                                       # apply

`allocate` is in `pruning.allocation.channel_budget`, `apply_plan` in `pruning.channels.surgery`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pruning.channels.layers import makes_channels
from pruning.channels.plans import SIDES, VERSION, Plan, check_plan, sizes, weight_sides
from pruning.channels.surgery import layer_sizes
from pruning.channels.tracing import Tracker, track
from pruning.weights.masks import prunable

# What a target may count: prunable weights, removable units, multiply-adds, and the layers' time.
COSTS = ("params", "channels", "macs", "latency")


@dataclass(frozen=True)
class Group:
    """A range of `size` removable units: the graph's units start .. start + size - 1.

    Attributes:
      name: the first layer, in the order of the forward pass, that produces the channels; with the number of the first
        unit appended if another group already has that name.
      start: the first unit.
      size: number of units.
      width: channels of that layer per unit; 1 if units differ in that.
    """

    name: str
    start: int
    size: int
    width: int


@dataclass(frozen=True)
class Member:
    """A group's part of one axis of one layer: place index[i] belongs to the group's unit[i]; side is "out" or "in"."""

    layer: str
    side: str
    index: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Layer:
    """The cost of a layer's channels.

    Attributes:
      per_pair: weights per pair of output and input channel, or per output channel if groups > 1; 0 for norms, and for
        a weight that is already counted with an earlier layer.
      positions: positions of one image at which the weights are used, summed over the layer's calls; 0 if never called.
      shape: of the weight; () where per_pair is 0.
      sides: see `weight_sides`.
      further: the plan's other keys for this layer, such as groups.
    """

    per_pair: int
    positions: int
    shape: tuple[int, ...]
    sides: tuple[str, ...]
    further: Mapping[str, Any]

    @property
    def groups(self) -> int:
        """Number of convolution groups."""
        return int(self.further.get("groups", 1))

    def weight(self, path: str) -> str:
        """Name of the weight of the layer at `path`."""
        return f"{path}.in_proj_weight" if "heads" in self.further else f"{path}.weight"


class Timed(Protocol):
    """The time of a layer, such as `pruning.measure.layer_latency.LayerLatency`."""

    def at(self, outputs: int, inputs: int) -> float:
        """Nanoseconds with these numbers of channels."""


@dataclass(frozen=True)
class Graph:
    """The dependency groups of a dense network and the totals of its costs.

    Attributes:
      groups: in the order of the forward pass.
      layers: path -> costs.
      axes: (layer, side) -> unit at each place of the axis, -1 where nothing can be cut; in module order.
      other_weights: prunable weights outside these layers.
      other_macs: MACs of operations without a rule.
      products: attention -> unit of each of its heads, and the MACs of a head's products.
      latencies: path -> time of the layer; empty: not measured.
    """

    groups: tuple[Group, ...]
    layers: Mapping[str, Layer]
    axes: Mapping[tuple[str, str], np.ndarray]
    other_weights: int
    other_macs: int
    products: Mapping[str, tuple[np.ndarray, int]]
    latencies: Mapping[str, Timed] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of removable units."""
        return sum(group.size for group in self.groups)

    def members(self, group: Group) -> list[Member]:
        """The places of the group's units, axis by axis, in module order."""
        found = []
        for (layer, side), units in self.axes.items():
            index = np.flatnonzero((units >= group.start) & (units < group.start + group.size))
            if len(index):
                found.append(Member(layer, side, index, units[index] - group.start))
        return found


def dependency_graph(model: nn.Module, example_input: Tensor | Sequence[Tensor], protect: Iterable[str] = ()) -> Graph:
    """The dependency groups of `model`, which is neither run nor changed.

    Inputs and outputs of the network are never cut. Groups are in the order of the forward pass.

    Args:
      model: the dense network.
      example_input: a tensor (N, C, ...) of the intended size, or one per argument; only shapes and dtypes matter.
      protect: paths of modules that are not cut: neither the channels they produce nor those they read.

    Raises:
      ValueError: names the module and operation if the model can't be traced, if an operation without a rule gets
        channels that could be cut, or if a protected path does not exist.
    """
    protect = [protect] if isinstance(protect, str) else list(protect)
    paths = [path for path, _ in model.named_modules() if path]
    for path in protect:
        if path not in paths:
            raise ValueError(f"protect: there is no module {path!r}; choices: {', '.join(paths)}")
    tracker = track(model, example_input, protect)
    roots = tracker.classes.roots(np.arange(len(tracker.classes.parent)))
    producers = _producers(tracker)
    fixed = np.ones(len(roots), dtype=bool)  # variables that no layer produces, such as unused parameters, stay fixed
    for ids in producers.values():
        fixed[roots[ids]] = False
    for ids in tracker.fixed:
        fixed[roots[ids]] = True
    fixed = fixed[roots]
    _check_demands(tracker, producers, roots, fixed)
    groups, unit = _groups(producers, roots, fixed)
    found = layer_sizes(model)
    for path, further in tracker.pads.items():
        found[path] = {**{side: len(tracker.axes[path, side]) for side in SIDES}, **further}
    axes = {
        (path, side): unit[tracker.axes[path, side]] if (path, side) in tracker.axes else np.full(count, -1)
        for path, size in found.items()
        for side, count in size.items()
        if side in SIDES
    }
    layers, other_weights = _layers(model, tracker, found)
    products = {path: (unit[heads], each) for path, (heads, each) in tracker.products.items()}
    return Graph(groups, layers, axes, other_weights, tracker.opaque_macs, products)


def group_scores(
    graph: Graph,
    scores: Mapping[str, Tensor],
    *,
    reduce: str = "sum",
    sides: Sequence[str] = ("out",),
    plan: Plan | None = None,
) -> dict[str, Tensor]:
    """One score per unit of every group, reduced from scores per weight over all members of the group.

    "out" and "in" summed, of |w| ** p, equal torch-pruning's MagnitudeImportance with group_reduction="sum" and
    normalizer=None. The default is the filters alone (Li et al. 2016, arXiv:1608.08710): their sum does not grow with
    the number of layers that read the channel, and saliencies w * dL/dw, which have the same sum on both sides, are
    not counted twice.

    Args:
      graph: dependency groups of the dense network.
      scores: parameter name -> tensor of the parameter's shape, or (outputs,), for the network that `plan` leaves.
        Parameters without scores are ignored.
      reduce: "sum" or "mean" over a unit's elements.
      sides: "out" counts the filters (and norms) that produce the channels, "in" the weights that read them.
      plan: channels already removed, in the dense network's indices; their units score -inf.

    Returns:
      Group name -> float64 (size,) on the CPU; higher = keep.

    Raises:
      ValueError: unknown `reduce` or side, shapes that don't fit, or a unit without any score.
    """
    if reduce not in ("sum", "mean") or not sides or not set(sides) <= set(SIDES):
        raise ValueError(f"reduce is sum or mean, sides are out, in or both; got {reduce!r} and {list(sides)}")
    gone = np.zeros(graph.size, dtype=bool) if plan is None else removed_units(graph, plan)
    total, count = np.zeros(graph.size), np.zeros(graph.size)
    for (path, side), dense_units in graph.axes.items():
        layer = graph.layers[path]
        score = scores.get(layer.weight(path))
        on = ("out",) if score is not None and score.ndim == 1 else layer.sides
        if score is None or side not in on or (side if layer.groups == 1 else "out") not in sides:
            continue
        dim = on.index(side)
        units = dense_units[~np.append(gone, False)[dense_units]]
        if score.shape[dim] != len(units):
            name = layer.weight(path)
            raise ValueError(f"scores of {name!r} are {tuple(score.shape)}, its {side} channels {len(units)}")
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


def group_normalised(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each group's scores divided by their mean, units that were removed (-inf) aside, so that groups compare.

    DepGraph (Fang et al. 2023, arXiv:2301.12900) and torch-pruning's normalizer="mean". A group whose mean is not
    positive stays as it is.
    """
    found = {}
    for name, score in scores.items():
        left = score[score > -torch.inf]
        mean = left.mean() if len(left) else torch.zeros(())
        found[name] = score / mean if mean > 0 else score
    return found


def costs(graph: Graph, plan: Plan | None = None) -> dict[str, int]:
    """What remains after `plan` (default: nothing removed): `params` (prunable weights), `channels` (units), `macs`.

    Exact. MACs are for one image of the example's size. Where the graph has latencies, `latency` is their sum, in
    nanoseconds. Raises ValueError if the plan is for another network.
    """
    return costs_without(graph, np.zeros(graph.size, dtype=bool) if plan is None else removed_units(graph, plan))


def costs_without(graph: Graph, removed: np.ndarray) -> dict[str, int]:
    """As `costs`, with the units removed where `removed` (bool, (size,)) is True."""
    gone = np.append(removed, False)  # index -1 means no unit
    left = {axis: len(units) - int(np.count_nonzero(gone[units])) for axis, units in graph.axes.items()}
    params, macs = graph.other_weights, graph.other_macs
    for path, layer in graph.layers.items():
        if layer.per_pair:
            weights = layer.per_pair * left[path, "out"] * (left[path, "in"] if layer.groups == 1 else 1)
            params += weights
            macs += weights * layer.positions
    macs += sum(each * int(np.count_nonzero(~gone[heads])) for heads, each in graph.products.values())
    found = {"params": params, "channels": graph.size - int(np.count_nonzero(removed)), "macs": macs}
    if graph.latencies:
        times = (time.at(left[path, "out"], left.get((path, "in"), 1)) for path, time in graph.latencies.items())
        found["latency"] = round(sum(times))
    return found


def plan_without(graph: Graph, removed: np.ndarray) -> Plan:
    """The plan that removes the units where `removed` (bool, (size,)) is True."""
    gone = np.append(removed, False)
    layers: Plan = {path: dict(layer.further) for path, layer in graph.layers.items()}
    for (path, side), units in graph.axes.items():
        layers[path][side] = {"of": len(units), "removed": np.flatnonzero(gone[units]).tolist()}
    return {"version": VERSION, "layers": layers}


def removed_units(graph: Graph, plan: Plan) -> np.ndarray:
    """The units that a plan removes, as bool (size,).

    Raises ValueError if the plan is for another network, or removes part of a unit.
    """
    nothing = plan_without(graph, np.zeros(graph.size, dtype=bool))
    if sizes(check_plan(plan)) != sizes(nothing):
        raise ValueError("the plan is for another network")
    removed = np.zeros(graph.size, dtype=bool)
    for (path, side), units in graph.axes.items():
        cut = units[plan["layers"][path][side]["removed"]]
        removed[cut[cut >= 0]] = True
    if plan_without(graph, removed)["layers"] != plan["layers"]:
        raise ValueError("the plan removes channels that can't be cut, or can't be cut one without the other")
    return removed


def _check_demands(tracker: Tracker, producers: Mapping[str, np.ndarray], roots: np.ndarray, fixed: np.ndarray) -> None:
    """Raises ValueError if an operation that needs fixed channels gets channels that could be cut."""
    for node, reason, ids in tracker.demands:
        cuttable = roots[ids[~fixed[ids]]]
        if len(cuttable):
            sources = [path for path, ids in producers.items() if np.isin(roots[ids], cuttable).any()]
            raise ValueError(
                f"{tracker.where(node)} {reason}, so its input channels can't be cut; "
                f"protect the module, or the layers that make them: {', '.join(sources)}"
            )


def _producers(tracker: Tracker) -> dict[str, np.ndarray]:
    """The layers that produce new channels, in the order of the forward pass, with their channel variables."""
    return {
        path: ids
        for (path, side), ids in tracker.axes.items()
        if side == "out" and makes_channels(tracker.layers.get(path))
    }


def _groups(
    producers: Mapping[str, np.ndarray], roots: np.ndarray, fixed: np.ndarray
) -> tuple[tuple[Group, ...], np.ndarray]:
    """The groups, and the unit of every channel variable (-1: never cut)."""
    produced = {path: roots[ids[~fixed[ids]]] for path, ids in producers.items() if not fixed[ids].all()}
    part, parts = np.full(len(roots), -1), 0
    for classes in produced.values():  # separates the channels that one layer produces from all others
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
    producer = {int(u): path for path in reversed(produced) for u in np.intersect1d(unit[produced[path]], starts)}
    groups: dict[str, Group] = {}
    for start, size in zip(starts, sizes_of, strict=True):
        share = np.bincount(unit[produced[producer[start]]], minlength=start + size)[start : start + size]
        name = producer[start] if producer[start] not in groups else f"{producer[start]} (unit {start})"
        groups[name] = Group(name, start, size, int(share[0]) if (share == share[0]).all() else 1)
    return tuple(groups.values()), unit[roots]


def _layers(model: nn.Module, tracker: Tracker, found: Mapping[str, dict[str, Any]]) -> tuple[dict[str, Layer], int]:
    """The cost of every layer, and the number of prunable weights outside these layers."""
    counted = prunable(model)
    layers = {}
    for path, size in found.items():
        pairs = size["out"] * (size.get("in", 1) if "groups" not in size else 1)
        weight = counted.pop(f"{path}.{'in_proj_weight' if 'heads' in size else 'weight'}", torch.empty(0))
        shape = tuple(weight.shape) if weight.numel() else ()
        further = {key: n for key, n in size.items() if key not in SIDES}
        layers[path] = Layer(weight.numel() // pairs, tracker.positions[path], shape, weight_sides(size), further)
    return layers, sum(weight.numel() for weight in counted.values())
