"""Scopes of channels: in which order the units of all groups go.

A scope is one function (graph, scores, sparsity_of, curves) -> the rank of every unit of the graph, the lowest the
first to go; of equal ranks the later unit goes first, and one of rank +inf never. scores: (size,), -inf for units gone,
which count as the first of their group to go; sparsity_of: what the target counts; curves: of a sensitivity scan.
Within a group the lowest scores go first, of equal ones the last, whatever the scope: what a scope decides is how far
each group has come when the network meets its target.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from pruning.allocation.lamp import lamp
from pruning.allocation.sensitivity import Curves, envelopes, marginal_drops
from pruning.allocation.weight_scopes import SPARED
from pruning.channels.graph import Graph, Group
from pruning.channels.plans import SIDES


def global_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """Over the whole network: by score."""
    return scores


def layer_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """The same share of every group: the j-th of n to go, as j - 1/2 of n.

    Removing all that rank up to f removes round(f * n) of each group; one more unit comes from the group that is
    nearest to rounding up, of equal ones from the last in the forward pass.
    """
    return _by_turn(graph, scores, lambda group: _shares(group.size))


def erk_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """Erdos-Renyi-Kernel (Evci et al. 2020, arXiv:1911.11134), of the layers whose filters make a group up, pooled.

    A group's density is the sum of the dimensions of these layers' weights over the number of these weights. It keeps
    the share min(1, eps * density) of its units, with one eps for all. As eps falls, the j-th of n to go is the one for
    which eps * density falls below 1 - (j - 1/2) / n: it ranks by that eps, the largest first.
    """

    def ranks(group: Group) -> np.ndarray:
        makers = [graph.layers[member.layer].shape for member in graph.members(group) if member.side == "out"]
        density = sum(map(sum, makers)) / sum(math.prod(shape) for shape in makers if shape)
        return -(1 - _shares(group.size)) / density

    return _by_turn(graph, scores, ranks)


def lamp_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """Each score over the sum of those of its group that are not smaller (Lee et al. 2021, arXiv:2010.07611).

    See `pruning.lamp`; made for weights, here of channels, as torch-pruning has it. Raises ValueError on scores
    that are negative or infinite.
    """

    def ranks(group: Group) -> np.ndarray:
        return lamp(torch.from_numpy(scores[group.start : group.start + group.size]), group.name).numpy()[::-1]

    return _by_turn(graph, scores, ranks)


def uniform_plus_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """As `layer_ranks`, but the first layer is not cut and the classifier loses at most 80 % of what it reads.

    After Gale et al. 2019, arXiv:1902.09574, who prune weights. What the first layer makes, its whole group, never
    goes (with a residual stream: all that is added to it), nor does the last fifth of each group that the classifier
    reads: the last layer, if it is linear. First and last in the dense network's module order, protected or not.
    """
    layers = [path for path, layer in graph.layers.items() if layer.shape]
    made = graph.axes[layers[0], "out"] if layers else ()
    read = graph.axes[layers[-1], "in"] if layers and len(graph.layers[layers[-1]].shape) == 2 else ()

    def ranks(group: Group) -> np.ndarray:
        units = range(group.start, group.start + group.size)
        spared = math.ceil(SPARED * group.size) if np.isin(units, read).any() else 0
        spared = group.size if np.isin(units, made).any() else spared
        return np.where(np.arange(group.size) < group.size - spared, _shares(group.size), np.inf)

    return _by_turn(graph, scores, ranks)


def sensitivity_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """By what going adds to the accuracy drop, along the group's envelope, per cost (see `pruning.sensitivity`).

    The cost is what the target counts: least drop for so many weights, MACs or channels asks for equal slopes in that
    currency, and in no other. It is what one unit takes from the dense network, on average over its group: weights
    between two groups count in both, though they can go but once. A rank is a place in this order; where groups cost
    the same they go in equal shares, as by `layer_ranks`. Raises ValueError if a group has no curve.
    """
    worth = unit_costs(graph, sparsity_of)
    known = envelopes(curves, [group.name for group in graph.groups])

    def slopes(group: Group) -> np.ndarray:
        cost = float(worth[group.start : group.start + group.size].mean())
        return np.array([float(drop) for drop in marginal_drops(known[group.name], group.size)]) / max(cost, 1)

    keys = (-np.arange(graph.size), layer_ranks(graph, scores, sparsity_of, curves), _by_turn(graph, scores, slopes))
    ranks = np.empty(graph.size)
    ranks[np.lexsort(keys)] = np.arange(graph.size)
    return ranks


def rising(values: np.ndarray) -> np.ndarray:
    """Indices by rising value, of equal ones the last first."""
    return len(values) - 1 - np.argsort(values[::-1], kind="stable")


def unit_costs(graph: Graph, sparsity_of: str) -> np.ndarray:
    """What each unit alone takes from the dense network, int64 (size,); sparsity_of: see `pruning.channels.COSTS`."""
    worth = np.full(graph.size, sparsity_of == "channels", dtype=np.int64)
    for path, layer in graph.layers.items() if sparsity_of != "channels" else ():
        made, read = (graph.axes.get((path, side), np.arange(0)) for side in SIDES)
        out, into = (np.bincount(units[units >= 0], minlength=graph.size) for units in (made, read))
        pairs = out * len(read) + into * len(made) - out * into if layer.groups == 1 else out
        worth += pairs * layer.per_pair * (layer.positions if sparsity_of == "macs" else 1)
    return worth


def _by_turn(graph: Graph, scores: np.ndarray, ranks: Callable[[Group], np.ndarray]) -> np.ndarray:
    """The ranks of all units, from those of a group's first, second, ... to go."""
    found = np.empty(graph.size)
    for group in graph.groups:
        found[group.start + rising(scores[group.start : group.start + group.size])] = ranks(group)
    return found


def _shares(count: int) -> np.ndarray:
    """(j - 1/2) / count for j = 1 .. count."""
    return (np.arange(count) + 0.5) / count
