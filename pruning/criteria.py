"""Criteria: how a weight or a channel is valued; higher = keep.

A weight criterion is one function (model, batches, generator) -> Scores for `prunable(model)`. `batches`
are pairs (images (N, C, H, W), labels (N,)) of calibration data, for criteria that look at data;
`generator` is the one source of randomness. A criterion leaves the model exactly as it found it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pruning.channels import Graph
from pruning.masks import Scores, prunable
from pruning.plans import Plan

Batches = Sequence[tuple[Tensor, Tensor]]


class Criterion(NamedTuple):
    """A criterion's two forms; None: it has no such form of its own.

    weight: (model, batches, generator) -> a score per weight. channel: (graph, model, plan, batches, generator) -> a
    score per unit of every group, where `model` is what `plan` leaves of the graph's network; without this form a
    channel's score is made of its weights' scores (`pruning.channels.group_scores`).
    """

    weight: Callable[[nn.Module, Batches, torch.Generator], Scores] | None = None
    channel: Callable | None = None


def magnitude_l1(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """|w| (Han et al. 2015, arXiv:1506.02626); of a filter its L1 norm (Li et al. 2016, arXiv:1608.08710)."""
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}


def magnitude_l2(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """w ** 2; summed over a filter, its squared L2 norm, which ranks filters as the norm does."""
    return {name: weight.detach().square() for name, weight in prunable(model).items()}


def random(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Uniform in (0, 1], the control: a criterion that does not beat it has learned nothing.

    Drawn on the generator's device, so one seed gives one set of scores wherever the model is.
    """
    return {
        # In float32 whatever the weight is: half precision has so few values that ties would rank by index.
        name: (1 - torch.rand(weight.shape, generator=generator, device=generator.device)).to(weight.device)
        for name, weight in prunable(model).items()
    }


def random_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """Uniform in [0, 1) for every removable unit of every group: a sum over weights would rank by the filters' size."""
    return {group.name: torch.rand(group.size, generator=generator, device=generator.device) for group in graph.groups}


CRITERIA: dict[str, Criterion] = {
    "magnitude_l1": Criterion(weight=magnitude_l1),
    "magnitude_l2": Criterion(weight=magnitude_l2),
    "random": Criterion(weight=random, channel=random_channels),
}
