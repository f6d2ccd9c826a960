"""Evaluate a network and recalibrate its batch norms."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from study.training.device_data import Images
from study.training.precision import precision


def evaluate(model: nn.Module, images: Images, rows: Tensor) -> float:
    """Accuracy of the model on `rows`, in [0, 1]; see `correct`."""
    return accuracy(correct(model, images, rows))


@torch.inference_mode()
def correct(model: nn.Module, images: Images, rows: Tensor) -> np.ndarray:
    """Which images the model classifies correctly, bool (n,); leaves it in eval mode.

    Args:
      model: the network, on the images' device.
      images: the data set.
      rows: int64 (n,) indices into `images`.
    """
    model.eval()
    found = []
    for inputs, labels in images.stream(rows.split(images.evaluated_at_once)):
        with precision(inputs.device):
            found.append(model(inputs).argmax(1) == labels)
    return torch.cat(found).cpu().numpy()


def accuracy(correct: np.ndarray) -> float:
    """The share of images that are classified correctly, in [0, 1]."""
    return int(np.count_nonzero(correct)) / len(correct)


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    images: Images,
    rows: Tensor,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
) -> None:
    """Recompute batch norm's running statistics as the average over one pass through `rows`.

    Augment as in training: for a ResNet-20 trained on padded crops, statistics of unaugmented images cost 4 points.

    Args:
      model: the network, on the images' device; left in eval mode.
      images: the data set.
      rows: int64 (n,) indices into `images`.
      generator: of the augmentation; None: no augmentation.
      batch_size: images per forward pass.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    model.eval()  # keeps dropout off; only batch norms are set to training mode
    for norm in norms:
        norm.train()
    for inputs, _ in images.stream([chosen for chosen in rows.split(batch_size) if len(chosen) > 1], generator):
        with precision(rows.device):
            model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
