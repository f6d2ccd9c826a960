"""Optimal Brain Surgeon in blocks: what the loss would gain, were the weights that stay to make up for one that goes.

The Hessian is the empirical Fisher F = mean over images of g g^T, g the gradient of one image's loss, in blocks along
each filter (never across filters, so that permuting filters permutes scores) of at most BLOCK weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pruning.gradients import CHUNK, Call, image_gradients, output_gradients
from pruning.masks import Masks, Scores, prunable
from pruning.reconstruction import masked, partly_masked
from pruning.scoring import Batches, as_matrices, evaluating, exact, needed, users, watching

BLOCK = 128  # weights
DAMPING = 0.01  # of a block's mean diagonal, added to its diagonal
HELD = 2**28  # numbers of layers' inputs and gradients held at once: 1 GiB of float32


def obs(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """w ** 2 / (2 [F^-1]_ii): the loss that w's going costs once its block has made up for it as best it can.

    Hassibi & Stork 1993, with the Fisher of Singh & Alistarh 2020, arXiv:2004.14340. Raises ValueError for layers that
    are neither nn.Conv*d nor nn.Linear.
    """
    weights = prunable(model)
    scores = {name: torch.zeros(w.shape, dtype=exact(w), device=w.device) for name, w in weights.items()}
    for name, layer, block, gradients in _blocks(model, list(scores), batches):
        weight = _cut(layer, weights[name], block)
        alive = gradients.square().sum((1, 2)) > 0  # a block that no image reaches is worth nothing
        score = weight.square() / (2 * inverse_diagonal(gradients, damping(gradients))) * alive[:, None]
        _put(layer, scores[name], block, score)
    return scores


def obs_reconstruct(model: nn.Module, masks: Masks, batches: Batches, generator: torch.Generator) -> Scores:
    """The weights as they should be where `masks` keep them, and zero elsewhere; see `Criterion.reconstruct`.

    In every block the least of the loss's second-order estimate over the weights that stay, for all that go at once.
    """
    weights, moved = prunable(model), {n: w.contiguous() for n, w in masked(model, masks).items()}
    for name, layer, block, gradients in _blocks(model, partly_masked(masks), batches):
        weight, kept = _cut(layer, weights[name], block), _cut(layer, masks[name], block)
        fisher = _fisher(gradients, damping(gradients))
        pull = kept * (fisher @ (weight * (1 - kept)).unsqueeze(2)).squeeze(2)
        # Rows and columns of what goes become those of the identity, so that blocks of all counts are solved at once.
        system = fisher * kept[:, :, None] * kept[:, None, :] + torch.diag_embed(1 - kept)
        shift = torch.cholesky_solve(pull.unsqueeze(2), torch.linalg.cholesky_ex(system).L).squeeze(2)
        _put(layer, moved[name], block, kept * (weight + shift))
    return moved


def damping(gradients: Tensor) -> Tensor:
    """What is added to each block's diagonal, (blocks,): DAMPING of its mean; 1 where all gradients are zero."""
    mean = gradients.square().mean((1, 2))
    return torch.where(mean > 0, DAMPING * mean, 1.0)


def inverse_diagonal(gradients: Tensor, damping: Tensor) -> Tensor:
    """Diagonal of (damping * I + mean over images of g g^T)^-1 of each block.

    gradients: (blocks, images, weights), float64; damping: (blocks,), positive. Returns (blocks, weights). With fewer
    images than weights by Woodbury's identity, which inverts a matrix of images.
    """
    images, size = gradients.shape[1:]
    if images >= size:
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(_fisher(gradients, damping)).L).diagonal(dim1=1, dim2=2)
    kernel = gradients @ gradients.transpose(1, 2) + images * _diagonal(damping, images)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(kernel).L, gradients, upper=False)
    return (1 - half.square().sum(1)) / damping[:, None]


def _fisher(gradients: Tensor, damping: Tensor) -> Tensor:
    images, size = gradients.shape[1:]
    return gradients.transpose(1, 2) @ gradients / images + _diagonal(damping, size)


def _diagonal(values: Tensor, size: int) -> Tensor:
    return values[:, None, None] * torch.eye(size, dtype=values.dtype, device=values.device)


Block = tuple[slice, slice]  # which filters of each convolution group, and which of their weights


def _blocks(model: nn.Module, names: Sequence[str], batches: Batches) -> Iterator[tuple[str, nn.Module, Block, Tensor]]:
    """Weight, layer, and one block of several filters, with its gradients (filters, images, weights), float64."""
    for name, layer, calls in _layer_by_layer(model, names, batches):
        groups, filters, size = as_matrices(layer, layer.get_parameter("weight")).shape
        images = sum(len(of_batch[0][1]) for of_batch in calls)
        step = max(1, CHUNK // (images * groups * size))
        edges = [round(i * size / math.ceil(size / BLOCK)) for i in range(math.ceil(size / BLOCK) + 1)]
        for start in range(0, filters, step):
            some = slice(start, start + step)
            gradients = torch.cat([image_gradients(of_batch, some) for of_batch in calls])
            for left, right in itertools.pairwise(edges):
                part = gradients[..., left:right].permute(1, 2, 0, 3).flatten(0, 1)
                yield name, layer, (some, slice(left, right)), part.double()


def _layer_by_layer(
    model: nn.Module, names: Sequence[str], batches: Batches
) -> Iterator[tuple[str, nn.Module, list[list[Call]]]]:
    """Weight, a layer that has it, and its calls on each batch; as many layers per backward pass as HELD allows."""
    layers = users(model)
    sizes = _sizes(model, {name: layers[name] for name in names}, needed(batches)[0][0][:1])
    images = sum(len(labels) for _, labels in batches)
    waiting = [name for name in names if sizes[name]]  # a layer that is never called has no gradients
    while waiting:
        taken = [n for i, n in enumerate(waiting) if not i or images * sum(sizes[m] for m in waiting[: i + 1]) <= HELD]
        several = {name: layers[name] for name in taken}
        found = [output_gradients(model, several, x, labels) for x, labels in batches if len(labels)]
        for name in taken:
            calls = [of_batch.pop(name) for of_batch in found]
            if all(calls):
                yield name, layers[name][0], calls
        waiting = waiting[len(taken) :]


def _sizes(model: nn.Module, layers: Mapping[str, Sequence[nn.Module]], image: Tensor) -> dict[str, int]:
    """Numbers that go into and come out of the layers of each weight, for one image."""
    sizes = dict.fromkeys(layers, 0)

    def note(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        sizes[name] += x.numel() + y.numel()

    with evaluating(model), torch.no_grad(), watching(layers, note):
        model(image)
    return sizes


def _cut(layer: nn.Module, tensor: Tensor, block: Block) -> Tensor:
    """A block of a tensor of the weight's shape, (filters of all groups, weights), float64."""
    return as_matrices(layer, tensor.detach())[:, *block].flatten(0, 1).double()


def _put(layer: nn.Module, tensor: Tensor, block: Block, values: Tensor) -> None:
    """Writes what `_cut` takes, into a contiguous tensor."""
    place = as_matrices(layer, tensor)[:, *block]
    place.copy_(values.reshape(place.shape))
