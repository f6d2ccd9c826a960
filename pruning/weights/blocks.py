"""n:m: of every m consecutive weights along a layer's inputs n stay, such as 2:4, whatever the rest of the layer keeps.

A block's weights are of one filter and one place of its kernel, and multiply m input channels (or features) that
follow each other: NVIDIA's sparse tensor cores read 2:4 so (Mishra et al. 2021, arXiv:2104.08378). Blocks are counted
within a convolution group. A layer whose inputs are no multiple of m stays dense: a first convolution of three colours,
a depthwise one. No other does. What torch makes of 2:4 is in `benchmarks/semi_structured.py`.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from pruning.weights.masks import Masks, Scores, has_nan, prunable


def pattern(granularity: str) -> tuple[int, int] | None:
    """The n and m that a granularity such as "2:4" stands for; None for another kind.

    Raises ValueError unless 0 < n < m.
    """
    if not re.fullmatch(r"\d+:\d+", granularity):
        return None
    n, m = map(int, granularity.split(":"))
    if not 0 < n < m:
        raise ValueError(f"granularity {granularity!r} keeps {n} of every {m} weights; n:m needs 0 < n < m")
    return n, m


def keep_blocks(scores: Tensor, n: int, m: int, axis: int = 1) -> Tensor:
    """Mask of the n highest of every m consecutive scores along `axis`; of equal ones those of lower index stay.

    scores: a shape whose `axis` is a multiple of m, any real dtype, -inf allowed. Returns a bool tensor of that shape.
    Raises ValueError on NaN, and if `axis` is no multiple of m.
    """
    if has_nan(scores):
        raise ValueError("scores hold NaN, which has no rank")
    if scores.shape[axis] % m:
        raise ValueError(f"axis {axis} of scores {tuple(scores.shape)} is no multiple of {m}")
    blocks = scores.detach().movedim(axis, -1).unflatten(-1, (-1, m))
    order = blocks.argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros_like(blocks, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return mask.flatten(-2).movedim(-1, axis)


def input_axes(model: nn.Module, m: int) -> dict[str, int]:
    """The prunable weights whose inputs come in whole blocks of m, by name, and the axis that counts their inputs."""
    axes = {}
    for name, weight in prunable(model).items():
        layer: Any = model.get_submodule(name.rpartition(".")[0])
        transposed = getattr(layer, "transposed", False)
        inputs = len(weight) // layer.groups if transposed else weight.shape[1]
        if inputs % m == 0:
            axes[name] = 0 if transposed else 1
    return axes


def block_masks(model: nn.Module, scores: Scores, n: int, m: int, previous: Masks | None = None) -> Masks:
    """Masks of all weights of `scores` that come in blocks; the others get none, as they stay dense.

    previous: masks so far, whose pruned weights stay pruned. Raises ValueError as `keep_blocks`.
    """
    axes = {name: axis for name, axis in input_axes(model, m).items() if name in scores}
    gone = {name: ~mask for name, mask in (previous or {}).items()}
    left = {name: scores[name].masked_fill(gone[name], -torch.inf) if name in gone else scores[name] for name in axes}
    return {name: keep_blocks(left[name], n, m, axis) for name, axis in axes.items()}
