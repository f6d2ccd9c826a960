"""Follows the channels of every tensor through a forward pass, with torch.fx.

A copy of the model on the meta device (shapes without numbers) is traced and run once. One axis of each tensor carries
*channel variables*, one integer per channel: axis 1, or another after a permute. Convolutions and linear layers create
new variables, operations that act on each channel separately pass them on, additions unite them in pairs,
concatenations append them, flattening repeats them. United variables form one class, which is cut as a whole or not at
all.

An operation without a rule in `channels.rules.tables` is *opaque*: its channels must turn out never to be cut (like
those of the network's inputs and outputs and of protected modules), otherwise the model is refused.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from pruning.channels.layers import (
    CUTTABLE,
    LAYER_NORMS,
    NORMS,
    attention_by_steps,
    longest,
    makes_channels,
    scales,
)
from pruning.channels.rules.tables import AXIS_ONE, POINTWISE_LAYERS, SIZED, WHOLE, rule_of
from pruning.channels.rules.variables import BATCH, ChannelVariables, Ids, argument, operation, scope

SAME_SHAPE = {*POINTWISE_LAYERS, *NORMS, *LAYER_NORMS, nn.GroupNorm}


class LayerTracer(fx.Tracer):
    """Traces the layers that plans list, including torchvision's, as single operations."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """True for the layers that plans list, and torch's own modules."""
        return type(m) in CUTTABLE or super().is_leaf_module(m, module_qualified_name)


class Tracker(fx.Interpreter, ChannelVariables):
    """Runs the traced graph and records the channel variables of every tensor and of every layer's axes.

    opaque_macs: MACs of opaque operations for one image. Other attributes: see `ChannelVariables`.
    """

    def __init__(self, meta_model: nn.Module, graph: fx.Graph, protect: Iterable[str]) -> None:
        fx.Interpreter.__init__(self, meta_model, garbage_collect_values=False, graph=graph)
        ChannelVariables.__init__(self, dict(meta_model.named_modules()))
        self.extra_traceback = False
        self.protect = tuple(protect)
        owners = Counter(id(p) for layer in self.layers.values() for p in layer._parameters.values() if p is not None)
        self.tied = {parameter for parameter, count in owners.items() if count > 1}
        self.scales = {name: p for name, p in scales(meta_model).items() if id(p) not in self.tied}
        self.opaque_macs = 0

    def run_node(self, node: fx.Node) -> Any:
        """The node's value on the meta device; also records its channel variables."""
        try:
            value = self._value(node)
        except Exception as error:
            raise ValueError(f"{self.where(node)} fails on an input of the example's shape: {error}") from error
        self.env[node] = value
        self.ids[node] = self._channels_of(node, value)
        return value

    def _value(self, node: fx.Node) -> Any:
        if node.op == "call_module" and type(self.layers[str(node.target)]) in SAME_SHAPE:
            return self.env[node.all_input_nodes[0]]  # same shape; skips a slow meta kernel
        value = super().run_node(node)
        return value.to("meta") if node.op == "get_attr" and isinstance(value, Tensor) else value

    def _channels_of(self, node: fx.Node, value: Any) -> Any:
        """Channel variables of the node's value: an array for a tensor, a list for several, None without channels."""
        if node.op == "placeholder":
            return self.never_cut(value)
        if str(node.target) in self.scales and node.op == "get_attr":
            self.axis[node] = longest(value)
            return self.note_layer(node, None, self.outputs(node, value.numel()), value)
        inputs = [ids for source in node.all_input_nodes for ids in _flat_arrays(self.ids[source])]
        if not _holds_tensor(value):
            self.numbers[node] = self._counted(node)
            return None
        ids = self._apply_rule(node, value) if inputs else None
        if ids is None or operation(node) not in SIZED:
            self.fixed += self._counts(node)
        if node.op == "output" or not inputs:
            return None
        if ids is None:
            self.axis[node] = self._likely_axis(node, value)
            if all(source.op == "get_attr" for source in node.all_input_nodes):
                return None  # an expression of constants only
            ids = self._opaque(node, value, inputs)
        if any(f"{scope(node)}.".startswith(f"{path}.") for path in self.protect):
            self.fixed += [*inputs, *_flat_arrays(ids)]
        return ids

    def _counts(self, node: fx.Node) -> list[Ids]:
        """The channel variables that the numbers among a node's inputs were computed from."""
        return [ids for source in node.all_input_nodes for ids in _flat_arrays(self.numbers.get(source))]

    def _counted(self, node: fx.Node) -> Any:
        """The channel variables that a node's number (or each number of a shape) is in proportion to.

        Those of numbers that are computed in another way are fixed.
        """
        name, counts = operation(node), self._counts(node)
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        is_shape = name == "size" or (name == "getattr" and node.args[1] == "shape")
        if is_shape and isinstance(self.ids.get(source), np.ndarray):
            axes = [self.ids[source] if axis == self.axis[source] else None for axis in range(self.env[source].ndim)]
            dim = argument(node, 1, "dim") if name == "size" else None
            return axes if dim is None else axes[dim] if isinstance(dim, int) else None
        shape = self.numbers.get(source)
        if name == "getitem" and isinstance(shape, list):
            index = node.args[1]
            return shape[index] if isinstance(index, (int, slice)) else None
        divided = name in ("floordiv", "truediv") and isinstance(self.numbers.get(source), np.ndarray)
        if len(counts) == 1 and (name == "mul" or (divided and source is node.args[0])):
            return counts[0]
        self.fixed += counts
        return None

    def _apply_rule(self, node: fx.Node, value: Any) -> Any:
        layer = self.layers[str(node.target)] if node.op == "call_module" else None
        rule = rule_of(node, layer)
        if rule is None or (layer is not None and any(id(p) in self.tied for p in layer.parameters())):
            return None
        if rule in AXIS_ONE and any(self.axis[source] != 1 for source in node.all_input_nodes):
            return None
        return rule(self, node, value)

    def _opaque(self, node: fx.Node, value: Any, inputs: list[Ids]) -> Any:
        if node.op == "call_function" and operation(node) in WHOLE:
            self.fixed += inputs
        else:
            self.demand(node, "is not known to act on each channel separately", np.concatenate(inputs))
        with FlopCounterMode(display=False) as counter:
            super().run_node(node)
        self.opaque_macs += counter.get_total_flops() // (2 * BATCH)
        return self.never_cut(value, self.axis[node])

    def _likely_axis(self, node: fx.Node, value: Any) -> int:
        """The axis that holds the channels after an opaque operation: that of an input of as many axes, else axis 1."""
        first = value if isinstance(value, Tensor) else next(part for part in value if isinstance(part, Tensor))
        alike = [s for s in node.all_input_nodes if _flat_arrays(self.ids[s]) and _ndim(self.env[s]) == first.ndim]
        return self.axis[alike[0]] if alike else 1

    def where(self, node: fx.Node) -> str:
        """A description of a node for messages: its module, and its operation or the module's type."""
        if node.op == "call_module":
            return f"module {node.target!r} ({type(self.layers[str(node.target)]).__name__})"
        return f"operation {operation(node)!r} in " + (f"module {scope(node)!r}" if scope(node) else "the model itself")

    def fix_outputs(self) -> None:
        """Marks as never cut what reaches the network's outputs without passing another layer's weights."""
        stack = [node for node in self.graph.nodes if node.op == "output"]
        seen = set(stack)
        while stack:
            for source in stack.pop().all_input_nodes:
                if source not in seen and _holds_tensor(self.env[source]):
                    seen.add(source)
                    self.fixed += _flat_arrays(self.ids[source])
                    if source.op != "call_module" or not makes_channels(self.layers[str(source.target)]):
                        stack.append(source)


