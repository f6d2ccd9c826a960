"""Evaluate a network, and recalibrate its batch norms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from study.training.device_data import Images
from study.training.precision import precision


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, rows: Tensor, batch_size: int = 500) -> float:
    """Share of `rows` that the model, in eval mode, classifies right, in [0, 1]."""
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=rows.device)
    for chosen in rows.split(batch_size):
        inputs, labels = images.batch(chosen)
        with precision(inputs.device):
            right += (model(inputs).argmax(1) == labels).sum()
    return right.item() / len(rows)


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    images: Images,
    rows: Tensor,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
) -> None:
    """Batch norm's running statistics anew: the average over `rows`, seen once, augmented by the generator's draws.

    As the network was trained: statistics of unaugmented images cost a ResNet-20 that had seen padded crops 4 points.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative average
    model.eval()  # dropout stays off, so that only the batch norms see a difference
    for norm in norms:
        norm.train()
    for chosen in rows.split(batch_size):
        if len(chosen) > 1:
            with precision(rows.device):
                model(images.batch(chosen, generator)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
