"""Parameters, multiply-adds (MACs) and bytes, of the whole network and of each layer.

Saved tensors contain zero weights and dense kernels multiply by them; the `nonzero_` quantities skip them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pruning.weights.masks import PRUNABLE_LAYERS, prunable


def parameters(model: nn.Module) -> int:
    """Number of parameters in the model's tensors, masked zeros included; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def nonzero_parameters(model: nn.Module) -> int:
    """Number of parameters without the zeros among prunable weights (zero biases and norms still count)."""
    return parameters(model) - sum(w.numel() - int(w.count_nonzero()) for w in prunable(model).values())


def macs(model: nn.Module, in_shape: Sequence[int]) -> int:
    """Multiply-adds that dense kernels execute for one input of `in_shape` (channels, height, width).

    Half of torch.utils.flop_counter's FLOPs at batch 1, in eval mode; the model is left unchanged.
    """
    return _count_macs(model, in_shape)[0]


def nonzero_macs(model: nn.Module, in_shape: Sequence[int]) -> int:
    """MACs of non-zero weights: each layer's MACs times its non-zero share, plus MACs outside layers."""
    total, by_layer = _count_macs(model, in_shape)
    return total - sum(n - _nonzero_share(layer, n) for layer, n in by_layer.items())


def layer_costs(model: nn.Module, in_shape: Sequence[int]) -> list[dict[str, Any]]:
    """One row per convolution and linear layer, in module order, for one input of `in_shape`.

    Keys: layer (module path), type, in_channels, out_channels (features of a linear layer), params (with bias),
    weights, nonzero_weights, macs, nonzero_macs. MACs are summed over a layer's calls; a weight shared by two layers is
    in both rows.
    """
    _, by_layer = _count_macs(model, in_shape)
    return [
        {
            "layer": path,
            "type": type(layer).__name__,
            "in_channels": layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels,
            "out_channels": layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels,
            "params": sum(parameter.numel() for parameter in layer.parameters()),
            "weights": layer.weight.numel(),
            "nonzero_weights": int(layer.weight.count_nonzero()),
            "macs": by_layer[layer],
            "nonzero_macs": _nonzero_share(layer, by_layer[layer]),
        }
        for path, layer in model.named_modules()
        if isinstance(layer, PRUNABLE_LAYERS)
    ]


def size_bytes(model: nn.Module) -> int:
    """Size of the file that `torch.save(model.state_dict(), file)` writes for the model on a CPU, in bytes."""
    state, file = model.state_dict(), io.BytesIO()
    for name, tensor in state.items():
        state[name] = tensor.cpu()  # a device's name is written with every tensor
    torch.save(state, file)
    return file.tell()


def sparse_size_bytes(model: nn.Module) -> int:
    """Size of the state in bytes if zeros are not stored.

    Each prunable weight is a bitmap (one bit per weight) and its non-zero values in their dtype, or the dense tensor
    where that is smaller; all other tensors are dense, without a header.
    """
    weights = prunable(model)
    dense = {name: t.numel() * t.element_size() for name, t in model.state_dict().items()}
    packed = {n: -(-w.numel() // 8) + int(w.count_nonzero()) * w.element_size() for n, w in weights.items()}
    return sum(min(size, packed.get(name, size)) for name, size in dense.items())


def _nonzero_share(layer: nn.Module, layer_macs: int) -> int:
    # Exact: dense kernels use every weight of a layer equally often, so its MACs are a multiple of its weights.
    weight = layer.get_parameter("weight")
    return layer_macs * int(weight.count_nonzero()) // max(weight.numel(), 1)


def _count_macs(model: nn.Module, in_shape: Sequence[int]) -> tuple[int, Counter[nn.Module]]:
    """MACs of the whole model, and of each prunable layer, summed over its calls."""
    by_layer: Counter[nn.Module] = Counter()
    modes = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)

    def before(layer: nn.Module, args: object) -> None:
        by_layer[layer] -= counter.get_total_flops() // 2

    def after(layer: nn.Module, args: object, output: object) -> None:
        by_layer[layer] += counter.get_total_flops() // 2

    layers = [module for module in modes if isinstance(module, PRUNABLE_LAYERS)]
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    try:
        model.eval()
        with torch.no_grad(), counter:
            model(_zero_input(model, in_shape))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return counter.get_total_flops() // 2, by_layer


def _zero_input(model: nn.Module, in_shape: Sequence[int]) -> torch.Tensor:
    parameter = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, *in_shape, device=parameter.device, dtype=parameter.dtype)
