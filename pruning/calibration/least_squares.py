"""Updates of the weights that stay: by least squares, every layer's output gets close to the dense layer's again.

RECONSTRUCTIONS names the functions (model, masks, batches, generator) -> new weights. `model` is the network before the
cut; a mask for every weight concerned says what remains: of single weights, or of filters and the weights that read
them. The result has the masks' names and shapes and is zero where masked. Weights inside nn.MultiheadAttention and of
transposed convolutions stay as they are.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pruning.calibration.grams import add_products, damped, drawn, grams, share_of
from pruning.calibration.hooks import (
    Batches,
    as_matrices,
    columns,
    evaluating,
    exact,
    removing,
    require_batches,
    users,
    watching,
)
from pruning.channels.layers import CONVS
from pruning.weights.masks import Masks, Scores, prunable

ITERATIONS = 100  # maximum, of conjugate gradients
CONVERGED = 1e-8  # of the first residual's squared norm; looked at after every CHECKED iterations
CHECKED = 5
AHEAD = 2**27  # values of layers' inputs after which `sequential` holds no more at once: 512 MiB of float32
HELD = 2**25  # values of images that `sequential` holds at once: 222 images of 3 x 224 x 224

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
    (He et al. 2017, arXiv:1707.06168, section 3.3; Frantar & Alistarh 2022, arXiv:2208.11580). The cut network runs
    once, on all images at once, and every layer is updated just before its first call. The network before the cut runs
    once, or again up to where AHEAD values of inputs were held. Of images of more than HELD values in all, the first
    are used.
    """
    if all(mask.all() for mask in masks.values()):
        return _masked(model, masks)
    each = len(require_batches(batches)[0][0])
    images = torch.cat([images for images, _ in batches])
    images = images[: max(1, HELD // images[0].numel())]
    small = copy.deepcopy(model)
    weights, moved = prunable(small), _masked(model, masks)
    _write(weights, moved)
    names = [name for name in _updatable(model, masks) if masks[name].any()]
    dense = _DenseInputs(model, names, images, each, generator)

    def update(name: str, layer: nn.Module, x: Tensor) -> None:
        gram, cross = dense.products(name, x)
        whole = damped(gram)
        cross.diagonal(dim1=1, dim2=2).add_((whole - gram).diagonal(dim1=1, dim2=2))  # the damping draws to no change
        weight, mask = (as_matrices(layer, tensor.detach()) for tensor in (prunable(model)[name], masks[name]))
        parts = [
            least_squares(w, g, m, w.double() @ c)
            for w, g, c, m in zip(weight.to(exact(weight)), whole, cross, mask, strict=True)
        ]
        moved[name] = torch.stack(parts).reshape(masks[name].shape).to(weight.dtype)
        _write(weights, {name: moved[name]})

    with evaluating(small), torch.no_grad(), _before_first_calls(users(small, names), update):
        small(images)
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
    size = first = (residual * direction).sum(1, keepdim=True)
    for step in range(min(ITERATIONS, len(gram))):
        if step % CHECKED == 0 and bool((size <= CONVERGED * first).all()):
            break
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
    """Ends a forward pass: all layers that it was for have been called."""


class _Seen(NamedTuple):
    """A layer's input in the network before the cut, as columns, per batch; the positions; how many each stands for."""

    columns: list[Tensor]
    positions: list[Tensor | None]
    shares: list[float]


class _DenseInputs:
    """Inputs of the layers of a network, asked for in the order of their first calls.

    Args:
      model: the network.
      names: of weights.
      images: all of them.
      each: images of a batch; every batch has positions of its own.
      generator: draws the positions.
    """

    def __init__(
        self, model: nn.Module, names: Sequence[str], images: Tensor, each: int, generator: torch.Generator
    ) -> None:
        self._model, self._images, self._each, self._generator = model, images, each, generator
        self._layers = users(model, names)
        self._seen: dict[str, _Seen] = {}

    def products(self, name: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """X' X'^T and X X'^T (float64), X' being the same layer's input in another network."""
        if name not in self._seen:
            self._run(name)
        layer, seen = self._layers.pop(name)[0], self._seen.pop(name)
        weight = as_matrices(layer, layer.get_parameter("weight"))
        gram, cross = (
            torch.zeros(len(weight), *2 * [weight.shape[2]], dtype=exact(weight), device=weight.device)
            for _ in range(2)
        )
        for before, positions, share, x in zip(*seen, self._by_batch(inputs), strict=True):
            now = columns(layer, x, positions)
            add_products(gram, now, now, share)
            add_products(cross, before, now, share)
        return gram, cross.double()

    def _run(self, first: str) -> None:
        """See the inputs of the layer `first` and of those that are called next, until there are AHEAD values."""
        wanted: dict[str, _Seen] = {}

        def note(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
            if name in wanted or not (wanted or name == first):
                return
            inputs, outputs = self._by_batch(x), self._by_batch(y)
            positions = [drawn(layer, y, self._generator) for y in outputs]
            shares = [share_of(layer, y, p) for y, p in zip(outputs, positions, strict=True)]
            # Copies, as a later operation may change the input in place.
            found = [columns(layer, x, p).clone() for x, p in zip(inputs, positions, strict=True)]
            wanted[name] = _Seen(found, positions, shares)
            held = sum(x.numel() for seen in wanted.values() for x in seen.columns)
            if held >= AHEAD or len(wanted) == len(self._layers):
                raise _SeenError

        model = self._model
        with evaluating(model), torch.no_grad(), watching(self._layers, note), contextlib.suppress(_SeenError):
            model(self._images)
        self._seen |= wanted

    def _by_batch(self, x: Tensor) -> Sequence[Tensor]:
        """A layer's input or output, split as the images are, unless the network has made one axis of several."""
        return x.split(self._each) if len(x) == len(self._images) else [x]


@contextlib.contextmanager
def _before_first_calls(layers: Mapping[str, Sequence[nn.Module]], update: Callable[..., None]) -> Iterator[None]:
    """Context manager: calls update(name, layer, input) before the first call of the layers that have a weight."""
    called: set[str] = set()

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if name not in called:
            called.add(name)
            update(name, layer, inputs[0])

    handles = [
        layer.register_forward_pre_hook(functools.partial(note, name))
        for name, several in layers.items()
        for layer in several
    ]
    with removing(handles):
        yield


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
