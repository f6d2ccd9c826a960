"""Types of layers that plans list, and parameters that scale channels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torchvision.models.convnext import LayerNorm2d

from pruning.channels.attention import ATTENTION

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
LAYER_NORMS = (nn.LayerNorm, LayerNorm2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Exactly these types: a subclass may compute anything.
CUTTABLE = (
    *(*CONVS, *TRANSPOSED, nn.Linear, NonDynamicallyQuantizableLinear),
    *(*ATTENTION, *NORMS, nn.GroupNorm, *LAYER_NORMS),
)


def scales(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters with one number per channel, such as ConvNeXt's layer_scale (C, 1, 1), by name.

    All parameters with a single axis longer than 1 that belong to a module outside torch.nn.
    """
    return {
        f"{path}.{name}" if path else name: tensor
        for path, module in model.named_modules()
        if type(module) not in CUTTABLE and not type(module).__module__.startswith("torch.nn")
        for name, tensor in module._parameters.items()
        if tensor is not None and tensor.ndim and tensor.numel() == max(tensor.shape)
    }


def longest(tensor: Tensor) -> int:
    """The longest axis; among equal ones the first."""
    return int(np.argmax(tensor.shape))


def makes_channels(layer: nn.Module | None) -> bool:
    """Whether a layer's output channels are new, not those of its input."""
    convolves = isinstance(layer, (*CONVS, *TRANSPOSED)) and layer.groups == 1
    return convolves or isinstance(layer, (nn.Linear, *ATTENTION))


@contextmanager
def attention_by_steps() -> Iterator[None]:
    """Context manager: nn.MultiheadAttention runs operations whose FLOPs torch counts, not all as a single one."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
