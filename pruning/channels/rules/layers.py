"""Rules of the layers that plans list: convolutions, linear layers and norms."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, fx
from torchvision.models.convnext import LayerNorm2d

from pruning.channels.layers import TRANSPOSED
from pruning.channels.rules.variables import BATCH, ChannelVariables, Ids, argument, operation


def conv(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """New channels; the input and output channels of a convolution group are united, to be removed at once."""
    layer, (before, ids) = variables.layers[str(node.target)], variables.first_input(node)
    if ids is None or value.ndim != layer.weight.ndim:
        return None  # not a batch
    # A transposed convolution uses its weights at every position of its input.
    used = before if isinstance(layer, TRANSPOSED) else value
    if layer.groups == 1:
        return variables.note_layer(node, ids, variables.outputs(node, layer.out_channels), used)
    first = ids.reshape(layer.groups, -1)[:, 0]
    variables.classes.unite(ids, first.repeat(layer.in_channels // layer.groups))
    return variables.note_layer(node, ids, first.repeat(layer.out_channels // layer.groups), used)


def linear(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """New channels along the last axis."""
    _, ids = variables.first_input(node)
    if ids is None or not 0 < variables.input_axis(node) == value.ndim - 1:
        return None  # its features are not the channels
    variables.axis[node] = value.ndim - 1
    return variables.note_layer(node, ids, variables.outputs(node, value.shape[-1]), value)


def norm(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """The channels of its input."""
    _, ids = variables.first_input(node)
    return None if ids is None else variables.note_layer(node, None, ids, value)


def group_norm(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """Cuts the same channels from every norm group, so that groups stay equal; groups of one channel are not cut."""
    _, ids = variables.first_input(node)
    if ids is not None:
        variables.unite_parts(ids, variables.layers[str(node.target)].num_groups)
    return norm(variables, node, value)


def layer_norm(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """The channels of its input, if they are on the first axis that it normalises."""
    layer: Any = variables.layers[str(node.target)]
    first = 1 if isinstance(layer, LayerNorm2d) else value.ndim - len(layer.normalized_shape)
    if variables.input_axis(node) != first:
        return None  # it normalises other axes than the channels
    variables.axis[node] = first
    return norm(variables, node, value)


def attention(variables: ChannelVariables, node: fx.Node, value: Any) -> Any:
    """New channels. A head is removed with its queries, keys and values; the features that they are made of are united.

    Only for batches of as many queries as keys, without masks, and whose attention weights are not used.
    """
    path = str(node.target)
    layer: Any = variables.layers[path]
    sources: Any = [argument(node, place, name) for place, name in enumerate(("query", "key", "value"))]
    inputs, arrays = [variables.env[source] for source in sources], [variables.ids[source] for source in sources]
    plain = layer.in_proj_weight is not None and layer.bias_k is None and not layer.add_zero_attn
    used = [user for user in node.users if user.users or user.op == "output"]
    if not plain or any(operation(user) != "getitem" or user.args[1] != 0 for user in used):
        return None
    axis = variables.axis[node] = 2
    alike = all(x.ndim == 3 and x.shape == inputs[0].shape for x in inputs) and {*node.all_input_nodes} == {*sources}
    if not alike or any(ids is None or variables.axis[s] != axis for s, ids in zip(sources, arrays, strict=True)):
        return None
    for ids in arrays[1:]:
        variables.classes.unite(ids, arrays[0])
    known, count = variables.products.get(path), layer.num_heads
    heads = variables.classes.new(count) if known is None else known[0]
    tokens = inputs[0].shape[1 if layer.batch_first else 0]
    images = inputs[0].shape[0 if layer.batch_first else 1]
    macs = 2 * tokens**2 * layer.head_dim * images // BATCH
    variables.products[path] = heads, macs + (0 if known is None else known[1])
    inner = heads.repeat(layer.head_dim)
    variables.note_layer(node, arrays[0], np.tile(inner, 3), inputs[0])
    after = variables.axes.get((f"{path}.out_proj", "out"))
    made = variables.classes.new(layer.out_proj.out_features) if after is None else after
    variables.unite_calls(f"{path}.out_proj", inner, made)
    variables.positions[f"{path}.out_proj"] = variables.positions[path]
    return [made, variables.never_cut(value[1])]
