"""X X^T of the inputs of layers, gathered in forward passes.

A layer's output, less its bias, is W X, where X is its input as columns, one per image and position. The error of any
weights W', the squared norm of (W - W') X, is the trace of (W - W') X X^T (W - W')^T, so X itself is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning.calibration.hooks import (
    Batches,
    as_matrices,
    columns,
    evaluating,
    exact,
    require_batches,
    rows,
    users,
    watching,
)

POSITIONS = 16  # sampled per call; He et al. and Luo et al. take 10 of every image
DAMPING = 0.01  # share of X X^T's mean diagonal that is added to its diagonal, as Frantar & Alistarh


def grams(
    model: nn.Module, names: Sequence[str], batches: Batches, generator: torch.Generator
) -> dict[str, tuple[nn.Module, Tensor]]:
    """X X^T of every weight's inputs, summed over all images and positions.

    Estimated from POSITIONS positions of every call and batch.

    Args:
      model: the network.
      names: of prunable weights.
      batches: calibration data.
      generator: draws the positions.

    Returns:
      Name -> a layer that has the weight, and X X^T (groups, weights of a filter, weights of a filter).
    """
    layers = users(model, names)
    found: dict[str, Tensor] = {}
    for name, several in layers.items():
        weight = as_matrices(several[0], several[0].get_parameter("weight"))
        found[name] = weight.new_zeros(len(weight), weight.shape[2], weight.shape[2], dtype=exact(weight))

    def note(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        positions = drawn(layer, y, generator)
        seen = columns(layer, x, positions)
        add_products(found[name], seen, seen, share_of(layer, y, positions))

    with evaluating(model), torch.no_grad(), watching(layers, note):
        for images, _ in require_batches(batches):
            model(images)
    return {name: (layers[name][0], found[name]) for name in names}


def drawn(layer: nn.Module, y: Tensor, generator: torch.Generator) -> Tensor | None:
    """Indices of POSITIONS positions of a layer's output y; None: it has no more, so take all."""
    places = rows(layer, y).shape[3]
    if places <= POSITIONS:
        return None
    return torch.randperm(places, generator=generator, device=generator.device)[:POSITIONS].to(y.device)


def share_of(layer: nn.Module, y: Tensor, positions: Tensor | None) -> float:
    """How many positions of the layer's output y each of `positions` stands for; None: they are all there."""
    return 1.0 if positions is None else rows(layer, y).shape[3] / len(positions)


def add_products(total: Tensor, left: Tensor, right: Tensor, share: float) -> None:
    """Add share * A B^T to `total` (groups, d, d), in place. left, right: A and B as `columns` gives them."""
    a = left.to(total.dtype).permute(1, 2, 0, 3).flatten(2)
    b = a if right is left else right.to(total.dtype).permute(1, 2, 0, 3).flatten(2)
    total.baddbmm_(a, b.transpose(1, 2), alpha=share)


def damped(gram: Tensor, share: float | None = None) -> Tensor:
    """X X^T (..., d, d) in float64, its diagonal raised by a share of its mean; by 1 if all of it is zero.

    share: DAMPING if None.
    """
    gram = gram.to(torch.float64, copy=True)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    diagonal += torch.where(mean > 0, (DAMPING if share is None else share) * mean, 1.0)
    return gram


def inverse_diagonal(matrix: Tensor) -> Tensor:
    """Diagonal of the inverse of each positive definite matrix (..., d, d): the sums of squared columns of L^-1.

    Computed in blocks of columns, each from its first non-zero row on: a third of the work of the whole inverse.
    """
    factor, size = torch.linalg.cholesky_ex(matrix).L, matrix.shape[-1]
    step = max(32, math.ceil(size / 8))
    parts = []
    for start in range(0, size, step):
        ones = torch.eye(size - start, min(step, size - start), dtype=matrix.dtype, device=matrix.device)
        block = torch.linalg.solve_triangular(factor[..., start:, start:], ones, upper=False)
        parts.append(block.square().sum(-2))
    return torch.cat(parts, -1)


def place_products(weight: Tensor, gram: Tensor) -> Tensor:
    """Inner products of the input places' contributions to a layer's output, float64 (places, places).

    weight: (outputs, places, ...); gram: X X^T, (d, d). Summed over outputs, images and positions.
    """
    flat = weight.flatten(1).to(gram.dtype)
    products = (flat.T @ flat).mul_(gram)
    places = weight.shape[1]
    return products.reshape(places, -1, places, len(gram) // places).sum((1, 3), dtype=torch.float64)
