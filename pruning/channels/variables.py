"""Channel variables: one integer per channel of every tensor, in classes that are cut as a whole or not at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, fx

Ids = np.ndarray  # (channels,) int64: the channel variable at each place of the channel axis
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
        self.positions: Counter[str] = Counter()
        self.fixed: list[Ids] = []
        self.demands: list[tuple[fx.Node, str, Ids]] = []

    def demand(self, node: fx.Node, reason: str, ids: Ids) -> None:
        """Requires these variables to be fixed; otherwise the model is refused once all of it was followed."""
        self.demands.append((node, reason, ids))

    def never_cut(self, value: Any) -> Any:
        """New variables that are never cut, for a tensor or each tensor of a list; None for anything else."""
        if isinstance(value, (tuple, list)):
            return [self.never_cut(part) for part in value]
        if not isinstance(value, Tensor) or value.ndim < 2:
            return None
        self.fixed.append(self.classes.new(value.shape[1]))
        return self.fixed[-1]

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
        name = str(node.target)
        for side, ids in (("in", inputs), ("out", outputs)):
            if ids is not None and self.axes.setdefault((name, side), ids) is not ids:
                self.classes.unite(self.axes[name, side], ids)
        self.positions[name] += used.numel() // (BATCH * used.shape[self.axis[node]])
        return outputs
