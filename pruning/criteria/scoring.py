"""Shared by criteria: the check of scores, and sums over the units of channels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from pruning.channels.graph import Graph, removed_units
from pruning.channels.plans import Plan
from pruning.weights.masks import Scores, prunable


def check_scores(scores: Scores, model: nn.Module) -> None:
    """Raises ValueError unless `scores` has a finite real tensor of its weight's shape for every prunable weight."""
    expected = prunable(model)
    if not isinstance(scores, Mapping):
        raise ValueError(f"returned a {type(scores).__name__}; expected a dict of parameter name -> tensor of scores")
    for name in [*expected, *scores]:
        if name not in scores or name not in expected:
            some = "no scores" if name in expected else "scores"
            raise ValueError(f"returned {some} for {name!r}; expected one tensor for each of {', '.join(expected)}")
        value, shape = scores[name], tuple(expected[name].shape)
        if not isinstance(value, Tensor) or value.is_complex() or tuple(value.shape) != shape:
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"returned {found} for {name!r}; expected real scores {shape}")
        if value.numel() and not torch.stack(value.detach().aminmax()).isfinite().all():
            raise ValueError(f"returned scores for {name!r} that are NaN or infinite")


def units_left(graph: Graph, plan: Plan | None) -> dict[tuple[str, str], np.ndarray]:
    """Unit at each place of every axis of the network that `plan` leaves; -1 where nothing can be cut."""
    gone = np.append(gone_units(graph, plan), False)
    return {axis: units[~gone[units]] for axis, units in graph.axes.items()}


def gone_units(graph: Graph, plan: Plan | None) -> np.ndarray:
    """The units that a plan removes, as bool (size,); none without a plan."""
    return np.zeros(graph.size, dtype=bool) if plan is None else removed_units(graph, plan)


def unit_sums(graph: Graph, plan: Plan | None, values: Mapping[str, Tensor]) -> Tensor:
    """Sums over all members of each unit, float64 (T, graph.size) on the CPU.

    values: layer -> (T, remaining output channels); layers without values are ignored.
    """
    left = units_left(graph, plan)
    times = len(next(iter(values.values()))) if values else 0
    total = torch.zeros(times, graph.size + 1, dtype=torch.float64)  # the last entry collects unit -1
    for path, value in values.items():
        units = torch.from_numpy(left[path, "out"]) % (graph.size + 1)
        total.index_add_(1, units, value.detach().double().cpu())
    return total[:, :-1]


def by_group(graph: Graph, plan: Plan | None, values: Tensor) -> dict[str, Tensor]:
    """Splits values (graph.size,) into scores by group: float64 on the CPU, -inf for units that `plan` removed."""
    values = values.masked_fill(torch.from_numpy(gone_units(graph, plan)), -torch.inf)
    return {group.name: values[group.start : group.start + group.size].clone() for group in graph.groups}
