"""Criteria from the loss's gradient: the estimated change in cross-entropy on calibration data if a weight is removed.

Gradients of single images differ from a batch's: squares of the former (`fisher`) and the latter (`taylor`) do not
agree even on average. Per-image gradients never take one backward pass per image: for single weights they are products
of a layer's inputs and its outputs' gradients; for whole filters, gradients of a gate, a factor of one after the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from pruning.calibration.hooks import Batches, columns, evaluating, exact, require_batches, rows, users, watching
from pruning.channels.folding import norms_behind
from pruning.channels.graph import Graph, group_scores
from pruning.channels.layers import makes_channels
from pruning.channels.plans import Plan
from pruning.criteria.scoring import by_group, unit_sums, units_left
from pruning.weights.masks import Scores, prunable

CHUNK = 2**24  # tensor elements held at once while per-image gradients are formed

Call = tuple[nn.Module, Tensor, Tensor]  # one call of a layer: the layer, its input, the loss's gradient at its output


def gradient_norm(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """|dL/dw| of the mean cross-entropy L over all calibration images."""
    return {name: gradient.abs() for name, gradient in mean_gradient(model, batches).items()}


def gradient_norm_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """L2 norm of dL/dw over all filters of a unit. Args: as every channel criterion, see `Criterion`."""
    squares = {name: gradient.square() for name, gradient in mean_gradient(model, batches).items()}
    summed = group_scores(graph, squares, plan=plan)
    return {name: torch.where(score < 0, score, score.clamp(0).sqrt()) for name, score in summed.items()}


def saliency(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """|w * dL/dw|: SNIP's connection sensitivity, at the trained weights (Lee et al. 2019, arXiv:1810.02340)."""
    weights = prunable(model)
    return {name: (weights[name].detach() * g).abs() for name, g in mean_gradient(model, batches).items()}


def taylor(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """(w * dL/dw) ** 2 of each batch's mean loss, averaged over batches (Molchanov et al. 2019, arXiv:1906.10771)."""
    scores = {name: torch.zeros_like(weight, dtype=exact(weight)) for name, weight in _detached(model).items()}
    weights = prunable(model)
    for images, labels in require_batches(batches):
        for name, gradient in batch_gradient(model, images, labels).items():
            scores[name] += (weights[name].detach() * gradient).square() / len(batches)
    return scores


def taylor_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """The squared sum of w * dL/dw over a unit's filters, batch norm folded in; per batch, averaged over batches.

    Molchanov et al. 2019, arXiv:1906.10771, equation 8, with the gate after the batch norm: the sum over the folded
    filter and bias is gamma * dL/dgamma + beta * dL/dbeta. (Adding the raw filter would count the channel twice.) On a
    residual stream, the square of the sum over all layers that add to it, which is the first-order effect of removing
    the channel: the authors' code (NVlabs/Taylor_pruning) has one gate for all blocks, whose gradient is that sum.
    Args: as every channel criterion, see `Criterion`.
    """
    layers = _gate_layers(graph, model, plan)
    sums = []
    for images, labels in require_batches(batches):
        gates = gate_gradients(model, layers, images, labels)
        sums.append({path: gate.sum(0, keepdim=True) / len(labels) for path, gate in gates.items()})
    return by_group(graph, plan, unit_sums(graph, plan, _concatenated(sums)).square().mean(0))


def fisher(model: nn.Module, batches: Batches, generator: torch.Generator) -> Scores:
    """Diagonal of the empirical Fisher: w ** 2 times half the mean of squared gradients of single images' losses.

    Optimal Brain Damage (LeCun et al. 1990) with the Fisher information in place of the Hessian (Theis et al. 2018,
    arXiv:1801.05787). Raises ValueError for layers that are neither nn.Conv*d nor nn.Linear.
    """
    layers = users(model)
    squares = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in _detached(model).items()}
    images_seen = sum(len(labels) for _, labels in require_batches(batches))
    for images, labels in batches:
        for name, calls in output_gradients(model, layers, images, labels).items():
            for part in _squared_gradients(calls):
                squares[name] += part.reshape(squares[name].shape)
    weights = _detached(model)
    return {name: (w.square() * squares.pop(name) / (2 * images_seen)).to(exact(w)) for name, w in weights.items()}


def fisher_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """Half the mean over images of (the sum of w * dL/dw over the unit's filters, batch norm folded in) squared.

    Theis et al. 2018, arXiv:1801.05787: the sum over a folded filter and its bias equals that over the feature map
    before ReLU of its value times its gradient. Args: as every channel criterion, see `Criterion`.
    """
    layers = _gate_layers(graph, model, plan)
    sums = _concatenated([gate_gradients(model, layers, images, labels) for images, labels in require_batches(batches)])
    return by_group(graph, plan, unit_sums(graph, plan, sums).square().mean(0) / 2)


def batch_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Scores:
    """Gradient of a batch's mean cross-entropy for every prunable weight; the parameters' `grad` is left unchanged."""
    weights = {name: weight.requires_grad_() for name, weight in _detached(model).items()}
    with evaluating(model), torch.enable_grad():
        loss = F.cross_entropy(functional_call(model, weights, (images,)), labels)
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(weights, gradients, strict=True))


