"""Layers and the inputs that they see, for tests against numpy's least squares."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def generator() -> Any:
    return torch.Generator().manual_seed(0)


def layer_and_columns() -> Any:
    """A convolution, its batches, and its input unfolded by torch: (columns, images and positions)."""
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    x = torch.randn(20, 3, 7, 7, dtype=torch.float64).relu()  # 16 positions: all are drawn
    unfolded = F.unfold(x, 3, padding=1, stride=2).transpose(0, 1).flatten(1)
    return conv, [(x[:8], x[:8]), (x[8:], x[8:])], unfolded.numpy()


def with_damping(x: Any) -> Any:
    """X with extra columns for the damping: least squares on these equals damped least squares on X."""
    return np.hstack([x, np.sqrt(0.01 * np.trace(x @ x.T) / len(x)) * np.eye(len(x))])


def refitted(x: Any, w: Any, kept: Any) -> Any:
    """Least squares by numpy for the target w @ x from the rows `kept` of x only, and the squared error."""
    new = np.zeros_like(w)
    new[kept] = np.linalg.lstsq(x[kept].T, w @ x, rcond=None)[0]
    return new, np.square((w - new) @ x).sum()
