"""Criteria from the weights alone: magnitudes, batch norm scales, distances between filters, and random."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pruning.calibration.hooks import Batches, exact
from pruning.channels.folding import norms_behind
from pruning.channels.graph import Graph, group_scores
from pruning.channels.layers import NORMS
from pruning.channels.plans import Plan
from pruning.weights.masks import Scores, prunable


def magnitude_l1(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """|w| (Han et al. 2015, arXiv:1506.02626); summed over a filter, its L1 norm (Li et al. 2016, arXiv:1608.08710)."""
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}


def magnitude_l2(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Squared weight; summed over a filter, its squared L2 norm, which ranks filters as the norm does."""
    return {name: weight.detach().square() for name, weight in prunable(model).items()}


def random(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Uniform in (0, 1]: the control that any useful criterion must beat.

    Drawn on the generator's device, so one seed gives the same scores on every device of the model.
    """
    return {
        # Always float32: half precision has so few values that many ties would be ranked by index.
        name: (1 - torch.rand(weight.shape, generator=generator, device=generator.device)).to(weight.device)
        for name, weight in prunable(model).items()
    }


def random_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """Uniform in [0, 1) for every unit. A sum of random weight scores would rank units by their filters' size.

    Args: as every channel criterion, see `Criterion`.
    """
    return {group.name: torch.rand(group.size, generator=generator, device=generator.device) for group in graph.groups}


def bn_scale(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """|gamma / sigma * w|: the weight after folding the next batch norm, with its running statistics, into its layer.

    After Liu et al. 2017, arXiv:1708.06519. A weight without a batch norm to fold (see `norms_behind`) scores |w|.
    Raises ValueError if there is no batch norm to fold at all, or torch.fx can't trace the model to find it.
    """
    scores = {name: weight.detach().abs().to(exact(weight)) for name, weight in prunable(model).items()}
    followed: dict[str, Any] = {
        f"{path}.weight": model.get_submodule(norm) for path, norm in norms_behind(model).items()
    }
    if not followed:
        raise ValueError("bn_scale: no batch norm follows a convolution or linear layer of this network")
    for name, norm in followed.items():
        scale = (norm.running_var.detach().to(scores[name].dtype) + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.detach().abs()
        scores[name] *= scale.reshape(-1, *[1] * (scores[name].ndim - 1))
    return scores


def bn_scale_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """|gamma|, averaged over the batch norms of a unit (network slimming, Liu et al. 2017, arXiv:1708.06519).

    Raises ValueError for a group without a batch norm that has a gamma. Args: as every channel criterion, see
    `Criterion`.
    """
    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, NORMS) and module.affine]
    gammas = {f"{path}.weight": norm.weight.detach().abs() for path, norm in norms}
    try:
        return group_scores(graph, gammas, reduce="mean", plan=plan)
    except ValueError as error:
        raise ValueError(f"bn_scale: {error}, as no batch norm with a gamma follows them") from error


def fpgm_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """Mean Euclidean distance of a filter to all filters of its layer; low = near their geometric median.

    He et al. 2019, arXiv:1811.00250, equation 8, as a mean. A unit of several layers has the mean over its filters.
    Args: as every channel criterion, see `Criterion`.
    """
    scores = {}
    for path, layer in graph.layers.items():
        if layer.shape and "out" in layer.sides:
            weight = model.get_parameter(layer.weight(path)).detach()
            filters = weight.transpose(0, layer.sides.index("out")).flatten(1).to(exact(weight))
            # By matrix product, 50 times as fast; centring limits the rounding error of differences of squares.
            filters = filters - filters.mean(0)
            distances = torch.cdist(filters, filters, compute_mode="use_mm_for_euclid_dist")
            scores[layer.weight(path)] = distances.fill_diagonal_(0).mean(1)
    return group_scores(graph, scores, reduce="mean", plan=plan)
