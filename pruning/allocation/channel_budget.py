"""Plans that meet a sparsity target for channels.

Every scope ranks all units (`channel_scopes`), lowest removed first; a plan removes the first k of them. The remaining
cost falls with k and is counted exactly, so bisection finds the k nearest to the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pruning.allocation.channel_scopes import rising, unit_costs
from pruning.allocation.scopes import SCOPES
from pruning.allocation.sensitivity import Curves
from pruning.channels.graph import COSTS, Graph, Group, costs, costs_without, plan_without, removed_units
from pruning.channels.plans import Plan
from pruning.weights.masks import has_nan

HALF_A_POINT = 0.005  # tolerated distance from the target


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
    curves: Curves | None = None,
) -> Plan:
    """The plan that removes the share `target` of the dense network, lowest scores first.

    The share reached is the nearest to `target` along the ranking: within half a point, or half of what the largest
    step removes (one unit; with `round_to`, that many channels) if that is more.

    Args:
      graph: dependency groups of the dense network.
      scores: group name -> score (size,) of each unit; higher = keep. Scores of removed units are ignored.
      target: share of the dense network to remove, in [0, 1).
      scope: a name in SCOPES. Among equal ranks the later layer's and the later unit is removed first; +inf is never
        removed.
      sparsity_of: what the target counts, one of COSTS; `latency` needs a graph with latencies.
      min_channels: channels that each group keeps; all of them if it has fewer.
      round_to: a group that is cut keeps a multiple of this many channels. Where a unit holds several channels, this
        and min_channels are rounded up to whole units.
      previous: the plan so far, in the dense network's indices, which the result contains.
      curves: for scope sensitivity, group name -> share of its units removed -> accuracy drop.

    Raises:
      ValueError: the target is out of reach; unknown scope or sparsity_of; scores of other groups or shapes, or with
        NaN; numbers out of range; and what the scope raises.
    """
    _check(graph, scores, target, scope, sparsity_of, min_channels, round_to)
    gone = np.zeros(graph.size, dtype=bool) if previous is None else removed_units(graph, previous)
    order = SCOPES[scope].channels
    assert order is not None  # by `_check`
    ranks = order(graph, _unit_scores(graph, scores, gone), sparsity_of, curves)
    step, last = _removal_steps(graph, ranks, gone, min_channels, round_to)
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
    miss = abs(cut(k) - goal) - 1e-9 * dense  # allows for float rounding
    beyond = not cut(0) <= goal <= cut(last)
    if beyond and miss > HALF_A_POINT * dense and miss > largest_step(graph, sparsity_of, round_to) / 2:
        least, most = (cut(k) / max(dense, 1) for k in (0, last))
        raise ValueError(
            f"{target:g} of {sparsity_of} is out of reach: min_channels {min_channels}, round_to {round_to}, scope "
            f"{scope}, protected modules{' and the previous cut' if previous else ''} leave {least:.4f} to {most:.4f}"
        )
    return plan_without(graph, without(k))


def achieved(graph: Graph, plan: Plan) -> dict[str, float]:
    """The shares of the dense network that a plan removes: of everything that `costs` counts."""
    dense, left = costs(graph), costs(graph, plan)
    return {name: 1 - left[name] / dense[name] if dense[name] else 0.0 for name in dense}


def allocate_group(
    graph: Graph,
    scores: Mapping[str, Tensor],
    target: float,
    name: str,
    *,
    min_channels: int = 1,
    round_to: int = 1,
    previous: Plan | None = None,
) -> Plan:
    """The plan that removes the share `target` of one group's units, lowest scores first, and no others.

    The group keeps the number of units nearest to (1 - target) * size, the larger of two, subject to min_channels and,
    if the group is cut at all, to round_to.

    Args:
      graph: dependency groups of the dense network.
      scores: as in `allocate`.
      target: share of the group's units to remove, in [0, 1).
      name: of the group.
      min_channels: as in `allocate`.
      round_to: as in `allocate`.
      previous: as in `allocate`.

    Raises:
      ValueError: unknown group, bad input as in `allocate`, or the previous cut removed more of the group than
        `target`.
    """
    _check(graph, scores, target, "global", "channels", min_channels, round_to)
    groups = {group.name: group for group in graph.groups}
    if name not in groups:
        raise ValueError(f"there is no group {name!r}; choices: {', '.join(groups)}")
    group = groups[name]
    gone = np.zeros(graph.size, dtype=bool) if previous is None else removed_units(graph, previous)
    order = group.start + rising(_unit_scores(graph, scores, gone)[group.start : group.start + group.size])
    order = order[~gone[order]]
    left = len(order)
    aim = (1 - target) * group.size
    if left < aim - 0.5 - 1e-9:
        raise ValueError(f"{target:g} of group {name!r} is out of reach: of {group.size} units {left} are left")
    multiple = _unit_multiple(group, round_to)
    fewest = -(-_min_units(group, min_channels) // multiple) * multiple
    keep = min([left, *range(left // multiple * multiple, fewest - 1, -multiple)], key=lambda n: abs(n - aim))
    removed = gone.copy()
    removed[order[: left - keep]] = True
    return plan_without(graph, removed)


def _unit_scores(graph: Graph, scores: Mapping[str, Tensor], gone: np.ndarray) -> np.ndarray:
    """The scores of all units; -inf for removed ones."""
    parts = [scores[group.name].detach().double().cpu().numpy() for group in graph.groups]
    return np.where(gone, -np.inf, np.concatenate([*parts, np.empty(0)]))


def _removal_steps(
    graph: Graph, ranks: np.ndarray, gone: np.ndarray, min_channels: int, round_to: int
) -> tuple[np.ndarray, int]:
    """The step (1 .. last) at which each unit is removed, by its place in the ranking, and `last`.

    Steps beyond `last` mean never. A unit waits for the one that makes its group's size a multiple again.
    """
    place = np.empty(graph.size, dtype=np.int64)
    place[rising(ranks)] = np.arange(1, graph.size + 1)
    step = np.full(graph.size, graph.size + 1)
    for group in graph.groups:
        units = np.arange(group.start, group.start + group.size)
        units = units[~gone[units]]
        units = units[np.argsort(place[units])]
        multiple = _unit_multiple(group, round_to)
        left = (len(units) - 1 - np.arange(len(units))) // multiple * multiple  # units kept once each one is removed
        never = int(np.count_nonzero(ranks[units] == np.inf))
        goes = left >= max(_min_units(group, min_channels), never)
        step[units[goes]] = place[units[len(units) - left[goes] - 1]]
    return step, int(max(step[step <= graph.size], default=0))


def _min_units(group: Group, min_channels: int) -> int:
    """The number of units that hold `min_channels`, at least one."""
    return max(math.ceil(min_channels / group.width), 1)


def _unit_multiple(group: Group, round_to: int) -> int:
    """The smallest number of units that holds a multiple of `round_to` channels."""
    return round_to // math.gcd(round_to, group.width)


def largest_step(graph: Graph, sparsity_of: str, round_to: int) -> int:
    """The most that one unit, or `round_to` channels of one group, remove from the dense network's `sparsity_of`."""
    worth = unit_costs(graph, sparsity_of)
    return max(
        (int(worth[g.start : g.start + g.size].max()) * _unit_multiple(g, round_to) for g in graph.groups),
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
    known = [name for name, form in SCOPES.items() if form.channels]
    if scope not in known:
        raise ValueError(f"unknown scope {scope!r}; choose from {', '.join(known)}")
    if sparsity_of not in COSTS:
        raise ValueError(f"unknown sparsity_of {sparsity_of!r}; choose from {', '.join(COSTS)}")
    if sparsity_of == "latency" and not graph.latencies:
        raise ValueError("sparsity_of latency: the graph has no latencies (see pruning.measure.layer_latency)")
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
