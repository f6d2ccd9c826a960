"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn


def constant(progress: float) -> float:
    """Constant 1."""
    return 1.0


def cosine(progress: float) -> float:
    """Cosine decay from 1 to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def cosine_restarts(progress: float) -> float:
    """Cosine decay from 1 to 0 over the steps between two cuts, then again (Renda et al. 2020, arXiv:2003.02389).

    progress: of these steps, see `RESTARTING`.
    """
    return cosine(progress)


def one_cycle(progress: float, warm_up: float = 0.25) -> float:
    """Linear warm-up from 1/25 to 1, by default over the first quarter, then cosine decay to 0.

    After Smith 2018, arXiv 1803.09820.
    """
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return cosine((progress - warm_up) / (1 - warm_up))


def sgd(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum 0.9."""
    return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with torch's defaults."""
    return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay)


LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine_restarts": cosine_restarts,
    "cosine": cosine,
    "constant": constant,
    "one_cycle": one_cycle,
}
RESTARTING = {"cosine_restarts"}  # schedules that begin anew after every cut; others span the whole fine-tuning
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float, float], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
}
