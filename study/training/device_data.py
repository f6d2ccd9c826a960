"""A data set on a device, and batches from it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from study.data.splits import Data
from study.data.transforms import augment, normalise
from study.training.precision import memory_format

Batch = tuple[Tensor, Tensor]


class Images(NamedTuple):
    """A data set on a device: images uint8 (N, H, W, C), labels int64 (N,), mean and std (C,) of the train images."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Normalised images (B, C, H, W) and labels (B,) of `rows`; augmented if a `generator` is given."""
        images = self.images[rows]
        if generator is not None:
            images = augment(images, generator)
        inputs = normalise(images, self.mean, self.std)
        if (layout := memory_format(inputs.device)) is torch.contiguous_format:
            # Single-channel images count as contiguous in both formats, and convolutions would treat these strides as
            # channels last: only a copy gets the strides of `memory_format`.
            return inputs.clone(memory_format=layout), self.labels[rows]
        return inputs.contiguous(memory_format=layout), self.labels[rows]

    def batches(self, rows: Tensor, size: int = 128) -> list[Batch]:
        """Batches of at most `size` images of `rows`, in order and not augmented."""
        return [self.batch(chosen) for chosen in rows.split(size)]


def on_device(data: Data, device: torch.device) -> Images:
    """Move `data` to `device`; no copy on the CPU."""
    with warnings.catch_warnings():
        # from_numpy warns about the read-only arrays that workers share; nothing here writes to them.
        warnings.simplefilter("ignore", UserWarning)
        return Images(
            *(torch.from_numpy(array).to(device) for array in (data.images, data.labels, data.mean, data.std))
        )


class DeviceData(NamedTuple):
    """A data set on a device with its splits, as row indices int64 (n,) into `images`."""

    images: Images
    train: Tensor
    validation: Tensor
    test: Tensor


def place(data: Data, device: torch.device) -> DeviceData:
    """Move `data` and its splits to `device`; on the CPU the images are not copied."""
    rows = (rows_of(indices, device) for indices in (data.train, data.validation, data.test))
    return DeviceData(on_device(data, device), *rows)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Batches per epoch, at least one; the last partial batch is dropped (batch norm needs more than one image)."""
    return max(1, samples // batch_size)


def endless_batches(images: Images, rows: Tensor, batch_size: int, augmented: bool, seed: int) -> Iterator[Batch]:
    """Endless batches of `rows`, reshuffled every epoch.

    Args:
      images: the data set.
      rows: int64 (n,) indices into `images`.
      batch_size: images per batch; the last partial batch of an epoch is dropped.
      augmented: whether to augment the images.
      seed: of shuffling and augmentation.
    """
    generator = torch.Generator(rows.device).manual_seed(seed)
    while True:
        shuffled = rows[torch.randperm(len(rows), generator=generator, device=rows.device)]
        for step in range(steps_per_epoch(len(rows), batch_size)):
            chosen = shuffled[step * batch_size : (step + 1) * batch_size]
            yield images.batch(chosen, generator if augmented else None)


def rows_of(indices: np.ndarray, device: torch.device) -> Tensor:
    """Index array -> int64 tensor on `device`."""
    return torch.tensor(indices, device=device)
