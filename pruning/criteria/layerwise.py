"""Weight criteria from a layer's output: the error of removing weights when the rest of the filter makes up for it."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from pruning.calibration.grams import damped, grams, inverse_diagonal
from pruning.calibration.hooks import Batches, as_matrices, exact
from pruning.weights.masks import Scores, prunable

BLOCK = 576  # weights of a filter whose order is found together; time grows with its square
HELD = 2**24  # elements of H^-1 held at once, one matrix per row: 64 MiB of float32
STEPS = 5  # between two updates of these matrices, this part of the weights that are left goes


def regression(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Error from removing w after optimally updating the rest of its filter: w ** 2 / [(X X^T)^-1]_jj.

    Optimal Brain Surgeon (Hassibi & Stork 1993) on the layer's output: every weight as if it alone were removed.
    Relative to the energy of that output, which makes layers comparable. Raises
    ValueError for layers that are neither nn.Conv*d nor nn.Linear.
    """
    scores = {}
    for name, (layer, gram) in grams(model, list(prunable(model)), batches, generator).items():
        weight = as_matrices(layer, layer.get_parameter("weight").detach()).double()
        whole = damped(gram)
        errors = weight.square() / inverse_diagonal(whole).unsqueeze(1)
        energy = ((weight @ whole) * weight).sum()
        alive = (gram.diagonal(dim1=1, dim2=2).sum(1) > 0)[:, None, None] & (energy > 0)
        relative = torch.where(alive, errors / energy, 0.0)
        scores[name] = relative.reshape(layer.get_parameter("weight").shape).to(exact(gram))
    return scores


def obc(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Error from removing w after all weights of its filter that go before it, each time updating the rest optimally.

    Optimal Brain Compression (ExactOBS; Frantar & Alistarh 2022, arXiv:2208.11580): a filter's weights go one at a
    time, each time the one whose removal costs least. A score is that cost, or the highest before it in the filter, so
    that the lowest scores of several filters are their first removals (algorithm 2 of the paper); relative to the
    energy of the layer's output, which makes layers comparable. Filters of more than BLOCK weights are taken in
    parts, as if others stayed. Raises ValueError as `regression`.
    """
    scores = {}
    for name, (layer, gram) in grams(model, list(prunable(model)), batches, generator).items():
        parameter = layer.get_parameter("weight")
        weight = as_matrices(layer, parameter.detach()).to(exact(parameter))
        energy = ((weight.double() @ damped(gram)) * weight).sum()
        parts = -(-weight.shape[2] // BLOCK)
        edges = [round(i * weight.shape[2] / parts) for i in range(parts + 1)]
        found = torch.zeros_like(weight, dtype=torch.float64)
        for group in range(len(weight)):
            for left, right in itertools.pairwise(edges):
                inverse = torch.cholesky_inverse(
                    torch.linalg.cholesky_ex(damped(gram[group, left:right, left:right])).L
                )
                found[group, :, left:right] = removal_costs(weight[group, :, left:right], inverse.to(weight.dtype))
        alive = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] > 0
        relative = torch.where(alive & (energy > 0), found / energy, 0.0)
        scores[name] = relative.reshape(parameter.shape).to(exact(parameter))
    return scores


def removal_costs(weight: Tensor, inverse: Tensor) -> Tensor:
    """What each weight's removal costs in the greedy order of its row: w_p ** 2 / [H^-1]_pp at its turn.

    After each removal the rest of the row is updated, w -= w_p / [H^-1]_pp * H^-1_p, and the row's own H^-1 loses p by
    one step of Gaussian elimination. Several steps are gathered before the matrices are updated, and what is gone is
    dropped from them: a third of the work, nearly all of it in products of matrices.

    Args:
      weight: (rows, d).
      inverse: (d, d) of that dtype, the inverse of X X^T, damped.

    Returns:
      (rows, d) float64, strictly increasing along each row's order.
    """
    size = len(inverse)
    found = torch.empty_like(weight, dtype=torch.float64)
    step = max(1, HELD // size**2)
    for start in range(0, len(weight), step):
        found[start : start + step] = _removal_costs(weight[start : start + step], inverse)
    return found


def _removal_costs(weight: Tensor, inverse: Tensor) -> Tensor:
    count, size = weight.shape
    every = torch.arange(count, device=weight.device)
    matrices = inverse.repeat(count, 1, 1)  # of each row, of the weights that it still has
    places = torch.arange(size, device=weight.device).repeat(count, 1)  # of these weights
    order, costs = [], []
    while places.shape[1]:
        left = places.shape[1]
        gathered = weight.new_empty(count, math.ceil(left / STEPS), left)
        diagonal = matrices.diagonal(dim1=1, dim2=2).clone()
        gone = torch.zeros(count, left, dtype=torch.bool, device=weight.device)
        for k in range(gathered.shape[1]):
            least, chosen = (weight.square() / diagonal).masked_fill_(gone, torch.inf).min(1)
            before = gathered[:, :k]
            column = matrices[every, chosen] - (before[every, :, chosen].unsqueeze(1) @ before).squeeze(1)
            pivot = diagonal[every, chosen].rsqrt().unsqueeze(1)
            gathered[:, k] = column = column * pivot
            weight = weight - column * (weight[every, chosen].unsqueeze(1) * pivot)
            diagonal = diagonal - column.square()
            gone[every, chosen] = True
            order.append(places[every, chosen])
            costs.append(least)
        matrices.baddbmm_(gathered.transpose(1, 2), gathered, alpha=-1)
        stays = (~gone).nonzero()[:, 1].reshape(count, -1)
        places, weight = places.gather(1, stays), weight.gather(1, stays)
        parts = zip(matrices, stays, strict=True)  # one by one, which is faster than one gather
        matrices = torch.stack([one.index_select(0, left).index_select(1, left) for one, left in parts])
    rising = torch.stack(costs, 1).double().cummax(1).values
    later = torch.arange(size, dtype=torch.float64, device=weight.device)
    rising *= 1 + 2 * torch.finfo(weight.dtype).eps * later  # equal ones keep their order, as scores too
    return torch.zeros_like(rising).scatter_(1, torch.stack(order, 1), rising)
