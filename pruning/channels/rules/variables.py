"""Channel variables: one integer per channel of every tensor, in classes that are cut as a whole or not at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, fx

Ids = np.ndarray  # (channels,) int64: the channel variable at each place of the channel axis
IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv"}
BATCH = 2  # images in the traced pass: with 1, the batch axis could be mistaken for another axis of size 1


class Classes:
    """Union-find over channel variables 0 .. n - 1, on whole arrays."""

    def __init__(self) -> None:
        self.parent = np.arange(0)

    def new(self, count: int) -> Ids:
        """`count` new variables, each in its own class."""
        ids = np.arange(len(self.parent), len(self.parent) + count)
        self.parent = np.concatenate([self.parent, ids])
        return ids

    def roots(self, ids: Ids) -> Ids:
        """The smallest variable in each variable's class."""
        found: Ids = self.parent[ids]
        while (found != (parents := self.parent[found])).any():
            found = parents
        self.parent[ids] = found  # path compression
        return found

    def unite(self, a: Ids, b: Ids) -> None:
        """Merges the classes of a[i] and b[i] for every i."""
        a, b = self.roots(a), self.roots(b)
        while (a != b).any():
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))
            a, b = self.roots(a), self.roots(b)


class ChannelVariables:
    """The channel variables of a model, filled in by `rules` while its graph is followed node by node.

    Attributes:
      layers: path -> module.
      env: node -> its value.
      ids: node -> channel variables of its value; a list for several tensors, None without channels.
      axis: node -> the axis of its value that carries the channels.
      axes: (layer, "out" or "in") -> channel variables.
      numbers: node with a number or a shape -> channel variables of the axes whose sizes it was computed from; for a
        shape, a list with an entry per axis.
      pads: module that pads channels with zeros -> the keys of its layer in a plan.
      products: attention -> channel variables of its heads, and the MACs of each head's products of one image.
      positions: layer -> positions of one image at which its weights are used, summed over its calls.
      fixed: variables that are never cut.
      demands: variables that must be among `fixed`, with the node that requires it and the reason.
    """

    env: dict[fx.Node, Any]

    def __init__(self, layers: Mapping[str, Any]) -> None:
        self.layers = layers
        self.classes = Classes()
        self.ids: dict[fx.Node, Any] = {}
        self.axis: defaultdict[fx.Node, int] = defaultdict(lambda: 1)
        self.axes: dict[tuple[str, str], Ids] = {}
        self.numbers: dict[fx.Node, Any] = {}
        self.pads: dict[str, dict[str, Any]] = {}
        self.products: dict[str, tuple[Ids, int]] = {}
        self.positions: Counter[str] = Counter()
        self.fixed: list[Ids] = []
        self.demands: list[tuple[fx.Node, str, Ids]] = []

    def demand(self, node: fx.Node, reason: str, ids: Ids) -> None:
        """Requires these variables to be fixed; otherwise the model is refused once all of it was followed."""
        self.demands.append((node, reason, ids))

    def never_cut(self, value: Any, axis: int = 1) -> Any:
        """New variables that are never cut, for a tensor or each tensor of a list; None for anything else."""
        if isinstance(value, (tuple, list)):
            return [self.never_cut(part, axis) for part in value]
        if not isinstance(value, Tensor) or value.ndim <= axis:
            return None
        self.fixed.append(self.classes.new(value.shape[axis]))
        return self.fixed[-1]

    def unite_parts(self, ids: Ids, count: int) -> list[Ids]:
        """Splits channels into `count` equal parts and unites them, so that all lose the same places."""
        parts = list(ids.reshape(count, -1))
        for part in parts[1:]:
            self.classes.unite(part, parts[0])
        return parts

    def first_input(self, node: fx.Node) -> tuple[Any, Any]:
        """The value and the channel variables of a node's first input, passed by position or by keyword."""
        first = node.all_input_nodes[0]
        return self.env[first], self.ids[first]

    def input_axis(self, node: fx.Node) -> int:
        """The channel axis of a node's first input."""
        return self.axis[node.all_input_nodes[0]]

    def outputs(self, node: fx.Node, count: int) -> Ids:
        """Variables of the channels that a layer produces; those of its first call if it is called again."""
        known = self.axes.get((str(node.target), "out"))
        return self.classes.new(count) if known is None else known

    def note_layer(self, node: fx.Node, inputs: Ids | None, outputs: Ids, used: Tensor) -> Ids:
        """Records the variables on a layer's axes and its positions; unites them with those of its other calls.

        Args:
          node: the call of the layer.
          inputs: variables of the channels it reads; None for layers without an "in" axis.
          outputs: variables of the channels it produces.
          used: the tensor at whose positions the weights are used.

        Returns:
          `outputs`.
        """
        self.unite_calls(str(node.target), inputs, outputs)
        self.positions[str(node.target)] += used.numel() // (BATCH * used.shape[self.axis[node]])
        return outputs

    def unite_calls(self, name: str, inputs: Ids | None, outputs: Ids) -> None:
        """Records the variables on a layer's axes; unites them with those of its other calls."""
        for side, ids in (("in", inputs), ("out", outputs)):
            if ids is not None and self.axes.setdefault((name, side), ids) is not ids:
                self.classes.unite(self.axes[name, side], ids)


def operation(node: fx.Node) -> str:
    """The plain name of a function or method node: `relu` for F.relu, torch.relu_ and Tensor.relu_ alike."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return IN_PLACE.get(name, name.rstrip("_"))


def scope(node: fx.Node) -> str:
    """Path of the module that a node calls or lies in; empty for the model itself."""
    return str(node.target) if node.op == "call_module" else next(reversed(node.meta.get("nn_module_stack", {})), "")


def argument(node: fx.Node, position: int, *names: str, default: Any = None) -> Any:
    """An argument of a call, passed by position or by one of these keywords."""
    if len(node.args) > position:
        return node.args[position]
    return next((node.kwargs[name] for name in names if name in node.kwargs), default)
