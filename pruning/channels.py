"""Dependency groups: which channels of which layers can only be removed together, and what they score and cost.

A *unit* is what is removed at once: one channel of a plain convolution with everything that depends on it (its batch
norm's entry, its place in a residual sum and in all that is added to it, its 49 inputs of a linear layer after
7x7 maps), or one whole group of a grouped convolution. A *group* is the units that one convolution or linear layer
makes, with those of all layers bound to them. From scores to a smaller network there are four steps:

    graph  = dependency_graph(model, example_input)            # once, of the dense network
    scores = group_scores(graph, magnitude_l1(model, ...))     # score
    plan   = allocate(graph, scores, 0.5)                      # allocate: a plan, plain JSON
    small  = apply_plan(model, plan)                           # cut

(`allocate` is in `pruning.allocation`, plans and cutting are in `pruning.surgery`.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pruning.masks import prunable
from pruning.surgery import Plan, removed_places
from pruning.tracing import CUTTABLE, Classes, Tracker, operation, track, where

COSTS = ("params", "channels", "macs")
Axis = tuple[str, str]  # (layer, "out" or "in")


@dataclass(frozen=True)
class Group:
    """`size` removable units, the graph's units start .. start + size - 1; `width` channels each in its first layer.

    name: the first layer that makes its channels, in the order of the forward pass.
    """

    name: str
    start: int
    size: int
    width: int


@dataclass(frozen=True)
class Member:
    """The part of a group on one axis of one layer: place index[i] belongs to the group's unit[i]."""

    layer: str
    side: str
    index: np.ndarray
    unit: np.ndarray


@dataclass(frozen=True)
class Layer:
    """A convolution, linear or norm layer: its weights per pair of channels, and where an image uses them.

    per_pair: weights per (output, input) channel, or per output channel if groups > 1; 0 for a norm, and for a weight
    that an earlier layer holds. positions: places per image at which the layer is applied, over all its calls.
    """

    per_pair: int
    positions: int
    groups: int


@dataclass(frozen=True)
class Graph:
    """The dependency groups of a dense network, and what its cost is made of.

    axes: (layer, side) -> the unit at each of its places, -1 where nothing can be cut. other_weights: prunable weights
    of layers that are not in `layers`; other_macs: MACs of opaque operations.
    """

    groups: tuple[Group, ...]
    layers: Mapping[str, Layer]
    axes: Mapping[Axis, np.ndarray]
    other_weights: int
    other_macs: int

    @property
    def size(self) -> int:
        """Number of removable units."""
        return sum(group.size for group in self.groups)

    def members(self, group: Group) -> list[Member]:
        """Where a group's units lie, axis by axis in module order."""
        found = []
        for (layer, side), units in self.axes.items():
            index = np.flatnonzero((units >= group.start) & (units < group.start + group.size))
            if len(index):
                found.append(Member(layer, side, index, units[index] - group.start))
        return found


def dependency_graph(
    model: nn.Module, example_input: Tensor | Sequence[Tensor], protect: Iterable[str] = ()
) -> Graph:
    """The dependency groups of `model`, which is neither run nor changed.

    example_input: a tensor (N, C, ...) of the size the network is for, or one per argument; only shapes and dtypes
    count. protect: paths of modules of which nothing is cut, neither what they make nor what they read; so the
    groups they take part in are not there. Inputs and outputs of the network are never cut.
    Raises ValueError, with the module and the operation, if the model can't be traced, if it holds an operation that
    is not known to treat channels one by one, where that meets channels that could be cut, or for an unknown path.
    """
    protect = [protect] if isinstance(protect, str) else list(protect)
    paths = dict(model.named_modules())
    for path in protect:
        if path not in paths or not path:
            raise ValueError(f"protect: no module {path!r}; choices: {', '.join(filter(None, paths))}")
    tracker = track(model, example_input, protect)
    roots = tracker.classes.roots(np.arange(len(tracker.classes.parent)))
    fixed = np.zeros(len(roots), dtype=bool)
    fixed[roots[np.concatenate([*tracker.fixed, np.arange(0)])]] = True
    _refuse(tracker, roots, fixed)
    return _assemble(model, tracker, roots, fixed)


def group_scores(
    graph: Graph,
    scores: Mapping[str, Tensor],
    *,
    reduce: str = "sum",
    sides: Sequence[str] = ("out",),
    plan: Plan | None = None,
) -> dict[str, Tensor]:
    """A score per unit of every group, from scores per weight: over all members of the group.

    scores: parameter name -> tensor of the weight's shape, or (outputs,), of the network as it is now, which `plan`
    (in the dense network's indices) has cut; units gone score -inf. A parameter without scores counts nothing.
    reduce: "sum" over all elements of a unit, or "mean", their average. sides: "out" counts the filters that make the
    channels (Li et al. 2016, arXiv:1608.08710), "in" what reads them. Only filters by default: what they are worth
    then does not grow with the number of layers that read them, and saliencies w * dL/dw, whose sums over what makes
    and what reads a channel are equal, don't count twice. Both sides with "sum" are torch-pruning's
    MagnitudeImportance(group_reduction="sum", normalizer=None), given |w| ** p of the same layers.
    Returns group name -> float64 (size,) on the CPU. Raises ValueError on shapes that don't fit, an unknown `reduce`
    or side, and for a group without any score.
    """
    if reduce not in ("sum", "mean") or not set(sides) <= {"out", "in"} or not sides:
        raise ValueError(f"reduce must be sum or mean, sides of out and in; they are {reduce!r} and {list(sides)}")
    total, count = torch.zeros(2, graph.size, dtype=torch.float64)
    gone = np.zeros(graph.size, dtype=bool) if plan is None else removed_units(graph, plan)
    for (layer, side), units in graph.axes.items():
        score = scores.get(f"{layer}.weight")
        if score is None or side not in sides or (side == "in" and (score.ndim < 2 or graph.layers[layer].groups > 1)):
            continue
        left = units[~(gone[units] & (units >= 0))] if graph.size else units
        dim = 0 if side == "out" else 1
        if score.shape[dim] != len(left):
            raise ValueError(f"scores of '{layer}.weight' are {tuple(score.shape)}; it has {len(left)} {side} channels")
        sums = score.detach().transpose(0, dim).flatten(1).sum(1) if score.ndim > 1 else score.detach()
        free = torch.from_numpy(left >= 0)
        total.index_add_(0, torch.from_numpy(left)[free], sums.to("cpu", torch.float64)[free])
        count.index_add_(0, torch.from_numpy(left)[free], torch.full_like(total, score.numel() / len(left))[: len(left)][free])
    return {}
