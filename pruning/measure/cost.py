"""Parameters, multiply-adds (MACs) and bytes, of the whole network and of each layer.

Saved tensors contain zero weights and dense kernels multiply by them; the `nonzero_` quantities skip them.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pruning.channels.layers import attention_by_steps
from pruning.weights.masks import PRUNABLE_LAYERS, layer_name, prunable, weight_keys


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
    return measured(model, in_shape).nonzero_macs


class Costs(NamedTuple):
    """What one counting pass finds: see `macs`, `nonzero_macs` and `layer_costs`."""

    macs: int
    nonzero_macs: int
    layers: list[dict[str, Any]]


def measured(model: nn.Module, in_shape: Sequence[int]) -> Costs:
    """All costs for one input of `in_shape` (channels, height, width), in one pass."""
    total, by_layer = _count_macs(model, in_shape)
    zero = sum(n - _nonzero_share(getattr(layer, key), n) for (layer, key), n in by_layer.items())
    return Costs(total, total - zero, _rows(model, by_layer))


def layer_costs(model: nn.Module, in_shape: Sequence[int]) -> list[dict[str, Any]]:
    """One row per convolution, linear layer and weight inside of attention, in module order, for one of `in_shape`.

    Keys: layer (module path; in attention the weight's name), type, in_channels, out_channels (features of a linear
    layer), params (with bias), weights, nonzero_weights, macs, nonzero_macs. MACs are summed over a layer's calls; a
    weight shared by two layers is in both rows.
    """
    return measured(model, in_shape).layers


def _rows(model: nn.Module, by_layer: Counter[tuple[nn.Module, str]]) -> list[dict[str, Any]]:
    rows = []
    for path, layer in model.named_modules():
        for key in weight_keys(layer):
            weight, done = getattr(layer, key).detach(), by_layer[layer, key]
            bias = layer._parameters.get(
                "in_proj_bias" if key == "in_proj_weight" else "bias" if key == "weight" else ""
            )
            rows.append(
                {
                    "layer": path if key == "weight" else layer_name(f"{path}.{key}"),
                    "type": type(layer).__name__,
                    "in_channels": getattr(layer, "in_channels", weight.shape[1]),
                    "out_channels": getattr(layer, "out_channels", weight.shape[0]),
                    "params": weight.numel() + (0 if bias is None else bias.numel()),
                    "weights": weight.numel(),
                    "nonzero_weights": int(weight.count_nonzero()),
                    "macs": done,
                    "nonzero_macs": _nonzero_share(weight, done),
                }
            )
    return rows


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


def _nonzero_share(weight: Tensor, layer_macs: int) -> int:
    # Exact: dense kernels use every weight of a layer equally often, so its MACs are a multiple of its weights.
    return layer_macs * int(weight.count_nonzero()) // max(weight.numel(), 1)


def _count_macs(model: nn.Module, in_shape: Sequence[int]) -> tuple[int, Counter[tuple[nn.Module, str]]]:
    """MACs of the whole model, and of each prunable weight by layer and key, summed over its calls."""
    by_layer: Counter[tuple[nn.Module, str]] = Counter()
    modes = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)

    def before(layer: nn.Module, args: object) -> None:
        by_layer[layer, "weight"] -= counter.get_total_flops() // 2

    def after(layer: nn.Module, args: object, output: object) -> None:
        by_layer[layer, "weight"] += counter.get_total_flops() // 2

    def attended(layer: Any, args: tuple[Tensor, ...], kwargs: Mapping[str, Any], output: object) -> None:
        tokens = [x.numel() // x.shape[-1] for x in _queries_keys_values(*args, **kwargs)]
        for key in weight_keys(layer):
            used = tokens["qkv".index(key[0])] if key[0] in "qkv" else sum(tokens) / 3
            by_layer[layer, key] += int(getattr(layer, key).numel() * used)
        by_layer[layer.out_proj, "weight"] += layer.out_proj.weight.numel() * tokens[0]

    attention = [module for module in modes if isinstance(module, nn.MultiheadAttention)]
    layers = [module for module in modes if isinstance(module, PRUNABLE_LAYERS)]
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    hooks += [layer.register_forward_hook(after) for layer in layers]
    hooks += [layer.register_forward_hook(attended, with_kwargs=True) for layer in attention]
    try:
        model.eval()
        with torch.no_grad(), attention_by_steps(), counter:
            model(_zero_input(model, in_shape))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return counter.get_total_flops() // 2, by_layer


def _queries_keys_values(
    query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query, key, value


def _zero_input(model: nn.Module, in_shape: Sequence[int]) -> Tensor:
    parameter = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, *in_shape, device=parameter.device, dtype=parameter.dtype)
