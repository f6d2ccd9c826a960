"""Finds the batch norms that can be folded into the preceding layer."""

from __future__ import annotations

import copy
import itertools
from collections import Counter, OrderedDict
from typing import Any

from torch import fx, nn

from pruning.channels.layers import CONVS, NORMS


def norms_behind(model: nn.Module) -> dict[str, str]:
    """Path of each convolution and linear layer whose output goes only into a batch norm -> path of that batch norm.

    Only pairs that are called once and whose batch norm has running statistics, so that it can be folded into the
    layer. The model is not run. Raises ValueError if torch.fx can't trace it.
    """
    copied = _copy_without_hooks(model)
    try:
        nodes = list(fx.Tracer().trace(copied).nodes)
    except Exception as error:
        raise ValueError(f"{type(model).__name__} can't be traced by torch.fx, to find batch norms: {error}") from error
    layers = dict(copied.named_modules())
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


def _copy_without_hooks(model: nn.Module) -> nn.Module:
    """A copy in eval mode with the same tensors and without hooks: tracing may set attributes, and runs hooks."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    for layer in model.modules():
        memo |= {id(hooks): OrderedDict() for name, hooks in vars(layer).items() if name.endswith("_hooks")}
    return copy.deepcopy(model, memo).eval()
