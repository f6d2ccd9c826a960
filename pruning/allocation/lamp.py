"""LAMP: scores normalised to be comparable between layers (Lee et al. 2021, arXiv:2010.07611)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def lamp(score: Tensor, name: str = "") -> Tensor:
    """The LAMP scores of one layer, from the highest to the lowest score: float64 (n,), descending.

    Each score (any shape) is divided by the sum of itself and all higher ones; 0 stays 0, -inf stays. Sums run from the
    highest score in float64: subtracting from the total in float32 is off by 6 % at the top of a large layer. NaN gives
    NaN. Raises ValueError with the layer's `name` on scores that are negative or infinite.
    """
    flat = score.detach().reshape(-1)
    if flat.device.type == "cpu":  # numpy sorts three times as fast as torch, but lacks bfloat16
        flat = torch.from_numpy(np.sort((flat.float() if flat.dtype is torch.bfloat16 else flat).numpy()))
    else:
        flat = flat.sort().values
    falling = flat.flip(0).double()
    if bool(((falling < 0) & (falling > -torch.inf) | (falling == torch.inf)).any()):
        raise ValueError(f"scope lamp ranks finite scores of at least 0; those of {name!r} are not")
    return torch.where(falling > 0, falling / falling.clamp(min=0).cumsum(0), falling)
