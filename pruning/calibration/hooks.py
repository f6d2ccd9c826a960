"""What layers see on calibration images: eval mode, hooks, inputs as columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.channels.layers import CONVS
from pruning.weights.masks import PRUNABLE_LAYERS, prunable

Batches = Sequence[tuple[Tensor, Tensor]]  # images (N, C, ...) and labels (N,), on the model's device


def require_batches(batches: Batches) -> Batches:
    """Returns the batches; raises ValueError if they hold no images, for criteria that use data."""
    if not sum(len(images) for images, _ in batches):
        raise ValueError("this criterion needs data: batches of images and labels")
    return batches


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context manager: model in eval mode, so that batch norm statistics stay; restores every module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def users(model: nn.Module, names: Sequence[str] | None = None) -> dict[str, list[nn.Module]]:
    """The layers that use each prunable weight, or each of `names`: one, or several that share it.

    Raises ValueError for weights of nn.MultiheadAttention, which multiplies with them itself: hooks don't see what.
    """
    weights = {name: weight for name, weight in prunable(model).items() if names is None or name in names}
    asked = {id(weight) for weight in weights.values()}
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and asked & {id(weight) for weight in module.parameters()}:
            raise ValueError(
                f"this criterion needs the inputs of every layer, and those inside of module {path!r} "
                "(MultiheadAttention) are not seen; criteria of magnitudes and of a batch's gradient do without"
            )
    layers = [module for module in model.modules() if isinstance(module, PRUNABLE_LAYERS)]
    return {name: [layer for layer in layers if layer.weight is weight] for name, weight in weights.items()}


@contextmanager
def removing(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Context manager: removes these hooks at its end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watching(layers: Mapping[str, Sequence[nn.Module]], hook: Any) -> Iterator[None]:
    """Context manager: calls hook(name, layer, input, output) after every call of a layer.

    A result other than None replaces the output.
    """
    handles = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: hook(name, layer, inputs[0], output))
        for name, several in layers.items()
        for layer in several
    ]
    with removing(handles):
        yield


def columns(layer: nn.Module, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """A layer's unfolded input, as columns (N, groups, weights of a filter, positions).

    `weight[i].flatten()` times the columns of its convolution group is filter i's output, less the bias. x: a batch of
    inputs; positions: indices of the output positions to use, default all. Raises ValueError for a layer that is
    neither nn.Conv*d nor nn.Linear, or an input without a batch axis.
    """
    if isinstance(layer, nn.Linear):
        x = x.reshape(len(x), -1, layer.in_features)
        return (x if positions is None else x[:, positions]).transpose(1, 2).unsqueeze(1)
    if not isinstance(layer, CONVS) or x.ndim != layer.weight.ndim:
        raise ValueError(f"only batches into nn.Conv*d and nn.Linear are supported, not {x.ndim} axes into {layer}")
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    space = range(2, x.ndim)
    for axis, size, step, gap in zip(space, layer.kernel_size, layer.stride, layer.dilation, strict=True):
        x = x.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]  # a view, no copy
    if positions is not None:
        index: Any = torch.unravel_index(positions, x.shape[2 : space.stop])
        x = x[:, :, *index]
        space = range(2, 3)
    places = math.prod(x.shape[axis] for axis in space)
    kernel = range(space.stop, x.ndim)
    return x.permute(0, 1, *kernel, *space).reshape(len(x), layer.groups, -1, places)


def rows(layer: nn.Module, y: Tensor) -> Tensor:
    """A layer's output, or its gradient, as (N, groups, filters of a group, positions), matching `columns`."""
    if isinstance(layer, nn.Linear):
        return y.reshape(len(y), -1, layer.out_features).transpose(1, 2).unsqueeze(1)
    groups: Any = layer.groups
    return y.reshape(len(y), groups, y.shape[1] // groups, -1)


def as_matrices(layer: nn.Module, weight: Tensor) -> Tensor:
    """A layer's weight, or a tensor of its shape, as (groups, filters of a group, weights of a filter)."""
    groups: Any = getattr(layer, "groups", 1)
    return weight.reshape(groups, len(weight) // groups, -1)


def exact(tensor: Tensor) -> torch.dtype:
    """The dtype for computing a tensor's scores: its own, at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)
