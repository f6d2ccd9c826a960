"""Which batch norm a layer's output goes into, so that the two are one layer when the network is run."""

from __future__ import annotations

import copy
import itertools
from collections import Counter, OrderedDict
from typing import Any

from torch import fx, nn

from pruning.channels.layers import CONVS, NORMS


def norms_behind(model: nn.Module) -> dict[str, str]:
    """Path of every convolution and linear layer whose output goes into a batch norm and nowhere else -> of that norm.

    Both are called once, and the norm keeps running statistics, so it could be folded into the layer. The model is
    not run. Raises ValueError if torch.fx can't trace it.
    """
    twin = _twin(model)
    try:
        nodes = list(fx.Tracer().trace(twin).nodes)
    except Exception as error:
        raise ValueError(f"{type(model).__name__} can't be traced by torch.fx, to find batch norms: {error}") from error
    layers = dict(twin.named_modules())
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    found = {}
    for node in nodes:
        norm = layers.get(str(node.target)) if node.op == "call_module" else None
        source = node.all_input_nodes[0] if isinstance(norm, NORMS) and norm.running_var is not None else None
        if source is None or source.op != "call_module" or len(source.users) > 1:
            continue
        is_layer = isinstance(layers[str(source.target)], (*CONVS, nn.Linear))
        if is_layer and calls[str(source.target)] == calls[str(node.target)] == 1:
            found[str(source.target)] = str(node.target)
    return found


def _twin(model: nn.Module) -> nn.Module:
    """A copy with the same tensors and without hooks, in eval mode: tracing may set attributes, and runs hooks."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    for layer in model.modules():
        memo |= {id(hooks): OrderedDict() for name, hooks in vars(layer).items() if name.endswith("_hooks")}
    return copy.deepcopy(model, memo).eval()
