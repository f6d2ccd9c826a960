"""Rules of operations that act on each channel separately: activations, sums and products, pooling, reductions."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from pruning.channels.rules.variables import ChannelVariables, Ids, argument, operation


def pointwise(variables: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    """Unites the operands' channels pairwise; a single channel that is broadcast over many is never cut."""
    operands = [source for source in node.all_input_nodes if _is_nonscalar_tensor(variables.env[source])]
    known = [source for source in operands if variables.ids[source] is not None]
    if not known or not isinstance(value, Tensor) or value.ndim < max(variables.env[one].ndim for one in known):
        return None  # such as max(), a number of all channels
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


def prelu(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """As `pointwise`, with one slope for all channels."""
    return pointwise(variables, node, value) if variables.layers[str(node.target)].num_parameters == 1 else None


def spatial(variables: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    """Pooling and resizing of a batch of maps."""
    before, ids = variables.first_input(node)
    name = type(variables.layers[str(node.target)]).__name__ if node.op == "call_module" else operation(node)
    if name[-2:] in ("1d", "2d", "3d") and before.ndim != int(name[-2]) + 2:
        return None  # not a batch: axis 1 holds rows, not channels
    return ids if isinstance(value, Tensor) and value.ndim == before.ndim else None


def reduction(variables: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    """Means and the like, over any axes but the batch and the channels."""
    before, ids = variables.first_input(node)
    dims = argument(node, 1, "dim", "axis")
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(value, Tensor) or not dims or not all(isinstance(dim, int) for dim in dims):
        return None
    axis, gone = variables.input_axis(node), {dim % before.ndim for dim in dims}
    variables.axis[node] = axis if value.ndim == before.ndim else axis - sum(dim < axis for dim in gone)
    return None if gone & {0, axis} else ids


def _is_nonscalar_tensor(value: Any) -> bool:
    """Whether it is a tensor with more than one element."""
    return isinstance(value, Tensor) and value.numel() != 1