def mean_gradient(model: nn.Module, batches: Batches) -> Scores:
    """Gradient of the mean cross-entropy over all images of all batches, at least float32."""
    total = {name: torch.zeros_like(weight, dtype=exact(weight)) for name, weight in _detached(model).items()}
    count = sum(len(labels) for _, labels in require_batches(batches))
    for images, labels in batches:
        for name, gradient in batch_gradient(model, images, labels).items():
            total[name] += gradient * (len(labels) / count)
    return total


def gate_gradients(
    model: nn.Module, layers: Mapping[str, Sequence[nn.Module]], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Each image's sum of w * dL/dw over all weights and the bias of an output channel, for every layer.

    This is the gradient of a factor of one on the channel; for batch norm the sum covers gamma and beta. One backward
    pass, without gradients of weights.

    Args:
      model: the network.
      layers: path -> the layers whose output channels are gated.
      images: (N, C, ...).
      labels: (N,).

    Returns:
      Path -> (N, outputs).
    """
    gates: dict[str, Tensor] = {}

    def gate(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        axis = y.ndim - 1 if isinstance(layer, nn.Linear) else 1
        if path not in gates:
            gates[path] = torch.ones(len(y), y.shape[axis], dtype=y.dtype, device=y.device, requires_grad=True)
        return torch.mul(y, gates[path].unflatten(1, [1] * (axis - 1) + [-1] + [1] * (y.ndim - 1 - axis)))

    with evaluating(model), torch.enable_grad(), watching(layers, gate):
        loss = F.cross_entropy(functional_call(model, _all_detached(model), (images,)), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, list(gates.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(gates, gradients, strict=True))


def output_gradients(
    model: nn.Module, layers: Mapping[str, Sequence[nn.Module]], images: Tensor, labels: Tensor
) -> dict[str, list[Call]]:
    """Every call of the layers, with the gradient of the images' summed loss at its output. One backward pass.

    As the losses are summed, image n's slice of it is the gradient of image n's loss.

    Args:
      model: the network.
      layers: name -> layers to record.
      images: (N, C, ...).
      labels: (N,).

    Returns:
      Name -> calls.
    """
    calls: dict[str, list[Call]] = {name: [] for name in layers}
    leaves: list[Tensor] = []

    def note(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if not y.requires_grad:  # first recorded layer on its path: no gradients are require_batches before it
            leaves.append(y.detach().requires_grad_())
            y = leaves[-1].clone()  # autograd forbids in-place changes of a leaf
        # A tensor hook gets the gradient at its present value, even if an in-place ReLU overwrites it next.
        y.register_hook(lambda gradient: calls[name].append((layer, x.detach(), gradient)))
        return y

    with evaluating(model), torch.enable_grad(), watching(layers, note):
        loss = F.cross_entropy(functional_call(model, _all_detached(model), (images,)), labels, reduction="sum")
        if loss.requires_grad:
            torch.autograd.grad(loss, leaves, allow_unused=True)
    return calls


def image_gradients(calls: Sequence[Call], filters: slice = slice(None)) -> Iterator[Tensor]:
    """Per-image gradients of a weight, summed over its calls: (N, groups, filters of a group, weights of a filter).

    Yields as many images at a time as CHUNK allows. filters: selects filters of each group.
    """
    for layer, x, grad in calls[:1]:
        inputs, outputs = columns(layer, x[:1]), rows(layer, grad[:1])[:, :, filters]
        size = max(1, CHUNK // max(inputs.numel(), outputs.shape[2] * inputs[..., 0].numel()))
        for start in range(0, len(x), size):
            chunk = slice(start, start + size)
            parts = [
                rows(layer, grad[chunk])[:, :, filters] @ columns(layer, x[chunk]).transpose(2, 3)
                for layer, x, grad in calls
            ]
            yield sum(parts[1:], parts[0])


def _squared_gradients(calls: Sequence[Call]) -> Iterator[Tensor]:
    """Squared per-image gradients, (groups, filters, weights), each summed over a chunk of images."""
    if len(calls) == 1 and columns(calls[0][0], calls[0][1][:1]).shape[-1] == 1:
        for layer, x, grad in calls:  # one position: the gradient is an outer product, so square its factors
            squares = rows(layer, grad)[..., 0].square(), columns(layer, x)[..., 0].square()
            yield torch.einsum("ngo,ngd->god", *squares)
        return
    for gradients in image_gradients(calls):
        yield gradients.square_().sum(0)


def _gate_layers(graph: Graph, model: nn.Module, plan: Plan | None) -> dict[str, list[nn.Module]]:
    """The modules to gate for each layer with cuttable output channels: the layer, or the batch norm after it."""
    norms = norms_behind(model)
    made = [path for (path, side), units in units_left(graph, plan).items() if side == "out" and (units >= 0).any()]
    layers = dict(model.named_modules())
    for path in made:
        if isinstance(layers.get(path.removesuffix(".out_proj")), nn.MultiheadAttention):
            raise ValueError(f"this criterion can't value the channels of {path!r}: protect it, or choose another one")
    made = [norms.get(path, path) for path in made if makes_channels(layers.get(path))]
    return {path: [layers[path]] for path in made}


def _concatenated(sums: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {path: torch.cat([one[path] for one in sums]) for path in sums[0]}


def _detached(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in prunable(model).items()}


def _all_detached(model: nn.Module) -> dict[str, Tensor]:
    """All parameters as constants, so that autograd stores nothing for gradients that are not requested."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
