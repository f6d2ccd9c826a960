"""What each operation does to channels: one function per kind of operation, and the tables that name them.

A rule (variables, node, value) -> ids says which channel variables the node's value carries, given those of its inputs;
None: it can't say, and the operation is opaque. They lie on axis 1, unless a rule of ANY_AXIS notes another in
`variables.axis`; the other rules are not asked about such tensors. `channels.tracing` calls them.
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
# Names of torch's functions and of tensor methods; an in-place form (relu_, iadd) goes by its plain name.
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
    """The rule for a node, which calls `layer` if it calls a module; None if there is none."""
    if layer is not None:
        return LAYER_RULES.get(type(layer))
    module = "torch" if isinstance(node.target, str) else getattr(node.target, "__module__", None) or ""
    return RULES.get(operation(node)) if module.split(".")[0] in ("torch", "torchvision", "_operator") else None


def _conv(t: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    layer, (_, ids) = t.layers[str(node.target)], _source(t, node)
    if ids is None or value.ndim != layer.weight.ndim:
        return None  # not a batch
    # A transposed convolution uses its weights at every place of what it reads.
    used = t.env[node.all_input_nodes[0]] if isinstance(layer, TRANSPOSED) else value
    if layer.groups == 1:
        return t.note_layer(node, ids, t.outputs(node, layer.out_channels), used)
    # Input and output channels of one convolution group go together, the whole group at once.
    first = ids.reshape(layer.groups, -1)[:, 0]
    t.classes.unite(ids, first.repeat(layer.in_channels // layer.groups))
    return t.note_layer(node, ids, first.repeat(layer.out_channels // layer.groups), used)


def _linear(t: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    _, ids = _source(t, node)
    if ids is None or not 0 < _axis(t, node) == value.ndim - 1:
        return None  # its features are not the channels
    t.axis[node] = value.ndim - 1
    return t.note_layer(node, ids, t.outputs(node, value.shape[-1]), value)


def _norm(t: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    _, ids = _source(t, node)
    return None if ids is None else t.note_layer(node, None, ids, value)


def _group_norm(t: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """Its groups stay equal, and as many, if what is cut from one is cut from all: those of one channel are not cut."""
    _, ids = _source(t, node)
    if ids is not None:
        _unite_parts(t, ids, t.layers[str(node.target)].num_groups)
    return _norm(t, node, value)


def _layer_norm(t: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    layer = t.layers[str(node.target)]
    first = 1 if isinstance(layer, LayerNorm2d) else value.ndim - len(layer.normalized_shape)
    if _axis(t, node) != first:
        return None  # the channels are not what it has a weight for
    t.axis[node] = first
    return _norm(t, node, value)


def _pointwise(t: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    """The operands' channels pairwise; an operand of one channel that meets many is never cut."""
    operands = [source for source in node.all_input_nodes if _tensor(t.env[source])]
    known = [source for source in operands if t.ids[source] is not None]
    if not known or not isinstance(value, Tensor):
        return None
    axes = {source: t.axis[source] - t.env[source].ndim for source in known}  # as broadcasting counts them
    axis = axes[max(known, key=lambda source: (t.env[source].ndim, source.op != "get_attr"))]
    same = []
    for source in operands:
        channels = t.env[source].shape[axis] if t.env[source].ndim >= -axis else 1
        if channels == value.shape[axis] and axes.get(source) == axis:
            same.append(t.ids[source])
        elif channels > 1:
            return None
        elif source in axes:
            t.fixed.append(t.ids[source])
    for ids in same[1:]:
        t.classes.unite(ids, same[0])
    t.axis[node] = value.ndim + axis
    return same[0] if same else None


