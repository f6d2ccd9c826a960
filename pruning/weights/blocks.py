"""n:m sparsity: of every m consecutive weights along a layer's inputs, n are kept, e.g. 2:4.

A block's weights belong to one filter and one kernel position, and multiply m consecutive input channels (or features),
the 2:4 layout of NVIDIA's sparse tensor cores (Mishra et al. 2021, arXiv:2104.08378). Blocks lie within a convolution
group. Layers whose number of inputs is no multiple of m stay dense, such as a first convolution on RGB or a depthwise
one; all others are pruned. Execution by torch's 2:4 kernels is measured in `benchmarks/semi_structured.py`.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from pruning.weights.masks import Masks, Scores, has_nan, prunable


def pattern(granularity: str) -> tuple[int, int] | None:
    """The (n, m) of a granularity such as "2:4"; None for other granularities.

    Raises ValueError unless 0 < n < m.
    """
    if not re.fullmatch(r"\d+:\d+", granularity):
        return None
    n, m = map(int, granularity.split(":"))
    if not 0 < n < m:
        raise ValueError(f"granularity {granularity!r} keeps {n} of every {m} weights; n:m needs 0 < n < m")
    return n, m


def keep_blocks(scores: Tensor, n: int, m: int, axis: int = 1) -> Tensor:
    """Mask of the n highest of every m consecutive scores along `axis`; among equal ones the lowest indices are kept.

    Args:
      scores: any shape and real dtype, -inf allowed; the size of `axis` is a multiple of m.
      n: scores kept per block.
      m: block size.
      axis: the axis that is divided into blocks.

    Returns:
      Bool tensor of the same shape; True = kept.

    Raises:
      ValueError: NaN, or an axis that is no multiple of m.
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
    """Names of the prunable weights with whole blocks of m inputs -> the axis of the inputs."""
    axes = {}
    for name, weight in prunable(model).items():
        layer: Any = model.get_submodule(name.rpartition(".")[0])
        transposed = getattr(layer, "transposed", False)
        inputs = len(weight) // layer.groups if transposed else weight.shape[1]
        if inputs % m == 0:
            axes[name] = 0 if transposed else 1
    return axes


def block_masks(model: nn.Module, scores: Scores, n: int, m: int, previous: Masks | None = None) -> Masks:
    """Masks of all weights in `scores` with whole blocks of m inputs; the others get none, as they stay dense.

    Args:
      model: the network.
      scores: weight name -> scores; higher = keep.
      n: weights kept per block.
      m: block size.
      previous: masks so far; weights pruned there stay pruned.

    Raises:
      ValueError: as `keep_blocks`.
    """
    axes = {name: axis for name, axis in input_axes(model, m).items() if name in scores}
    gone = {name: ~mask for name, mask in (previous or {}).items()}
    left = {name: scores[name].masked_fill(gone[name], -torch.inf) if name in gone else scores[name] for name in axes}
    return {name: keep_blocks(left[name], n, m, axis) for name, axis in axes.items()}
