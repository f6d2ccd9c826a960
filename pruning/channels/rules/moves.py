"""Rules of operations that move channels: reshaping, permuting, taking apart, putting together, padding with zeros.

Sizes written into such a call stay as they are when channels are cut, while sizes computed from a tensor's shape follow
it. So what a number in the code counts is never cut, and what a computed size counts is cut in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, fx

from pruning.channels.rules.variables import ChannelVariables, Ids, argument, operation, scope


def reshape(variables: ChannelVariables, node: fx.Node, value: Any) -> Ids | None:
    """Merges and splits axes. Of axes that channels are split into, one carries them; along the others all are united.

    That one is an axis whose size is not written as a number, such as the last in view(n, groups, c // groups, h, w).
    """
    before, ids = variables.first_input(node)
    block = _block(before.shape, value.shape, variables.input_axis(node)) if isinstance(value, Tensor) else None
    if ids is None or isinstance(ids, list) or block is None:
        return None
    (left, axis, right), (start, stop) = block
    sizes = _sizes(variables, node, value.ndim)
    if len(sizes) != value.ndim:
        return None  # a view of another type
    grid = ids.reshape(1, -1, 1).repeat(left, 0).repeat(right, 2).reshape(value.shape[start:stop])
    carrier = _carrier(variables, grid, sizes[start:stop])
    if carrier is None:
        return None
    found: Ids = np.moveaxis(grid, carrier, 0).reshape(grid.shape[carrier], -1)
    for other in found.T[1:]:
        variables.classes.unite(other, found[:, 0])
    variables.axis[node] = start + carrier
    written = sizes[start + carrier]
    if isinstance(written, int) and written != -1 and isinstance(sizes[0], int) and sizes[0] == -1:
        # Images would be made of what is missing in channels.
        variables.demand(node, f"fixes the number of channels at {written} (write -1 or torch.flatten(x, 1))", ids)
        return found[:, 0]
    for place, size in enumerate(sizes):
        _keep_size(variables, size, found[:, 0] if place == start + carrier else None)
    return found[:, 0]


def expand(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """Repeats along axes of size 1, and adds leading axes."""
    before, ids = variables.first_input(node)
    if ids is None:
        return None
    variables.axis[node] = variables.input_axis(node) + value.ndim - before.ndim
    for place, size in enumerate(_sizes(variables, node, value.ndim)):
        _keep_size(variables, size, ids if place == variables.axis[node] else None)
    return ids if value.shape[variables.axis[node]] == len(ids) else None


def permute(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """Any order of the axes."""
    before, ids = variables.first_input(node)
    dims = argument(node, 1, "dims")
    order = [dim % before.ndim for dim in (node.args[1:] if isinstance(dims, int) else dims)]
    variables.axis[node] = order.index(variables.input_axis(node))
    return None if ids is None else ids


def transpose(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """Two axes exchanged."""
    before, ids = variables.first_input(node)
    a = argument(node, 1, "dim0", "axis0") % before.ndim
    b = argument(node, 2, "dim1", "axis1") % before.ndim
    axis = variables.input_axis(node)
    variables.axis[node] = {a: b, b: a}.get(axis, axis)
    return None if ids is None else ids


def cat(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """Along the channels it appends them; along another axis it unites them."""
    parts, dim = argument(node, 0, "tensors"), argument(node, 1, "dim", "axis", default=0)
    values, arrays = (fx.map_arg(parts, held.__getitem__) for held in (variables.env, variables.ids))
    axes = {variables.axis[part] for part in node.all_input_nodes if variables.ids[part] is not None}
    if not isinstance(dim, int) or not isinstance(arrays, (tuple, list)) or len(axes) != 1:
        return None
    axis = variables.axis[node] = axes.pop()
    if dim % value.ndim == axis:
        # A constant's channels are never cut.
        filled = (variables.never_cut(v, axis) if a is None else a for v, a in zip(values, arrays, strict=True))
        return np.concatenate([*filled])
    if any(ids is None for ids in arrays):
        return None
    first: Ids = arrays[0]
    for ids in arrays:
        variables.classes.unite(ids, first)
    return first


def take_apart(variables: ChannelVariables, node: fx.Node, value: Sequence[Tensor]) -> list[Ids] | None:
    """`chunk` and `split`: parts along the channels, or along another axis, where each has all channels."""
    before, ids = variables.first_input(node)
    dim = argument(node, 2, "dim", default=0)
    if ids is None or not isinstance(dim, int):
        return None
    axis = variables.axis[node] = variables.input_axis(node)
    if dim % before.ndim != axis:
        return [ids] * len(value)
    return (_chunks if operation(node) == "chunk" else _split)(variables, node, value, ids)


def _chunks(variables: ChannelVariables, node: fx.Node, value: Sequence[Tensor], ids: Ids) -> list[Ids] | None:
    """Cuts the same channels from every chunk, so that chunks stay equal."""
    if len(value) != argument(node, 1, "chunks") or len(ids) % len(value):
        return None
    return variables.unite_parts(ids, len(value))


def _split(variables: ChannelVariables, node: fx.Node, value: Sequence[Tensor], ids: Ids) -> list[Ids]:
    """Parts of a given size; those of a size computed from the channels are cut as chunks are, others not at all."""
    axis = variables.axis[node]
    parts = np.split(ids, np.cumsum([part.shape[axis] for part in value])[:-1])
    given = argument(node, 1, "split_size_or_sections", "split_size")
    if isinstance(given, fx.Node) and len({len(part) for part in parts}) == 1:
        variables.unite_parts(ids, len(parts))
    for part, size in zip(parts, given if isinstance(given, (tuple, list)) else [given] * len(parts), strict=True):
        _keep_size(variables, _counted(variables, size), part)
    return list(parts)


def unbind(variables: ChannelVariables, node: fx.Node, value: Sequence[Tensor]) -> list[Ids] | None:
    """The slices along another axis than that of the channels."""
    before, ids = variables.first_input(node)
    dim, axis = argument(node, 1, "dim", default=0), variables.input_axis(node)
    if ids is None or not isinstance(dim, int) or dim % before.ndim == axis:
        return None
    variables.axis[node] = axis - (dim % before.ndim < axis)
    return [ids] * len(value)


def getitem(variables: ChannelVariables, node: fx.Node, value: Any) -> Any:
    """A part of a list, or a slice; of sliced channels those up to the numbers in the code are never cut."""
    before, ids = variables.first_input(node)
    index: Any = node.args[1]
    if isinstance(ids, list):
        variables.axis[node] = variables.input_axis(node)
        return ids[index] if isinstance(index, (int, slice)) else None
    index = list(index) if isinstance(index, tuple) else [index]
    if ids is None or not isinstance(value, Tensor) or not all(_is_plain(i) for i in index):
        return None
    if Ellipsis in index:
        place = index.index(Ellipsis)
        index[place : place + 1] = [slice(None)] * (before.ndim - sum(i is not None for i in index) + 1)
    place = -1  # the axis of `before` that an entry of the index is for
    axis = variables.input_axis(node)
    out = axis + index.count(None)
    for entry in index:
        place += entry is not None
        if place < axis and isinstance(entry, int):
            out -= 1
        if place == axis and entry is not None:
            if isinstance(entry, int):
                return None
            ids = _sliced(variables, ids, entry)
        if place >= axis and entry is None:
            out -= 1
    variables.axis[node] = out
    return ids


def pad(variables: ChannelVariables, node: fx.Node, value: Tensor) -> Ids | None:
    """Puts zeros beside the channels. They are cut with what they are added to, or not at all in the model itself."""
    before, ids = variables.first_input(node)
    amounts = argument(node, 1, "pad")
    if ids is None or isinstance(ids, list) or not all(isinstance(amount, int) for amount in amounts):
        return None
    axis = variables.axis[node] = variables.input_axis(node)
    place = 2 * (before.ndim - 1 - axis)
    start, end = (*amounts, *[0] * 2 * before.ndim)[place : place + 2]
    if start == end == 0:
        return np.asarray(ids)
    if min(start, end) < 0 or argument(node, 2, "mode", default="constant") != "constant" or argument(node, 3, "value"):
        return None
    zeros = variables.classes.new(start + end)
    found = np.concatenate([zeros[:start], ids, zeros[start:]])
    path = scope(node)
    inside = [other for other in node.graph.nodes if f"{scope(other)}.".startswith(f"{path}.")]
    alike = [other for other in inside if operation(other) == "pad" and argument(other, 1, "pad") == amounts]
    if not path or len(alike) > 1 or path in variables.pads or min(amounts) < 0:
        variables.fixed.append(zeros)
    else:
        variables.pads[path] = {"pad": [*amounts], "pad_axis": axis - before.ndim}
        variables.axes[path, "in"], variables.axes[path, "out"] = ids, found
    return found


def _block(
    before: Sequence[int], after: Sequence[int], axis: int
) -> tuple[tuple[int, int, int], tuple[int, int]] | None:
    """The fewest axes that hold the same elements before and after, and `axis` before.

    Returns the number of elements before, on and after `axis` among them; and the first and the end of the axes after.
    None if there are no such axes.
    """
    i = j = 0
    while i < len(before) and j < len(after):
        first, start = i, j
        a, b = before[i], after[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b and i < len(before):
                a, i = a * before[i], i + 1
            elif b < a and j < len(after):
                b, j = b * after[j], j + 1
            else:
                return None
        if first <= axis < i:
            left, right = math.prod(before[first:axis]), math.prod(before[axis + 1 : i])
            return (left, before[axis], right), (start, j)
    return None


def _carrier(variables: ChannelVariables, grid: Ids, sizes: Sequence[Any]) -> int | None:
    """The axis of a grid of channel variables that carries them; None if that is open.

    If all axes along which they differ have sizes written as numbers, all are fixed.
    """
    roots = variables.classes.roots(grid.ravel()).reshape(grid.shape)
    differ = [axis for axis in range(grid.ndim) if (roots != roots.take([0], axis)).any()]
    if len(differ) > 1:
        free = [axis for axis in differ if not isinstance(sizes[axis], int) or sizes[axis] == -1]
        if not free:
            variables.fixed.append(grid.ravel())
            free = differ[:1]
        differ = free
    if len(differ) > 1:
        return None
    return differ[0] if differ else int(np.argmax(grid.shape))


def _sizes(variables: ChannelVariables, node: fx.Node, ndim: int) -> list[Any]:
    """The size of each axis as a call gives it: a number, -1, or the channel variables that it was computed from."""
    if operation(node) not in ("view", "reshape", "expand") or node.op == "call_module":
        return [-1] * ndim
    sizes: Any = node.args[1:] or [argument(node, 1, "shape", "size")]
    sizes = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    if isinstance(sizes, fx.Node):
        if isinstance(variables.env[sizes], int):
            return [_counted(variables, sizes)]
        counted = variables.numbers.get(sizes)
        return counted if isinstance(counted, list) else [counted] * ndim
    return [_counted(variables, size) for size in sizes]


def _counted(variables: ChannelVariables, size: Any) -> Any:
    return variables.numbers.get(size) if isinstance(size, fx.Node) else size


def _keep_size(variables: ChannelVariables, size: Any, ids: Ids | None) -> None:
    """Fixes what would make a size and the channels on its axis (`ids`; None: no channels) differ after a cut."""
    if isinstance(size, int) and size == -1:
        return
    counted = size if isinstance(size, np.ndarray) else None
    if counted is not None and ids is not None:
        one, other = (np.unique(variables.classes.roots(each), return_counts=True) for each in (counted, ids))
        if np.array_equal(one[0], other[0]) and (one[1] * len(ids) == other[1] * len(counted)).all():
            return
    variables.fixed += [each for each in (counted, ids) if each is not None]


def _is_plain(index: Any) -> bool:
    """Whether an entry of an index is written out: a number, a slice of numbers, None or an ellipsis."""
    if isinstance(index, slice):
        return all(part is None or isinstance(part, int) for part in (index.start, index.stop, index.step))
    return index is None or index is Ellipsis or (isinstance(index, int) and not isinstance(index, bool))


def _sliced(variables: ChannelVariables, ids: Ids, part: slice) -> Ids:
    """The channels of a slice. Numbers in the code go on counting the same places: those that they count are fixed."""
    if part.step not in (None, 1):
        variables.fixed.append(ids)
    for bound in (part.start, part.stop):
        if bound is not None:
            variables.fixed.append(ids[:bound] if bound >= 0 else ids[bound:])
    return ids[part]
