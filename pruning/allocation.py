"""Allocation: from scores of channels and a target to the plan that meets it.

Every scope is a ranking of all units, lowest first to go; the plan removes the first k of it. What is left costs
less with every k, and is counted exactly, so the k nearest to the target is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from pruning.channels import COSTS, Graph, Group, costs, costs_without, plan_without, removed_units
from pruning.masks import has_nan
from pruning.plans import SIDES, Plan

HALF_A_POINT = 0.005


def allocate(
    graph: Graph,
    scores: Mapping[str, Tensor],
    target: float,
    *,
    scope: str = "global",
    sparsity_of: str = "params",
    min_channels: int = 1,
    round_to: int = 1,
    previous: Plan | None = None,
) -> Plan:
    """The plan that removes the share `target` in [0, 1) of the dense network, lowest scores first.

    scores: group name -> score (size,) of each of its units, higher = keep; those of units gone don't count. scope:
    see SCOPES; of equal ranks the later layer's and the later unit goes first. sparsity_of: what the target counts,
    see COSTS. min_channels: channels that each group keeps, or all it has if those are fewer. round_to: a group that
    is cut keeps a multiple of so many channels; where a unit holds several channels, both are rounded up to whole
    units. previous: the plan so far (in the dense network's indices), which the result contains.
    The share reached is the nearest to `target` that the ranking passes: within half a point, or half of what the
    largest step (one unit; with `round_to`, that many channels) takes away where that is more. Otherwise, and on an
    unknown scope or sparsity_of, scores of other groups or shapes or with NaN, and numbers out of range, ValueError.
    """
    _check(graph, scores, target, scope, sparsity_of, min_channels, round_to)
    gone = np.zeros(graph.size, dtype=bool) if previous is None else removed_units(graph, previous)
    order = _order(graph, scores, gone, scope)
    step, last = _steps(graph, order, gone, min_channels, round_to)
    dense = costs(graph)[sparsity_of]
    goal = target * max(dense, 1)

    def without(k: int) -> np.ndarray:
        return gone | (step <= k)

    def cut(k: int) -> int:
        return dense - costs_without(graph, without(k))[sparsity_of]

    low, high = 0, last  # the least k that reaches the goal, or `last`
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cut(middle) >= goal else (middle + 1, high)
    k = min((k for k in (low - 1, low) if k >= 0), key=lambda k: abs(cut(k) - goal))
    miss = abs(cut(k) - goal) - 1e-9 * dense  # what rounding of floats may be
    if miss > HALF_A_POINT * dense and miss > _largest_step(graph, sparsity_of, round_to) / 2:
        least, most = (cut(k) / max(dense, 1) for k in (0, last))
        raise ValueError(
            f"{target:g} of {sparsity_of} is out of reach: min_channels {min_channels}, round_to {round_to}, protected "
            f"modules{' and the previous cut' if previous else ''} leave {least:.4f} to {most:.4f}"
        )
    return plan_without(graph, without(k))


def achieved(graph: Graph, plan: Plan) -> dict[str, float]:
    """The shares of the dense network that a plan removes: of `params` (prunable weights), `channels`, `macs`."""
    dense, left = costs(graph), costs(graph, plan)
    return {name: 1 - left[name] / dense[name] if dense[name] else 0.0 for name in COSTS}


def global_ranks(score: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Over the whole network: by score."""
    return score


def layer_ranks(score: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The same share of every group: the j-th of n to go, as j - 1/2 of n.

    Removing all that rank up to f removes round(f * n) of each group; one more unit comes from the group that is
    nearest to rounding up, of equal ones from the last in the forward pass.
    """
    ranks = np.empty(len(score))
    ranks[_rising(np.where(gone, -np.inf, score))] = (np.arange(len(score)) + 0.5) / len(score)
    return ranks


SCOPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "global": global_ranks,
    "layer": layer_ranks,
}


def _order(graph: Graph, scores: Mapping[str, Tensor], gone: np.ndarray, scope: str) -> np.ndarray:
    """All units, the first to go first."""
    ranks = [
        SCOPES[scope](scores[g.name].detach().double().cpu().numpy(), gone[g.start : g.start + g.size])
        for g in graph.groups
    ]
    return _rising(np.concatenate([*ranks, np.empty(0)]))


def _rising(values: np.ndarray) -> np.ndarray:
    """Indices by rising value, of equal ones the last first."""
    return len(values) - 1 - np.argsort(values[::-1], kind="stable")


def _steps(
    graph: Graph, order: np.ndarray, gone: np.ndarray, min_channels: int, round_to: int
) -> tuple[np.ndarray, int]:
    """The step (1 .. last) at which each unit goes, by place in the order, and `last`; beyond it, a unit never goes.

    A unit waits for the one that makes its group a multiple again.
    """
    place = np.empty(graph.size, dtype=np.int64)
    place[order] = np.arange(1, graph.size + 1)
    step = np.full(graph.size, graph.size + 1)
    for group in graph.groups:
        units = np.arange(group.start, group.start + group.size)
        units = units[~gone[units]]
        units = units[np.argsort(place[units])]
        multiple = _multiple(group, round_to)
        left = (len(units) - 1 - np.arange(len(units))) // multiple * multiple  # kept once each of them is gone
        goes = left >= max(math.ceil(min_channels / group.width), 1)
        step[units[goes]] = place[units[len(units) - left[goes] - 1]]
    return step, int(max(step[step <= graph.size], default=0))


def _multiple(group: Group, round_to: int) -> int:
    """The number of units of whose multiples the channels are multiples of `round_to`."""
    return round_to // math.gcd(round_to, group.width)


def _largest_step(graph: Graph, sparsity_of: str, round_to: int) -> int:
    """The most that one unit takes away from the dense network, or `round_to` channels of one group."""
    worth = np.full(graph.size, sparsity_of == "channels", dtype=np.int64)
    for path, layer in graph.layers.items() if sparsity_of != "channels" else ():
        made, read = (graph.axes.get((path, side), np.arange(0)) for side in SIDES)
        out, into = (np.bincount(units[units >= 0], minlength=graph.size) for units in (made, read))
        pairs = out * len(read) + into * len(made) - out * into if layer.groups == 1 else out
        worth += pairs * layer.per_pair * (layer.positions if sparsity_of == "macs" else 1)
    return max(
        (int(worth[g.start : g.start + g.size].max()) * _multiple(g, round_to) for g in graph.groups),
        default=0,
    )


def _check(
    graph: Graph,
    scores: Mapping[str, Tensor],
    target: float,
    scope: str,
    sparsity_of: str,
    min_channels: int,
    round_to: int,
) -> None:
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}; choose from {', '.join(SCOPES)}")
    if sparsity_of not in COSTS:
        raise ValueError(f"unknown sparsity_of {sparsity_of!r}; choose from {', '.join(COSTS)}")
    if not 0 <= target < 1:
        raise ValueError(f"target must be in [0, 1); it is {target}")
    if min_channels < 1 or round_to < 1:
        raise ValueError(f"min_channels and round_to must be at least 1; they are {min_channels} and {round_to}")
    wanted = {group.name: (group.size,) for group in graph.groups}
    if {name: tuple(score.shape) for name, score in scores.items()} != wanted:
        raise ValueError(f"scores must be of these groups and sizes: {wanted}")
    for name, score in scores.items():
        if has_nan(score):
            raise ValueError(f"scores of group {name!r} hold NaN, which has no rank")
