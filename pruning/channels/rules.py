"""How each operation maps channels: one function per kind of operation, and tables of the operations by name.

A rule (variables, node, value) -> ids returns the channel variables of the node's value, given those of its inputs;
None makes the operation opaque. Channels are on axis 1, unless a rule in ANY_AXIS records another axis in
`variables.axis`; the other rules are not called for such tensors. `channels.tracing` calls the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torchvision.models.convnext import LayerNorm2d

from pruning.channels.layers import CONVS, LAYER_NORMS, NORMS, TRANSPOSED
from pruning.channels.variables import ChannelVariables, Ids

POINTWISE_LAYERS = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardshrink),
)
SPATIAL_LAYERS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad2d, nn.ReplicationPad2d),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
)
# Names of torch's functions and tensor methods; in-place forms (relu_, iadd) map to the plain name.
POINTWISE = (
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish"),
    *("sigmoid", "logsigmoid", "tanh", "softplus", "softsign", "hardshrink", "hardtanh", "hardsigmoid"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "stochastic_depth"),
    *("add", "sub", "mul", "truediv", "div", "neg", "abs", "pow", "square", "sqrt", "exp"),
    *("clamp", "clamp_min", "maximum", "minimum", "max", "min", "expand_as"),
    *("contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16"),
)
SPATIAL = (
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("interpolate", "pad"),
)
IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv"}


def operation(node: fx.Node) -> str:
    """The plain name of a function or method node: `relu` for F.relu, torch.relu_ and Tensor.relu_ alike."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return IN_PLACE.get(name, name.rstrip("_"))


def rule_of(node: fx.Node, layer: nn.Module | None) -> Callable[[ChannelVariables, fx.Node, Any], Any] | None:
    """The rule for a node, or None; layer: the module it calls, None for a function or method."""
    if layer is not None:
        return LAYER_RULES.get(type(layer))
    module = "torch" if isinstance(node.target, str) else getattr(node.target, "__module__", None) or ""
    return RULES.get(operation(node)) if module.split(".")[0] in ("torch", "torchvision", "_operator") else None


