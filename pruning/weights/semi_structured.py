"""2:4 on sparse tensor cores: which layers torch's semi-structured tensors serve, and a network that runs on them.

Served is nn.Linear in half precision whose weight is 2:4 and whose sizes are multiples of LEAST, on a CUDA GPU of
compute capability 8.0 or higher. Not served: convolutions, those of 1x1 too (torch.sparse.to_sparse_semi_structured
takes matrices only), and any n:m but what is 2:4 as well. A batch is padded to a multiple of 8, so batch 1 costs
what 8 do; the kernels pay where the product is large and slow, not where reading the weights or starting a kernel is.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from pruning.weights.masks import PRUNABLE_LAYERS

HALVES = (torch.float16, torch.bfloat16)
LEAST = (32, 64)  # outputs and inputs come in multiples of these, for CUTLASS; cuSPARSELt is content with 16 each
CAPABILITY = (8, 0)  # Ampere's, the first with sparse tensor cores


def available() -> bool:
    """Whether there is a CUDA GPU here with sparse tensor cores."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= CAPABILITY


def refusal(layer: nn.Module) -> str | None:
    """Why a convolution or linear layer, as it is, can't have a semi-structured weight; None if it can."""
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
    """A copy of `model`, for inference, in which the weights of all served layers are semi-structured tensors.

    model: on a CUDA GPU, pruned 2:4. Raises ValueError where there are no sparse tensor cores, or no layer is served.
    """
    if not available():
        raise ValueError("semi-structured tensors need a CUDA GPU of compute capability 8.0 or higher")
    served = [path for path, reason in refusals(model).items() if reason is None]
    if not served:
        raise ValueError(f"no layer can have a semi-structured weight: {refusals(model)}")
    fast = copy.deepcopy(model).requires_grad_(False)
    for path in served:
        layer = fast.get_submodule(path)
        packed = torch.sparse.to_sparse_semi_structured(layer.get_parameter("weight").detach())
        layer.register_parameter("weight", nn.Parameter(packed, requires_grad=False))
    return fast
