"""Sparse learning: training that shrinks whole channels before they are cut, so that the cut loses less."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pruning.channels.graph import Graph

GROWTH = 4.0  # the weakest unit of a group is shrunk 2 ** GROWTH times as fast as its strongest


def group_lasso(graph: Graph, model: nn.Module, strength: float) -> Callable[[], None]:
    """A function that adds the group lasso's gradient to that of every weight of a dense network that can be cut.

    DepGraph's sparse learning (Fang et al. 2023, arXiv:2301.12900): the loss gains
    strength / 2 * sum over units k of gamma(k) * norm(k) ** 2, where norm(k) is over all weights that are cut with the
    unit, and gamma(k), held constant, is 2 ** (GROWTH * (largest - norm(k)) / (largest - smallest)) with the largest
    and smallest norm of k's group. Unimportant channels so go to zero in all of their layers at once, and important
    ones are left alone. Norms are compared, not their squares, as torch-pruning does.

    Args:
      graph: dependency groups of the model.
      model: the dense network.
      strength: at least 0; 0.0005 in torch-pruning's script for ResNet-56 on CIFAR-10, over 100 epochs at a rate of
        0.01.

    Returns:
      To be called between `backward` and the optimiser's step. Parameters without a gradient are left out.
    """
    axes = list(_axes(graph, model))
    groups = torch.repeat_interleave(torch.tensor([group.size for group in graph.groups], dtype=torch.long))
    if axes:
        groups = groups.to(axes[0][0].device)

    @torch.no_grad()
    def add_gradients() -> None:
        squares = groups.new_zeros(graph.size + 1, dtype=torch.float32)  # the last one collects what is never cut
        for weight, dim, units in axes:
            squares.index_add_(0, units, weight.transpose(0, dim).reshape(len(units), -1).float().square().sum(1))
        norms = squares[:-1].sqrt()
        below = _largest(norms, groups) - norms
        spread = _largest(below, groups).clamp(min=torch.finfo(norms.dtype).tiny)
        factors = torch.cat([strength * 2 ** (GROWTH * below / spread), norms.new_zeros(1)])
        for weight, dim, units in axes:
            if weight.grad is not None:
                shape = [-1 if at == dim else 1 for at in range(weight.ndim)]
                weight.grad.addcmul_(weight, factors[units].to(weight.dtype).view(shape))

    return add_gradients


def _largest(values: Tensor, groups: Tensor) -> Tensor:
    """For each value, at least 0, the largest of its group."""
    return torch.zeros_like(values).scatter_reduce(0, groups, values, "amax")[groups]


def _axes(graph: Graph, model: nn.Module) -> Iterator[tuple[nn.Parameter, int, Tensor]]:
    """Every axis of channels of the model's weights: the weight, the dimension, and the unit at each place of it."""
    parameters, seen = dict(model.named_parameters()), set()
    for (path, side), units in graph.axes.items():
        layer = graph.layers[path]
        weight = parameters.get(layer.weight(path))
        if weight is not None and side in layer.sides and (id(weight), side) not in seen:
            seen.add((id(weight), side))
            yield weight, layer.sides.index(side), torch.from_numpy(units % (graph.size + 1)).to(weight.device)