def _conv(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    layer, (_, ids) = variables.layers[str(node.target)], _first_input(variables, node)
    if ids is None or value.ndim != layer.weight.ndim:
        return None  # not a batch
    # A transposed convolution uses its weights at every position of its input.
    used = variables.env[node.all_input_nodes[0]] if isinstance(layer, TRANSPOSED) else value
    if layer.groups == 1:
        return variables.note_layer(node, ids, variables.outputs(node, layer.out_channels), used)
    # Input and output channels of a convolution group are removed together, the whole group at once.
    first = ids.reshape(layer.groups, -1)[:, 0]
    variables.classes.unite(ids, first.repeat(layer.in_channels // layer.groups))
    return variables.note_layer(node, ids, first.repeat(layer.out_channels // layer.groups), used)


def _linear(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    _, ids = _first_input(variables, node)
    if ids is None or not 0 < _input_axis(variables, node) == value.ndim - 1:
        return None  # its features are not the channels
    variables.axis[node] = value.ndim - 1
    return variables.note_layer(node, ids, variables.outputs(node, value.shape[-1]), value)


def _norm(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    _, ids = _first_input(variables, node)
    return None if ids is None else variables.note_layer(node, None, ids, value)


def _group_norm(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """Cuts the same channels from every norm group, so that groups stay equal; groups of one channel are not cut."""
    _, ids = _first_input(variables, node)
    if ids is not None:
        _unite_parts(variables, ids, variables.layers[str(node.target)].num_groups)
    return _norm(variables, node, value)


def _layer_norm(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    layer = variables.layers[str(node.target)]
    first = 1 if isinstance(layer, LayerNorm2d) else value.ndim - len(layer.normalized_shape)
    if _input_axis(variables, node) != first:
        return None  # it normalises other axes than the channels
    variables.axis[node] = first
    return _norm(variables, node, value)


def _pointwise(variables: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    """Unites the operands' channels pairwise; a single channel that is broadcast over many is never cut."""
    operands = [source for source in node.all_input_nodes if _is_nonscalar_tensor(variables.env[source])]
    known = [source for source in operands if variables.ids[source] is not None]
    if not known or not isinstance(value, Tensor):
        return None
    # Negative, as in broadcasting.
    axes = {source: variables.axis[source] - variables.env[source].ndim for source in known}
    axis = axes[max(known, key=lambda source: (variables.env[source].ndim, source.op != "get_attr"))]
    same = []
    for source in operands:
        channels = variables.env[source].shape[axis] if variables.env[source].ndim >= -axis else 1
        if channels == value.shape[axis] and axes.get(source) == axis:
            same.append(variables.ids[source])
        elif channels > 1:
            return None
        elif source in axes:
            variables.fixed.append(variables.ids[source])
    for ids in same[1:]:
        variables.classes.unite(ids, same[0])
    variables.axis[node] = value.ndim + axis
    return same[0] if same else None


def _permute(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    before, ids = _first_input(variables, node)
    dims = _argument(node, 1, "dims")
    dims = node.args[1:] if isinstance(dims, int) else dims
    order = [dim % before.ndim for dim in dims]
    variables.axis[node] = order.index(_input_axis(variables, node))
    return ids if order[0] == 0 and variables.axis[node] else None  # the batch axis must stay first


def _prelu(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    return _pointwise(variables, node, value) if variables.layers[str(node.target)].num_parameters == 1 else None


def _spatial(variables: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    before, ids = _first_input(variables, node)
    name = type(variables.layers[str(node.target)]).__name__ if node.op == "call_module" else operation(node)
    if name[-2:] in ("1d", "2d", "3d") and before.ndim != int(name[-2]) + 2:
        return None  # not a batch: axis 1 holds rows, not channels
    if name == "pad" and len(_argument(node, 1, "pad")) > 2 * before.ndim - 4:
        return None  # pads the channel axis too
    return ids if isinstance(value, Tensor) and value.ndim == before.ndim else None


def _reduction(variables: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    before, ids = _first_input(variables, node)
    dims = _argument(node, 1, "dim", "axis")
    dims = [dims] if isinstance(dims, int) else dims
    if not dims or not all(isinstance(dim, int) for dim in dims):
        return None
    kept: Ids | None = None if {dim % before.ndim for dim in dims} & {0, 1} else ids
    return kept


def _reshape(variables: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    """Merges axes 1 .. k into axis 1: each channel is repeated once per position of axes 2 .. k."""
    before, ids = _first_input(variables, node)
    if ids is None or not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] != before.shape[0]:
        return None
    repeats = [math.prod(before.shape[2:k]) for k in range(2, before.ndim + 1)]
    repeat = next((n for n in repeats if len(ids) * n == value.shape[1]), None)
    if repeat is None:
        return None
    sizes: Any = node.args[1:] if operation(node) in ("view", "reshape") else ()
    sizes = sizes[0] if sizes and isinstance(sizes[0], (tuple, list)) else sizes
    if len(sizes) > 1 and isinstance(sizes[1], int) and sizes[1] != -1:
        variables.demand(node, f"fixes the number of channels at {sizes[1]} (write -1 or torch.flatten(x, 1))", ids)
    return np.repeat(ids, repeat)


def _cat(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    parts, dim = _argument(node, 0, "tensors"), _argument(node, 1, "dim", "axis", default=0)
    values, arrays = (
        fx.map_arg(parts, lambda part: variables.env[part]),
        fx.map_arg(parts, lambda part: variables.ids[part]),
    )
    if not isinstance(dim, int):
        return None
    if dim % value.ndim == 1:
        # A constant's channels are never cut.
        return np.concatenate([variables.never_cut(v) if a is None else a for v, a in zip(values, arrays, strict=True)])
    if any(ids is None for ids in arrays):
        return None
    first: Ids = arrays[0]
    for ids in arrays:
        variables.classes.unite(ids, first)
    return first


def _chunk(variables: ChannelVariables, node: fx.Node, value: Sequence[Tensor]) -> list[Ids] | None:
    """Cuts the same channels from every chunk, so that chunks stay equal."""
    before, ids = _first_input(variables, node)
    dim = _argument(node, 2, "dim", default=0)
    if ids is None or not isinstance(dim, int) or dim % before.ndim != 1:
        return None
    if len(value) != _argument(node, 1, "chunks") or len(ids) % len(value):
        return None
    return _unite_parts(variables, ids, len(value))


def _getitem(variables: ChannelVariables, node: fx.Node, value: Any) -> Any:
    _, ids = _first_input(variables, node)
    index: Any = node.args[1]
    if isinstance(ids, list):
        return ids[index] if isinstance(index, int) else None
    whole = isinstance(index, tuple) and index[:2] == (slice(None), slice(None))
    return ids if whole else None


def _unite_parts(variables: ChannelVariables, ids: Ids, count: int) -> list[Ids]:
    """Splits channels into `count` equal parts and unites them, so that all lose the same places."""
    parts = list(ids.reshape(count, -1))
    for part in parts[1:]:
        variables.classes.unite(part, parts[0])
    return parts


def _is_nonscalar_tensor(value: Any) -> bool:
    """Whether it is a tensor with more than one element."""
    return isinstance(value, Tensor) and value.numel() != 1


def _input_axis(variables: ChannelVariables, node: fx.Node) -> int:
    """The channel axis of a node's first input."""
    return variables.axis[node.all_input_nodes[0]]


def _first_input(variables: ChannelVariables, node: fx.Node) -> tuple[Any, Any]:
    """The value and the channel variables of a node's first input, passed by position or by keyword."""
    first = node.all_input_nodes[0]
    return variables.env[first], variables.ids[first]


def _argument(node: fx.Node, position: int, *names: str, default: Any = None) -> Any:
    if len(node.args) > position:
        return node.args[position]
    return next((node.kwargs[name] for name in names if name in node.kwargs), default)


RULES: dict[str, Callable[[ChannelVariables, fx.Node, Any], Any]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(SPATIAL, _spatial),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduction),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), _reshape),
    "cat": _cat,
    "chunk": _chunk,
    "getitem": _getitem,
    "permute": _permute,
}
LAYER_RULES: dict[type, Callable[[ChannelVariables, fx.Node, Any], Any]] = {
    **dict.fromkeys(CONVS, _conv),
    **dict.fromkeys(TRANSPOSED, _conv),
    **dict.fromkeys(NORMS, _norm),
    **dict.fromkeys(LAYER_NORMS, _layer_norm),
    **dict.fromkeys(POINTWISE_LAYERS, _pointwise),
    **dict.fromkeys(SPATIAL_LAYERS, _spatial),
    nn.Flatten: _reshape,
    nn.GroupNorm: _group_norm,
    nn.Linear: _linear,
    nn.PReLU: _prelu,
}
ANY_AXIS = (_pointwise, _linear, _layer_norm, _permute)
