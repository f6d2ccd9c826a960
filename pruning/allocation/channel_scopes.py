"""Scopes of channels: the order in which the units of all groups are removed.

A scope is a function (graph, scores, sparsity_of, curves) -> the rank of every unit, lowest removed first. Among equal
ranks the later unit is removed first; a unit of rank +inf never is. scores: (size,), -inf for units already removed,
which count as the first of their group; sparsity_of: what the target counts; curves: from a sensitivity scan. In every
scope a group loses its lowest scores first, among equal ones the last. Scopes differ in how much each group has lost
when the network meets its target.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from pruning.allocation.lamp import lamp
from pruning.allocation.sensitivity import Curves, envelopes, marginal_drops
from pruning.allocation.weight_scopes import SPARED
from pruning.channels.graph import Graph, Group, costs, costs_without
from pruning.channels.plans import SIDES


def global_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """Over the whole network: by score. Args: as every channel scope, see the module."""
    return scores


def knapsack_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """By score per cost, the greedy rule for a knapsack (Aflalo et al. 2020, arXiv:2002.08258).

    If scores add up, the target is met with the least sum of removed scores, up to one unit. The cost is of the kind
    that the target counts: what one unit removes from the dense network, averaged over its group. Scores should say
    what all of a unit is worth, that is, be sums over its members (`reduce`). Args: as every channel scope, see the
    module.
    """
    ranks: np.ndarray = scores / _mean_costs(graph, sparsity_of)
    return ranks


def layer_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """The same share of every group: the j-th of n units has rank (j - 1/2) / n.

    Removing all ranks up to f removes round(f * n) units of each group; one more unit comes from the group nearest to
    rounding up, among equal ones the last in the forward pass. Args: as every channel scope, see the module.
    """
    return _rank_in_removal_order(graph, scores, lambda group: _midpoint_shares(group.size))


def both_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """By the higher of two ranks, over the network and within the group: what goes first is low in both.

    The j-th lowest of n units has rank (j - 1/2) / n, among all units and among those of its group. A group whose
    scores are low for a reason of scale then loses little more than others, as with `layer_ranks`, and units that the
    network could spare go first, as with `global_ranks`. Ours; no publication. Args: as every channel scope, see the
    module.
    """
    overall = np.empty(graph.size)
    overall[rising(scores)] = _midpoint_shares(graph.size)
    ranks: np.ndarray = np.maximum(overall, layer_ranks(graph, scores, sparsity_of, curves))
    return ranks


def erk_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """Erdos-Renyi-Kernel (Evci et al. 2020, arXiv:1911.11134), pooled over the layers whose filters form a group.

    A group's density is the sum of the dimensions of these layers' weights divided by the number of these weights. It
    keeps the share min(1, eps * density) of its units, with one eps for all groups. As eps falls, the j-th of n units
    is removed where eps * density falls below 1 - (j - 1/2) / n; it ranks by that eps, largest first. Args: as every
    channel scope, see the module.
    """

    def ranks(group: Group) -> np.ndarray:
        makers = [graph.layers[member.layer].shape for member in graph.members(group) if member.side == "out"]
        density = sum(map(sum, makers)) / sum(math.prod(shape) for shape in makers if shape)
        return -(1 - _midpoint_shares(group.size)) / density

    return _rank_in_removal_order(graph, scores, ranks)


def lamp_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """Each score divided by the sum of its group's scores that are not smaller (Lee et al. 2021, arXiv:2010.07611).

    See `pruning.allocation.lamp`. LAMP was made for weights; applied to channels as in torch-pruning. Raises
    ValueError on scores that are negative or infinite. Args: as every channel scope, see the module.
    """

    def ranks(group: Group) -> np.ndarray:
        return lamp(torch.from_numpy(scores[group.start : group.start + group.size]), group.name).numpy()[::-1]

    return _rank_in_removal_order(graph, scores, ranks)


def uniform_plus_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """As `layer_ranks`, but the first layer is not cut and the classifier loses at most 80 % of its inputs.

    After Gale et al. 2019, arXiv:1902.09574, who prune weights. The first layer's whole group is never removed (with a
    residual stream: everything added to it), nor the last fifth of each group that the classifier reads, which is the
    last layer if it is linear. First and last in the dense network's module order, protected or not. Args: as every
    channel scope, see the module.
    """
    layers = [path for path, layer in graph.layers.items() if layer.shape]
    made = graph.axes[layers[0], "out"] if layers else ()
    read = graph.axes[layers[-1], "in"] if layers and len(graph.layers[layers[-1]].shape) == 2 else ()

    def ranks(group: Group) -> np.ndarray:
        units = range(group.start, group.start + group.size)
        spared = math.ceil(SPARED * group.size) if np.isin(units, read).any() else 0
        spared = group.size if np.isin(units, made).any() else spared
        return np.where(np.arange(group.size) < group.size - spared, _midpoint_shares(group.size), np.inf)

    return _rank_in_removal_order(graph, scores, ranks)


def sensitivity_ranks(graph: Graph, scores: np.ndarray, sparsity_of: str, curves: Curves | None) -> np.ndarray:
    """By accuracy drop per cost, along the convex hull of each group's curve (see `pruning.allocation.sensitivity`).

    The cost is of the kind that the target counts: the summed drop is least where slopes per that cost
    are equal. It is what one unit removes from the dense network, averaged over its group; weights between two groups
    count in both, although they can be removed only once. A rank is a place in this order; groups of equal cost per
    drop lose equal shares, as in `layer_ranks`. Raises ValueError if a group has no curve. Args: as every channel
    scope, see the module.
    """
    worth = _mean_costs(graph, sparsity_of)
    known = envelopes(curves, [group.name for group in graph.groups])

    def slopes(group: Group) -> np.ndarray:
        drops = [float(drop) for drop in marginal_drops(known[group.name], group.size)]
        return np.array(drops) / float(worth[group.start])

    keys = (
        -np.arange(graph.size),
        layer_ranks(graph, scores, sparsity_of, curves),
        _rank_in_removal_order(graph, scores, slopes),
    )
    ranks = np.empty(graph.size)
    ranks[np.lexsort(keys)] = np.arange(graph.size)
    return ranks


def rising(values: np.ndarray) -> np.ndarray:
    """Indices by ascending value, among equal ones the last first."""
    return len(values) - 1 - np.argsort(values[::-1], kind="stable")


def unit_costs(graph: Graph, sparsity_of: str) -> np.ndarray:
    """What each unit alone removes from the dense network, int64 (size,).

    sparsity_of: see `pruning.channels.graph.COSTS`. Of `latency`, the mean when half of the unit's group is removed.
    """
    if sparsity_of == "latency":
        return _unit_latencies(graph)
    worth = np.full(graph.size, sparsity_of == "channels", dtype=np.int64)
    for path, layer in graph.layers.items() if sparsity_of != "channels" else ():
        made, read = (graph.axes.get((path, side), np.arange(0)) for side in SIDES)
        out, into = (np.bincount(units[units >= 0], minlength=graph.size) for units in (made, read))
        pairs = out * len(read) + into * len(made) - out * into if layer.groups == 1 else out
        worth += pairs * layer.per_pair * (layer.positions if sparsity_of == "macs" else 1)
    for heads, each in graph.products.values() if sparsity_of == "macs" else ():
        worth += each * np.bincount(heads[heads >= 0], minlength=graph.size)
    return worth


def _mean_costs(graph: Graph, sparsity_of: str) -> np.ndarray:
    """`unit_costs`, averaged over each group; at least 1."""
    worth = unit_costs(graph, sparsity_of)
    means = np.ones(graph.size)
    for group in graph.groups:
        units = slice(group.start, group.start + group.size)
        means[units] = max(float(worth[units].mean()), 1)
    return means


def _unit_latencies(graph: Graph) -> np.ndarray:
    worth, dense = np.zeros(graph.size, dtype=np.int64), costs(graph)["latency"]
    for group in graph.groups:
        half = np.zeros(graph.size, dtype=bool)
        half[group.start : group.start + (group.size + 1) // 2] = True
        saved = dense - costs_without(graph, half)["latency"]
        worth[group.start : group.start + group.size] = saved / half.sum()
    return worth


def _rank_in_removal_order(graph: Graph, scores: np.ndarray, ranks: Callable[[Group], np.ndarray]) -> np.ndarray:
    """Ranks of all units, from each group's ranks in removal order."""
    found = np.empty(graph.size)
    for group in graph.groups:
        found[group.start + rising(scores[group.start : group.start + group.size])] = ranks(group)
    return found


def _midpoint_shares(count: int) -> np.ndarray:
    """(j - 1/2) / count for j = 1 .. count."""
    return (np.arange(count) + 0.5) / count
