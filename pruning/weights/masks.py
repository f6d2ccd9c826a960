"""Masks: exact top-k selection, and keeping pruned weights at zero during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

Scores = dict[str, Tensor]  # parameter name -> score of every weight, of the weight's shape; higher = keep
Masks = dict[str, Tensor]  # parameter name -> bool tensor of the weight's shape; True = kept

# _ConvNd is the base class of exactly nn.Conv1d, 2d, 3d and their transposes.
PRUNABLE_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


# Parameters of nn.MultiheadAttention that are weights of linear layers: of queries, keys and values, together or not.
PACKED = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def weight_keys(layer: nn.Module) -> list[str]:
    """Names of a layer's own prunable weights; none for other modules."""
    if isinstance(layer, nn.MultiheadAttention):
        return [key for key in PACKED if layer._parameters.get(key) is not None]
    return ["weight"] if isinstance(layer, PRUNABLE_LAYERS) else []


def layer_name(weight: str) -> str:
    """The name of a prunable weight's layer in tables and figures: its path; of attention, the weight's own name."""
    return weight.removesuffix(".weight")


def weight_name(layer: str) -> str:
    """The prunable weight of the layer that `layer_name` names."""
    return layer if layer.rpartition(".")[2] in PACKED else f"{layer}.weight"


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The prunable weights, those of convolutions, linear layers and attention: name -> parameter, in module order.

    Names are those of `model.named_parameters()`; a weight shared by several layers appears once, under its first name.
    """
    weights: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for key in weight_keys(module):
            weight: nn.Parameter = getattr(module, key)
            if id(weight) not in seen:
                seen.add(id(weight))
                weights[f"{path}.{key}" if path else key] = weight
    return weights


def has_nan(scores: Tensor) -> bool:
    """Whether any score is NaN. Uses the maximum, which propagates NaN: one pass without allocation."""
    return scores.numel() > 0 and bool(scores.detach().max().isnan())


def largest(parts: Sequence[Tensor], k: int) -> Tensor:
    """The k largest entries of all `parts` (any shapes, one device), as an unordered tensor (k,).

    Raises ValueError if k is not in [0, number of entries]. NaN must be ruled out by the caller.
    """
    n = sum(part.numel() for part in parts)
    if not 0 <= k <= n:
        raise ValueError(f"k must be in [0, {n}], the number of entries; it is {k}")
    flat = [part.detach().reshape(-1) for part in parts]
    if any(x.device.type != "cpu" for x in flat):
        return torch.cat(flat).topk(k, sorted=False).values
    # numpy's partition is vectorised, ten times as fast as torch's, and its large arrays cause fewer page faults.
    # It lacks bfloat16, but widening that is exact.
    values = np.concatenate([(x.float() if x.dtype is torch.bfloat16 else x).numpy() for x in flat])
    if 0 < k < n:
        values.partition(n - k)
    return torch.from_numpy(values[n - k :])


def keep_top(scores: Tensor, keep: int) -> Tensor:
    """Mask of exactly the `keep` highest scores; among equal ones the lowest indices (row-major) are kept.

    scores: any shape and real dtype, -inf allowed. Returns a bool tensor of that shape on the same device. Raises
    ValueError on NaN, or if `keep` is not in [0, number of scores].
    """
    if not 0 <= keep <= scores.numel():
        raise ValueError(f"keep must be in [0, {scores.numel()}], the number of scores; it is {keep}")
    if has_nan(scores):
        raise ValueError("scores hold NaN, which has no rank")
    if keep in (0, scores.numel()):
        return torch.full(scores.shape, keep > 0, dtype=torch.bool, device=scores.device)
    flat = scores.detach().reshape(-1)
    threshold = largest([flat], keep).min()
    mask = flat >= threshold
    surplus = int(mask.count_nonzero()) - keep
    if surplus:
        mask[(flat == threshold).nonzero()[-surplus:]] = False
    return mask.view(scores.shape)


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Sets the masked weights of `model` to zero in place, without autograd.

    Raises ValueError if a mask's name is not a prunable weight, or its shape differs.
    """
    with torch.no_grad():
        for weight, mask in _pairs(model, masks):
            weight.masked_fill_(~mask.to(weight.device), 0)


def hold_masks(model: nn.Module, masks: Masks) -> Callable[[], None]:
    """A function that sets the masked weights to zero again, to be called after every optimiser step.

    It references the model's parameters and masks in their dtype and memory format, and multiplies all in one call;
    create a new one after moving the model to another device. Raises ValueError as `apply_masks`.
    """
    pairs = _pairs(model, masks)
    weights: list[Tensor] = [weight for weight, _ in pairs]
    factors = [torch.empty_like(weight, requires_grad=False).copy_(mask) for weight, mask in pairs]

    def hold() -> None:
        if weights:  # foreach kernels refuse empty lists; the dense control has no masks
            with torch.no_grad():
                torch._foreach_mul_(weights, factors)

    return hold


def sparsity(model: nn.Module, dense_total: int | None = None) -> float:
    """Fraction of the dense network's prunable weights that are removed or zero, in [0, 1].

    dense_total: prunable weights of the dense network, required once channels were cut; default: those of `model`.
    Raises ValueError if the model has no prunable weights, or more than `dense_total`.
    """
    weights = prunable(model).values()
    held = sum(weight.numel() for weight in weights)
    total = held if dense_total is None else dense_total
    if not 0 < held <= total:
        raise ValueError(f"the model has {held} prunable weights, of {total} of the dense network")
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / total


def _pairs(model: nn.Module, masks: Masks) -> list[tuple[nn.Parameter, Tensor]]:
    weights = prunable(model)
    for name, mask in masks.items():
        if name not in weights:
            raise ValueError(f"mask for {name!r}, which is no prunable weight; those are {', '.join(weights)}")
        if mask.shape != weights[name].shape:
            raise ValueError(f"mask for {name!r} is {tuple(mask.shape)}, the weight {tuple(weights[name].shape)}")
    return [(weights[name], mask) for name, mask in masks.items()]
