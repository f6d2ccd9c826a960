"""Scores of the untouched baseline: computed by the first trial of a study that needs them, and shared by all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, np.ndarray]


class Store(Protocol):
    """Where scores are kept: gives those under `key`, which the first to ask computes."""

    def __call__(self, key: str, compute: Callable[[], Arrays]) -> Arrays: ...


def unshared(key: str, compute: Callable[[], Arrays]) -> Arrays:
    """The store that keeps nothing, for a trial by itself."""
    return compute()


def shared(store: Store, key: str, compute: Callable[[], dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """The scores under `key`, on `device`; a private copy."""
    arrays = store(key, lambda: {name: score.cpu().numpy() for name, score in compute().items()})
    return {name: torch.tensor(array, device=device) for name, array in arrays.items()}
