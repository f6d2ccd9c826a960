"""Criteria of the weights alone: magnitudes, batch norm's scales, distances between filters, and random."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pruning.channels.folding import norms_behind
from pruning.channels.graph import Graph, group_scores
from pruning.channels.layers import NORMS
from pruning.channels.plans import Plan
from pruning.criteria.scoring import Batches, exact
from pruning.weights.masks import Scores, prunable


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


def bn_scale(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """|gamma / sigma * w|: the weight once batch norm, with its running statistics, is folded into the layer before it.

    After Liu et al. 2017, arXiv:1708.06519. A weight that no batch norm follows at once, and alone, counts as it is.
    Raises ValueError if there is no batch norm to fold, or torch.fx can't trace the model to find it.
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

    Raises ValueError for a group without a batch norm that has a gamma.
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
    """Mean Euclidean distance of a filter to all filters of its layer; low is near their geometric median.

    He et al. 2019, arXiv:1811.00250, equation 8, as a mean. A unit of several layers has the mean of its filters'.
    """
    scores = {}
    for path, layer in graph.layers.items():
        if layer.shape and "out" in layer.sides:
            weight = model.get_submodule(path).get_parameter("weight").detach()
            filters = weight.transpose(0, layer.sides.index("out")).flatten(1).to(exact(weight))
            # By a matrix product, 50 times as fast; what it loses in differences of squares, centring mostly saves.
            filters = filters - filters.mean(0)
            distances = torch.cdist(filters, filters, compute_mode="use_mm_for_euclid_dist")
            scores[f"{path}.weight"] = distances.fill_diagonal_(0).mean(1)
    return group_scores(graph, scores, reduce="mean", plan=plan)
