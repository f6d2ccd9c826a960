"""LAMP: scores made comparable between layers (Lee et al. 2021, arXiv:2010.07611)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def lamp(score: Tensor, name: str = "") -> Tensor:
    """The LAMP scores of one layer, from the highest score (any shape) to the lowest: float64 (n,), falling.

    Each score over the sum of itself and those before it; 0 for a score of 0, also in a layer of zeros; -inf stays.
    Summed from the top in float64: as differences from the whole, in float32, the top ones are off by 6 % in a large
    layer. NaN makes NaN. Raises ValueError, naming the layer, on scores that are negative or infinite.
    """
    flat = score.detach().reshape(-1)
    if flat.device.type == "cpu":  # numpy sorts in a third of torch's time; it knows no bfloat16
        flat = torch.from_numpy(np.sort((flat.float() if flat.dtype is torch.bfloat16 else flat).numpy()))
    else:
        flat = flat.sort().values
    falling = flat.flip(0).double()
    if bool(((falling < 0) & (falling > -torch.inf) | (falling == torch.inf)).any()):
        raise ValueError(f"scope lamp ranks finite scores of at least 0; those of {name!r} are not")
    return torch.where(falling > 0, falling / falling.clamp(min=0).cumsum(0), falling)
