"""The precision and memory format in which networks run on a device."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch
from torch import nn

PRECISIONS = ("fp32", "bf16")

# cuDNN's defaults round the inputs of fp32 convolutions to 10 bits, and add up gradients in any order. Scores are then
# those of no other machine, and a recipe with a given seed has another row each time.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True


def gains_by_bf16(device: torch.device) -> bool:
    """Whether networks run in bfloat16: if `device` supports it in hardware (emulation is many times slower).

    The environment variable STUDY_PRECISION (`bf16` or `fp32`) overrides this. Raises ValueError for other values.
    """
    if forced := forced_precision():
        return forced == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def forced_precision() -> str | None:
    """The value of STUDY_PRECISION, to reproduce another machine's results; None if not set."""
    forced = os.environ.get("STUDY_PRECISION") or None
    if forced not in (None, *PRECISIONS):
        raise ValueError(f"STUDY_PRECISION={forced}: choices: {', '.join(PRECISIONS)}")
    return forced


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where networks run in bf16, else contiguous.

    On CPUs without bf16 channels last is only 5 % faster, and oneDNN's AVX2 kernel for the weight gradient of 1x1
    convolutions crashes for some odd channel counts, as in cut networks (torch 2.15, 3 -> 8 channels).
    """
    return torch.channels_last if gains_by_bf16(device) else torch.contiguous_format


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """Move `model` to `device` in the device's `memory_format`."""
    return model.to(device).to(memory_format=memory_format(device))


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast if `gains_by_bf16(device)`, else plain fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=gains_by_bf16(device))
