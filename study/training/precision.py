"""In which precision and memory format a device runs networks."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch
from torch import nn

PRECISIONS = ("fp32", "bf16")


def gains_by_bf16(device: torch.device) -> bool:
    """Whether networks run in bfloat16: where `device` multiplies it in hardware; emulated it is many times slower.

    The environment's STUDY_PRECISION, `bf16` or `fp32`, decides instead where it is set. Raises ValueError for others.
    """
    if forced := forced_precision():
        return forced == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def forced_precision() -> str | None:
    """What STUDY_PRECISION asks for, to repeat another machine's rows on this one; None if it is not set."""
    forced = os.environ.get("STUDY_PRECISION") or None
    if forced not in (None, *PRECISIONS):
        raise ValueError(f"STUDY_PRECISION={forced}: choices: {', '.join(PRECISIONS)}")
    return forced


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where bf16 is gained too, else contiguous.

    On processors without bf16 channels last gains 5 %, and oneDNN's AVX2 kernel for the weight gradient of 1x1
    convolutions crashes on it for some odd channel counts, such as cut networks have (torch 2.15, 3 -> 8 channels).
    """
    return torch.channels_last if gains_by_bf16(device) else torch.contiguous_format


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """`model`, moved to `device` in its `memory_format`."""
    return model.to(device).to(memory_format=memory_format(device))


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast where the device gains by it, plain fp32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=gains_by_bf16(device))