def _permute(t: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    before, ids = _source(t, node)
    dims = _argument(node, 1, "dims")
    dims = node.args[1:] if isinstance(dims, int) else dims
    order = [dim % before.ndim for dim in dims]
    t.axis[node] = order.index(_axis(t, node))
    return ids if order[0] == 0 and t.axis[node] else None  # the images stay in front


def _prelu(t: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    return _pointwise(t, node, value) if t.layers[str(node.target)].num_parameters == 1 else None


def _spatial(t: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    before, ids = _source(t, node)
    name = type(t.layers[str(node.target)]).__name__ if node.op == "call_module" else operation(node)
    if name[-2:] in ("1d", "2d", "3d") and before.ndim != int(name[-2]) + 2:
        return None  # not a batch: channels would be taken for rows
    if name == "pad" and len(_argument(node, 1, "pad")) > 2 * before.ndim - 4:
        return None  # of the channels too
    return ids if isinstance(value, Tensor) and value.ndim == before.ndim else None


def _reduction(t: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    before, ids = _source(t, node)
    dims = _argument(node, 1, "dim", "axis")
    dims = [dims] if isinstance(dims, int) else dims
    if not dims or not all(isinstance(dim, int) for dim in dims) or {dim % before.ndim for dim in dims} & {0, 1}:
        return None
    return ids


def _reshape(t: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    """Axes 1 .. k merged into axis 1: there each channel stands once per place of axes 2 .. k."""
    before, ids = _source(t, node)
    if ids is None or not isinstance(value, Tensor) or value.ndim < 2 or value.shape[0] != before.shape[0]:
        return None
    repeats = [math.prod(before.shape[2:k]) for k in range(2, before.ndim + 1)]
    repeat = next((n for n in repeats if len(ids) * n == value.shape[1]), None)
    if repeat is None:
        return None
    sizes: Any = node.args[1:] if operation(node) in ("view", "reshape") else ()
    sizes = sizes[0] if sizes and isinstance(sizes[0], (tuple, list)) else sizes
    if len(sizes) > 1 and isinstance(sizes[1], int) and sizes[1] != -1:
        t.demand(node, f"fixes the number of channels at {sizes[1]} (write -1 or torch.flatten(x, 1))", ids)
    return ids.repeat(repeat)


def _cat(t: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    parts, dim = _argument(node, 0, "tensors"), _argument(node, 1, "dim", "axis", default=0)
    values, arrays = fx.map_arg(parts, lambda part: t.env[part]), fx.map_arg(parts, lambda part: t.ids[part])
    if not isinstance(dim, int):
        return None
    if dim % value.ndim == 1:
        # A constant's channels are never cut.
        return np.concatenate([t.never_cut(v) if a is None else a for v, a in zip(values, arrays, strict=True)])
    if any(ids is None for ids in arrays):
        return None
    for ids in arrays:
        t.classes.unite(ids, arrays[0])
    return arrays[0]


def _chunk(t: ChannelVariables, node: fx.Node, value: Sequence[Tensor]) -> list[Ids] | None:
    """Equal parts stay equal, and as many, if what is cut from one is cut from all."""
    before, ids = _source(t, node)
    dim = _argument(node, 2, "dim", default=0)
    if ids is None or not isinstance(dim, int) or dim % before.ndim != 1:
        return None
    if len(value) != _argument(node, 1, "chunks") or len(ids) % len(value):
        return None
    return _unite_parts(t, ids, len(value))


def _getitem(t: ChannelVariables, node: fx.Node, value: Any) -> Any:
    _, ids = _source(t, node)
    index: Any = node.args[1]
    if isinstance(ids, list):
        return ids[index] if isinstance(index, int) else None
    whole = isinstance(index, tuple) and index[:2] == (slice(None), slice(None))
    return ids if whole else None


def _unite_parts(t: ChannelVariables, ids: Ids, count: int) -> list[Ids]:
    """Cut channels into `count` equal parts of which each loses the same places."""
    parts = list(ids.reshape(count, -1))
    for part in parts[1:]:
        t.classes.unite(part, parts[0])
    return parts


def _tensor(value: Any) -> bool:
    """Whether it is a tensor of more than a number."""
    return isinstance(value, Tensor) and value.numel() != 1


def _axis(t: ChannelVariables, node: fx.Node) -> int:
    """The axis of the channels of a node's first input."""
    return t.axis[node.all_input_nodes[0]]


def _source(t: ChannelVariables, node: fx.Node) -> tuple[Any, Any]:
    """The value and the channel variables of a node's first input, given by position or by keyword."""
    first = node.all_input_nodes[0]
    return t.env[first], t.ids[first]


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
