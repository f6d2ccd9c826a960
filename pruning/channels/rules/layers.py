"""Rules of the layers that plans list: convolutions, linear layers and norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torchvision.models.convnext import LayerNorm2d

from pruning.channels.layers import TRANSPOSED
from pruning.channels.rules.variables import ChannelVariables, Ids


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
