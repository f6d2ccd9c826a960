"""Updates of the weights that stay: by least squares, every layer's output gets close to the dense layer's again.

RECONSTRUCTIONS names the functions (model, masks, batches, generator) -> new weights. `model` is the network before the
cut; a mask for every weight concerned says what remains: of single weights, or of filters and the weights that read
them. The result has the masks' names and shapes and is zero where masked. Weights inside nn.MultiheadAttention and of
transposed convolutions stay as they are.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pruning.calibration.grams import add_products, damped, drawn, grams
from pruning.calibration.hooks import (
    Batches,
    as_matrices,
    evaluating,
    exact,
    require_batches,
    users,
    watching,
)
from pruning.channels.layers import CONVS
from pruning.weights.masks import Masks, Scores, prunable

ITERATIONS = 100  # maximum, of conjugate gradients

Reconstruction = Callable[[nn.Module, Masks, Batches, torch.Generator], Scores]


def layer(model: nn.Module, masks: Masks, batches: Batches, generator: torch.Generator) -> Scores:
    """Every layer by itself: its output on the inputs that the network before the cut gives it (He et al. 2017)."""
    moved = _masked(model, masks)
    names = [name for name in _updatable(model, masks) if _loses_part(masks[name])]
    for name, (module, gram) in grams(model, names, batches, generator).items():
        weight, mask = (as_matrices(module, tensor.detach()) for tensor in (prunable(model)[name], masks[name]))
        parts = [least_squares(w, g, m) for w, g, m in zip(weight.to(exact(weight)), damped(gram), mask, strict=True)]
        moved[name] = torch.stack(parts).reshape(masks[name].shape).to(weight.dtype)
    return moved


def sequential(model: nn.Module, masks: Masks, batches: Batches, generator: torch.Generator) -> Scores:
    """Layers in the order of the forward pass, on the inputs that the layers before, already cut and updated, give.

    Each gets close to the output that it had before the cut, so errors of earlier layers are made up for as well
    (He et al. 2017, arXiv:1707.06168, section 3.3; Frantar & Alistarh 2022, arXiv:2208.11580). Two forward passes per
    layer, up to it. A layer that is called several times is updated at its first call's place.
    """
    small = copy.deepcopy(model)
    weights, moved = prunable(small), _masked(model, masks)
    _write(weights, moved)
    names = [name for name in _updatable(model, masks) if masks[name].any()]
    for name, calls in _calls_in_order(model, names, require_batches(batches)[0][0][:1]).items():
        module, gram, cross = _paired_grams(model, small, name, calls, batches, generator)
        whole = damped(gram)
        cross.diagonal(dim1=1, dim2=2).add_((whole - gram).diagonal(dim1=1, dim2=2))  # the damping draws to no change
        weight, mask = (as_matrices(module, tensor.detach()) for tensor in (prunable(model)[name], masks[name]))
        parts = [
            least_squares(w, g, m, w.double() @ c)
            for w, g, c, m in zip(weight.to(exact(weight)), whole, cross, mask, strict=True)
        ]
        moved[name] = torch.stack(parts).reshape(masks[name].shape).to(weight.dtype)
        _write(weights, {name: moved[name]})
    return moved


RECONSTRUCTIONS: dict[str, Reconstruction | None] = {"none": None, "layer": layer, "sequential": sequential}


def least_squares(weight: Tensor, gram: Tensor, mask: Tensor, target: Tensor | None = None) -> Tensor:
    """The weights W' (o, d), zero where not `mask`, that make the kept entries of W' gram those of `target`.

    With the default target, weight @ gram, they minimise the trace of (W - W') gram (W - W')^T. Solved directly if all
    filters that keep anything keep the same weights; otherwise by conjugate gradients in the weights' dtype, where
    every step reduces the error.

    Args:
      weight: (o, d).
      gram: (d, d) float64, positive definite.
      mask: (o, d); True = kept.
      target: (o, d) float64.
    """
    patterns = mask[mask.any(1)]
    if not len(patterns) or (mask.all() and target is None):
        return weight * mask
    residual = (weight * ~mask).to(gram.dtype) @ gram if target is None else target - (weight * mask).double() @ gram
    if not (patterns == patterns[0]).all():
        return _conjugate_gradients(weight, gram.to(weight.dtype), mask, residual.to(weight.dtype))
    kept = patterns[0].nonzero()[:, 0]
    shift = torch.zeros_like(weight)
    solved = torch.cholesky_solve(residual[:, kept].T, torch.linalg.cholesky_ex(gram[kept][:, kept]).L)
    shift[:, kept] = solved.T.to(weight.dtype)
    return (weight + shift) * mask


def _conjugate_gradients(weight: Tensor, gram: Tensor, mask: Tensor, residual: Tensor) -> Tensor:
    """`least_squares` for arbitrary masks, preconditioned by the diagonal. residual: of `weight * mask`."""
    shift, scale = torch.zeros_like(weight), gram.diagonal()
    residual = residual * mask
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


class _SeenError(Exception):
    """Ends a forward pass: the layer that it was for has been called."""


def _paired_grams(
    dense: nn.Module, small: nn.Module, name: str, calls: int, batches: Batches, generator: torch.Generator
) -> tuple[nn.Module, Tensor, Tensor]:
    """A layer with this weight, X' X'^T, and X X'^T: X its input in the dense network, X' in the other one."""
    module = users(dense, [name])[name][0]
    weight = as_matrices(module, module.get_parameter("weight"))
    gram, cross = (
        torch.zeros(len(weight), *2 * [weight.shape[2]], dtype=exact(weight), device=weight.device) for _ in range(2)
    )
    for images, _ in batches:
        pairs = zip(_seen(dense, name, calls, images), _seen(small, name, calls, images), strict=True)
        for (caller, before, y), (_, now, _) in pairs:
            positions = drawn(caller, y, generator)
            add_products(gram, caller, y, positions, now, now)
            add_products(cross, caller, y, positions, before, now)
    return module, gram, cross.double()


def _seen(model: nn.Module, name: str, calls: int, images: Tensor) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """The first `calls` calls of the layers that have a weight: layer, input, output."""
    found: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(name: str, caller: nn.Module, x: Tensor, y: Tensor) -> None:
        found.append((caller, x, y))
        if len(found) == calls:
            raise _SeenError

    with evaluating(model), torch.no_grad(), watching(users(model, [name]), note), contextlib.suppress(_SeenError):
        model(images)
    return found


def _calls_in_order(model: nn.Module, names: Sequence[str], image: Tensor) -> dict[str, int]:
    """How often the layers of each weight are called in a forward pass, in the order of their first calls."""
    counts: dict[str, int] = {}

    def note(name: str, caller: nn.Module, x: Tensor, y: Tensor) -> None:
        counts[name] = counts.get(name, 0) + 1

    with evaluating(model), torch.no_grad(), watching(users(model, names), note):
        model(image)
    return counts


def _updatable(model: nn.Module, masks: Masks) -> list[str]:
    """The masked weights of layers whose inputs hooks see and `columns` unfolds."""
    hidden = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
        for weight in module.parameters()
    }
    return [
        name
        for name, weight in prunable(model).items()
        if name in masks
        and id(weight) not in hidden
        and isinstance(model.get_submodule(name.rpartition(".")[0]), (*CONVS, nn.Linear))
    ]


def _loses_part(mask: Tensor) -> bool:
    """Whether some filter loses some but not all weights: only then can the others make up for them."""
    filters = mask.flatten(1)
    return bool((filters.any(1) & ~filters.all(1)).any())


def _masked(model: nn.Module, masks: Masks) -> Scores:
    """The weights that have masks, as new tensors, zero where the mask is False."""
    weights = prunable(model)
    return {name: weights[name].detach() * mask for name, mask in masks.items()}


def _write(weights: dict[str, nn.Parameter], values: Scores) -> None:
    with torch.no_grad():
        for name, value in values.items():
            weights[name].copy_(value)