def track(model: nn.Module, example_input: Tensor | Sequence[Tensor], protect: Iterable[str] = ()) -> Tracker:
    """Traces `model` and follows its channels; the model and its hooks are neither run nor changed.

    example_input: one tensor (N, C, ...) or one per argument; only shapes and dtypes matter, N is free. Raises
    ValueError if the model can't be copied, traced, or run on such an input.
    """
    meta_model = _meta_copy(model).eval()
    tracer = LayerTracer()
    try:
        graph = tracer.trace(meta_model)
    except Exception as error:
        inside = next(reversed(getattr(tracer, "module_stack", {})), "")  # after an error: the module being traced
        named = f"module {inside!r}" if inside else type(model).__name__
        raise ValueError(f"{named} can't be traced by torch.fx: {error}") from error
    if extra := _only_in_training(meta_model, graph):
        raise ValueError(
            f"module {extra!r} is used in training only, where it would get the channels from before the cut; "
            "build the network without it (in torchvision: aux_logits=False)"
        )
    tracker = Tracker(meta_model, graph, protect)
    examples = [example_input] if isinstance(example_input, Tensor) else example_input
    with torch.no_grad(), attention_by_steps():
        tracker.run(*(torch.empty(BATCH, *x.shape[1:], dtype=x.dtype, device="meta") for x in examples))
    tracker.fix_outputs()
    for (path, _), ids in tracker.axes.items():
        if any(f"{path}.".startswith(f"{protected}.") for protected in tracker.protect):
            tracker.fixed.append(ids)
    return tracker


def _only_in_training(model: nn.Module, graph: fx.Graph) -> str | None:
    """The first layer with channels that `model`, given with its graph in eval mode, calls in training mode alone."""
    called = {str(node.target) for node in graph.nodes}
    idle = {path for path, layer in model.named_modules() if type(layer) in CUTTABLE} - called
    if not idle:
        return None
    try:
        training = LayerTracer().trace(model.train())
    except Exception:  # nothing can be said of a network that can't be traced in training mode
        return None
    finally:
        model.eval()
    return next((str(node.target) for node in training.nodes if str(node.target) in idle), None)


def _meta_copy(model: nn.Module) -> nn.Module:
    for path, layer in model.named_modules():
        computed = "weight" not in layer._parameters and not isinstance(layer, nn.MultiheadAttention)
        if type(layer) in CUTTABLE and computed:
            raise ValueError(f"module {path!r} computes its weight by a hook: turn the weight into a parameter first")
    memo: dict[int, Any] = {id(p): nn.Parameter(_on_meta(p), p.requires_grad) for p in model.parameters()}
    memo |= {id(b): _on_meta(b) for b in model.buffers()}
    for layer in model.modules():  # users' hooks must not be called with meta tensors
        memo |= {id(hooks): OrderedDict() for name, hooks in vars(layer).items() if name.endswith("_hooks")}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ValueError(f"{type(model).__name__} can't be copied: {error}") from error


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)


def _holds_tensor(value: Any) -> bool:
    """Whether a value is a tensor, or a list or tuple that contains one."""
    return isinstance(value, Tensor) or (
        isinstance(value, (tuple, list)) and any(_holds_tensor(part) for part in value)
    )


def _ndim(value: Any) -> int | None:
    return value.ndim if isinstance(value, Tensor) else None


def _flat_arrays(ids: Any) -> list[Ids]:
    """The arrays among a node's channel variables, as a flat list."""
    if isinstance(ids, list):
        return [array for part in ids for array in _flat_arrays(part)]
    return [] if ids is None else [ids]
