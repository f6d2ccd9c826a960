"""Block-diagonal OBS: loss increase from removing a weight after optimally updating the rest of its block.

The Hessian is approximated by the empirical Fisher F = mean over images of g g^T, with g the gradient of one image's
loss, in blocks of at most BLOCK weights along each filter. Blocks never span filters, so permuting filters permutes
scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pruning.calibration.grams import damped, inverse_diagonal
from pruning.calibration.hooks import Batches, as_matrices, evaluating, exact, require_batches, users, watching
from pruning.criteria.gradients import Call, image_gradients, output_gradients
from pruning.weights.masks import Scores, prunable

BLOCK = 128  # weights
# Share of F's mean diagonal that is added to its diagonal, as WoodFisher; more hides what the inverse tells.
DAMPING = 1e-5
HELD = 2**29  # tensor elements of layers' inputs and gradients held at once: 2 GiB of float32
STACKED = 2**26  # tensor elements of per-image gradients held at once: 256 MiB


def obs(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Loss increase from removing w after optimally updating the rest of its block: w ** 2 / (2 [F^-1]_ii).

    Hassibi & Stork 1993, with the Fisher of Singh & Alistarh 2020, arXiv:2004.14340. Raises ValueError for layers that
    are neither nn.Conv*d nor nn.Linear.
    """
    weights = prunable(model)
    scores = {name: torch.zeros(w.shape, dtype=exact(w), device=w.device) for name, w in weights.items()}
    for name, layer, block, gradients in _blocks(model, list(scores), batches):
        inverse, mean = fisher_inverse_diagonal(gradients)
        alive = (mean > 0)[:, None]  # a block without gradients scores 0
        _write_block(
            layer, scores[name], block, _read_block(layer, weights[name], block).square() / (2 * inverse) * alive
        )
    return scores


def fisher_inverse_diagonal(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonal of the inverse of each block's `damped` Fisher, (blocks, weights), and F's mean diagonal, (blocks,).

    gradients: (blocks, images, weights). Both results are float64. With fewer images than weights, Woodbury's identity
    inverts an (images, images) matrix instead.
    """
    images, size = gradients.shape[1:]
    if images >= size:
        fisher = _fisher(gradients)
        return inverse_diagonal(damped(fisher, DAMPING)), fisher.diagonal(dim1=1, dim2=2).mean(1)
    gradients = gradients.double()
    kernel = gradients @ gradients.transpose(1, 2)
    mean = kernel.diagonal(dim1=1, dim2=2).sum(1) / (images * size)  # trace(G G^T) = trace(G^T G)
    damping = torch.where(mean > 0, DAMPING * mean, 1.0)[:, None]
    kernel.diagonal(dim1=1, dim2=2).add_(images * damping)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(kernel).L, gradients, upper=False)
    return (1 - half.square().sum(1)) / damping, mean


def _fisher(gradients: Tensor) -> Tensor:
    gradients = gradients.double()  # rounding in float32 would be as large as the damping
    return gradients.transpose(1, 2) @ gradients / gradients.shape[1]


Block = tuple[slice, slice]  # filters of each convolution group, and weights of each filter


def _blocks(model: nn.Module, names: Sequence[str], batches: Batches) -> Iterator[tuple[str, nn.Module, Block, Tensor]]:
    """Yields name, layer, block of several filters, and its gradients (filters, images, weights)."""
    for name, layer, calls in _layer_by_layer(model, names, batches):
        groups, filters, size = as_matrices(layer, layer.get_parameter("weight")).shape
        images = sum(len(of_batch[0][1]) for of_batch in calls)
        step = max(1, STACKED // (images * groups * size))
        edges = [round(i * size / math.ceil(size / BLOCK)) for i in range(math.ceil(size / BLOCK) + 1)]
        for start in range(0, filters, step):
            chunk = slice(start, start + step)
            gradients = torch.cat([part for of_batch in calls for part in image_gradients(of_batch, chunk)])
            gradients = gradients.to(exact(gradients))
            for left, right in itertools.pairwise(edges):
                yield (
                    name,
                    layer,
                    (chunk, slice(left, right)),
                    gradients[..., left:right].permute(1, 2, 0, 3).flatten(0, 1),
                )


def _layer_by_layer(
    model: nn.Module, names: Sequence[str], batches: Batches
) -> Iterator[tuple[str, nn.Module, list[list[Call]]]]:
    """Yields name, a layer with that weight, and its calls on each batch; HELD limits the layers per backward pass."""
    layers = users(model, names)
    sizes = _activation_sizes(model, {name: layers[name] for name in names}, require_batches(batches)[0][0][:1])
    images = sum(len(labels) for _, labels in batches)
    waiting = [name for name in names if sizes[name]]  # layers that are never called have no gradients
    while waiting:
        taken = [n for i, n in enumerate(waiting) if not i or images * sum(sizes[m] for m in waiting[: i + 1]) <= HELD]
        several = {name: layers[name] for name in taken}
        found = [output_gradients(model, several, x, labels) for x, labels in batches if len(labels)]
        for name in taken:
            calls = [of_batch.pop(name) for of_batch in found]
            if all(calls):
                yield name, layers[name][0], calls
        waiting = waiting[len(taken) :]


def _activation_sizes(model: nn.Module, layers: Mapping[str, Sequence[nn.Module]], image: Tensor) -> dict[str, int]:
    """Input and output elements of the layers of each weight, for one image."""
    sizes = dict.fromkeys(layers, 0)

    def note(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        sizes[name] += x.numel() + y.numel()

    with evaluating(model), torch.no_grad(), watching(layers, note):
        model(image)
    return sizes


def _read_block(layer: nn.Module, tensor: Tensor, block: Block) -> Tensor:
    """A block of a tensor of the weight's shape, float64 (filters of all groups, weights)."""
    return as_matrices(layer, tensor.detach())[:, *block].flatten(0, 1).double()


def _write_block(layer: nn.Module, tensor: Tensor, block: Block, values: Tensor) -> None:
    """Writes values shaped like the result of `_read_block` into a contiguous tensor."""
    place = as_matrices(layer, tensor)[:, *block]
    place.copy_(values.reshape(place.shape))
