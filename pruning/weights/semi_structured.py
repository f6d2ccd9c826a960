"""2:4 on sparse tensor cores: the layers that torch's semi-structured tensors support, and a network that uses them.

Supported: nn.Linear in half precision with 2:4 weights and sizes that are multiples of LEAST, on a CUDA GPU of compute
capability 8.0 or higher. Not supported: convolutions, even 1x1 (torch.sparse.to_sparse_semi_structured takes matrices
only), and n:m that is not also 2:4. Batches are padded to a multiple of 8, so batch 1 costs as much as 8. The kernels
are faster only where the product dominates, not where reading weights or launching kernels does.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from pruning.weights.masks import PRUNABLE_LAYERS

HALVES = (torch.float16, torch.bfloat16)
LEAST = (32, 64)  # outputs and inputs must be multiples of these for CUTLASS; cuSPARSELt needs only 16 each
CAPABILITY = (8, 0)  # Ampere, the first with sparse tensor cores


def available() -> bool:
    """Whether this machine has a CUDA GPU with sparse tensor cores."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= CAPABILITY


def refusal(layer: nn.Module) -> str | None:
    """Why a convolution or linear layer can't use a semi-structured weight; None if it can."""
    weight = layer.get_parameter("weight").detach()
    if not isinstance(layer, nn.Linear):
        return f"{type(layer).__name__} is no matrix"
    if weight.dtype not in HALVES:
        return f"{weight.dtype} is not half precision"
    if any(size % least for size, least in zip(weight.shape, LEAST, strict=True)):
        return f"{len(weight)} x {weight.shape[1]} is no multiple of {LEAST[0]} x {LEAST[1]}"
    if (weight.unflatten(1, (-1, 4)).count_nonzero(-1) > 2).any():
        return "its weights are not 2:4"
    return None


def refusals(model: nn.Module) -> dict[str, str | None]:
    """`refusal` of every convolution and linear layer, by path, in module order."""
    return {path: refusal(layer) for path, layer in model.named_modules() if isinstance(layer, PRUNABLE_LAYERS)}


def semi_structured(model: nn.Module) -> nn.Module:
    """A copy of `model` for inference, with semi-structured weights in all supported layers.

    model: on a CUDA GPU, pruned 2:4. Raises ValueError without sparse tensor cores, or if no layer is supported.
    """
    if not available() or not all(parameter.is_cuda for parameter in model.parameters()):
        raise ValueError(
            "semi-structured tensors need a CUDA GPU of compute capability 8.0 or higher, and a model on it"
        )
    supported = [path for path, reason in refusals(model).items() if reason is None]
    if not supported:
        raise ValueError(f"no layer can have a semi-structured weight: {refusals(model)}")
    fast = copy.deepcopy(model).requires_grad_(False)
    for path in supported:
        layer = fast.get_submodule(path)
        packed = torch.sparse.to_sparse_semi_structured(layer.get_parameter("weight").detach())
        layer.register_parameter("weight", nn.Parameter(packed, requires_grad=False))
    return fast
