"""Criteria and weight updates from a layer's reconstruction: how well the remaining inputs reproduce its output.

A layer's output, less its bias, is W X, where X is its input as columns, one per image and position. Only X X^T is
needed, gathered in forward passes: the error of any weights W', the squared norm of (W - W') X, is the trace of
(W - W') X X^T (W - W')^T. Channels: see `pruning.criteria.consumers`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning.criteria.scoring import (
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
from pruning.weights.masks import Masks, Scores, prunable

POSITIONS = 16  # sampled per call; He et al. and Luo et al. take 10 of every image
DAMPING = 0.01  # share of X X^T's mean diagonal that is added to its diagonal, as Frantar & Alistarh
ITERATIONS = 100  # maximum, of conjugate gradients


def regression(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Error from removing w after optimally updating the rest of its filter: w ** 2 / [(X X^T)^-1]_jj.

    Relative to the energy of the layer's output, which makes layers comparable. Frantar & Alistarh 2023,
    arXiv:2301.00774, after Hassibi & Stork 1993. Raises ValueError for layers that are neither nn.Conv*d nor nn.Linear.
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


def regression_reconstruct(model: nn.Module, masks: Masks, batches: Batches, generator: torch.Generator) -> Scores:
    """Least-squares update of the remaining weights, so that every layer's output stays close to before.

    Args: as `Criterion.reconstruct`.
    """
    moved = masked(model, masks)
    for name, (layer, gram) in grams(model, partly_masked(masks), batches, generator).items():
        weight, mask = (as_matrices(layer, tensor.detach()) for tensor in (prunable(model)[name], masks[name]))
        parts = [least_squares(w, g, m) for w, g, m in zip(weight.to(exact(weight)), damped(gram), mask, strict=True)]
        moved[name] = torch.stack(parts).reshape(masks[name].shape).to(weight.dtype)
    return moved


def thinet_reconstruct(model: nn.Module, masks: Masks, batches: Batches, generator: torch.Generator) -> Scores:
    """Scales each remaining input channel by the factor that best restores the layer's output (Luo et al., equation 7).

    A channel remains if any of its weights does. Layers with several convolution groups keep their weights. Args: as
    `Criterion.reconstruct`.
    """
    moved = masked(model, masks)
    for name, (_, gram) in grams(model, partly_masked(masks), batches, generator).items():
        mask, weight = masks[name], prunable(model)[name].detach()
        if len(gram) > 1:
            continue
        remaining = weight[mask.flatten(1).any(1)]
        products = damped(place_products(remaining, gram[0]))
        stays = mask.transpose(0, 1).flatten(1).any(1).unsqueeze(0)
        factors = least_squares(torch.ones_like(products[:1]), products, stays)[0].to(weight.dtype)
        moved[name] *= factors.reshape(1, -1, *[1] * (weight.ndim - 2))
    return moved


def masked(model: nn.Module, masks: Masks) -> Scores:
    """The weights that have masks, as new tensors, zero where the mask is False."""
    weights = prunable(model)
    return {name: weights[name].detach() * mask for name, mask in masks.items()}


def partly_masked(masks: Masks) -> list[str]:
    """The weights of which some filter loses some but not all weights: only there can the others compensate."""
    filters = {name: mask.flatten(1) for name, mask in masks.items()}
    return [name for name, mask in filters.items() if bool((mask.any(1) & ~mask.all(1)).any())]


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
        places = rows(layer, y).shape[3]
        drawn = None
        if places > POSITIONS:
            drawn = torch.randperm(places, generator=generator, device=generator.device)[:POSITIONS].to(x.device)
        inputs = columns(layer, x, drawn).to(found[name].dtype)
        flat = inputs.permute(1, 2, 0, 3).flatten(2)
        found[name].baddbmm_(flat, flat.transpose(1, 2), alpha=places / inputs.shape[3])

    with evaluating(model), torch.no_grad(), watching(layers, note):
        for images, _ in require_batches(batches):
            model(images)
    return {name: (layers[name][0], found[name]) for name in names}


def damped(gram: Tensor) -> Tensor:
    """X X^T (..., d, d) in float64, with DAMPING of its mean diagonal added to the diagonal; 1 if all of it is zero."""
    gram = gram.to(torch.float64, copy=True)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    diagonal += torch.where(mean > 0, DAMPING * mean, 1.0)
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


def least_squares(weight: Tensor, gram: Tensor, mask: Tensor) -> Tensor:
    """The weights (o, d), zero where not `mask`, that minimise the trace of (W - W') gram (W - W')^T.

    gram: (d, d) float64, positive definite. Solved directly if all filters that keep anything keep the same weights;
    otherwise by conjugate gradients in the weights' dtype, where every step reduces the error.
    """
    patterns = mask[mask.any(1)]
    if not len(patterns) or mask.all():
        return weight * mask
    if not (patterns == patterns[0]).all():
        return _conjugate_gradients(weight, gram.to(weight.dtype), mask)
    kept, gone = patterns[0].nonzero()[:, 0], (~patterns[0]).nonzero()[:, 0]
    shift = torch.zeros_like(weight)
    target = gram[kept][:, gone] @ weight[:, gone].T.to(gram.dtype)
    solved = torch.cholesky_solve(target, torch.linalg.cholesky_ex(gram[kept][:, kept]).L)
    shift[:, kept] = solved.T.to(weight.dtype)
    return (weight + shift) * mask


def _conjugate_gradients(weight: Tensor, gram: Tensor, mask: Tensor) -> Tensor:
    """`least_squares` for arbitrary masks, preconditioned by the diagonal."""
    shift, scale = torch.zeros_like(weight), gram.diagonal()
    residual = ((weight * ~mask) @ gram) * mask
    direction = residual / scale
    size = (residual * direction).sum(1, keepdim=True)
    for _ in range(min(ITERATIONS, len(gram))):
        image = (direction @ gram) * mask
        length = size / (direction * image).sum(1, keepdim=True)
        length = length.nan_to_num(0, 0, 0)  # 0 / 0: the filter has converged
        shift += length * direction
        residual -= length * image
        preconditioned = residual / scale
        before, size = size, (residual * preconditioned).sum(1, keepdim=True)
        direction = preconditioned + (size / before).nan_to_num(0, 0, 0) * direction
    return (weight + shift) * mask


def place_products(weight: Tensor, gram: Tensor) -> Tensor:
    """Inner products of the input places' contributions to a layer's output, float64 (places, places).

    weight: (outputs, places, ...); gram: X X^T, (d, d). Summed over outputs, images and positions.
    """
    flat = weight.flatten(1).to(gram.dtype)
    products = (flat.T @ flat).mul_(gram)
    places = weight.shape[1]
    return products.reshape(places, -1, places, len(gram) // places).sum((1, 3), dtype=torch.float64)
