"""Channel variables: one integer per channel of every tensor, in classes that are cut as a whole or not at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, fx

Ids = np.ndarray  # (channels,) int64: the channel variable at each place of the channels' axis
BATCH = 2  # images in the pass that is traced: an axis of 1 might be taken for another


class Classes:
    """Channel variables 0 .. n - 1 in classes that only grow: union-find on whole arrays."""

    def __init__(self) -> None:
        self.parent = np.arange(0)

    def new(self, count: int) -> Ids:
        """`count` new variables, each a class of its own."""
        ids = np.arange(len(self.parent), len(self.parent) + count)
        self.parent = np.concatenate([self.parent, ids])
        return ids

    def roots(self, ids: Ids) -> Ids:
        """The least variable of each one's class."""
        found = self.parent[ids]
        while (found != (up := self.parent[found])).any():
            found = up
        self.parent[ids] = found  # so that the next walk is short
        return found

    def unite(self, a: Ids, b: Ids) -> None:
        """Unite the classes of a[i] and b[i] for every i."""
        a, b = self.roots(a), self.roots(b)
        while (a != b).any():
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))
            a, b = self.roots(a), self.roots(b)


class ChannelVariables:
    """What is known of a model's channels while its graph is followed, node by node; `rules` add to it.

    layers: path -> module. env: node -> its value. ids: node -> the channel variables of its value (a list for several
    tensors; None: it carries no channels). axis: node -> which of its value's axes they are on. axes: (layer, "out" or
    "in") -> variables. positions: layer -> places of one image at which its weights are used, over all its calls.
    fixed: variables that are never cut. demands: variables that must be among them, with the node that asks and its
    reason.
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
        """Refuse the model later, unless these variables turn out never to be cut."""
        self.demands.append((node, reason, ids))

    def never_cut(self, value: Any) -> Any:
        """New variables that are never cut, for a tensor or for those in a list; None for anything else."""
        if isinstance(value, (tuple, list)):
            return [self.never_cut(part) for part in value]
        if not isinstance(value, Tensor) or value.ndim < 2:
            return None
        self.fixed.append(self.classes.new(value.shape[1]))
        return self.fixed[-1]

    def outputs(self, node: fx.Node, count: int) -> Ids:
        """Variables of the channels a layer makes: those of its first call if it is called again."""
        known = self.axes.get((str(node.target), "out"))
        return self.classes.new(count) if known is None else known

    def note_layer(self, node: fx.Node, inputs: Ids | None, outputs: Ids, used: Tensor) -> Ids:
        """Note the variables on a layer's axes, united with those of its other calls, and its positions: `used`'s."""
        name = str(node.target)
        for side, ids in (("in", inputs), ("out", outputs)):
            if ids is not None and self.axes.setdefault((name, side), ids) is not ids:
                self.classes.unite(self.axes[name, side], ids)
        self.positions[name] += used.numel() // (BATCH * used.shape[self.axis[node]])
        return outputs
