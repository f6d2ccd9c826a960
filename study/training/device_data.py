"""A data set on a device, and batches of it."""

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
    """A data set on a device: images uint8 (N, H, W, C), labels int64 (N,), mean and std of the train images (C,)."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Images (B, C, H, W), normalised (augmented by `generator`'s draws if one is given), and labels (B,)."""
        images = self.images[rows]
        if generator is not None:
            images = augment(images, generator)
        inputs = normalise(images, self.mean, self.std)
        if (layout := memory_format(inputs.device)) is torch.contiguous_format:
            # Images of one channel are contiguous either way, and with these strides convolutions take them for
            # channels last: only a copy is laid out as `memory_format` wants it.
            return inputs.clone(memory_format=layout), self.labels[rows]
        return inputs.contiguous(memory_format=layout), self.labels[rows]


def on_device(data: Data, device: torch.device) -> Images:
    """`data` on `device`; on the CPU without a copy."""
    with warnings.catch_warnings():
        # Arrays that workers share are read-only, of which from_numpy warns; nothing here writes to them.
        warnings.simplefilter("ignore", UserWarning)
        return Images(
            *(torch.from_numpy(array).to(device) for array in (data.images, data.labels, data.mean, data.std))
        )


class DeviceData(NamedTuple):
    """A data set on a device, with its splits: rows of `images`, int64 (n,)."""

    images: Images
    train: Tensor
    validation: Tensor
    test: Tensor


def place(data: Data, device: torch.device) -> DeviceData:
    """`data` on `device`, with its splits; on the CPU the images are not copied."""
    rows = (rows_of(indices, device) for indices in (data.train, data.validation, data.test))
    return DeviceData(on_device(data, device), *rows)


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Batches in an epoch: whole ones only (batch norm cannot learn from a rest of one), but at least one."""
    return max(1, samples // batch_size)


def endless_batches(images: Images, rows: Tensor, batch_size: int, augmented: bool, seed: int) -> Iterator[Batch]:
    """Batches of `rows` for ever, shuffled anew for every epoch; all draws come from `seed`."""
    generator = torch.Generator(rows.device).manual_seed(seed)
    while True:
        shuffled = rows[torch.randperm(len(rows), generator=generator, device=rows.device)]
        for step in range(steps_per_epoch(len(rows), batch_size)):
            chosen = shuffled[step * batch_size : (step + 1) * batch_size]
            yield images.batch(chosen, generator if augmented else None)


def rows_of(indices: np.ndarray, device: torch.device) -> Tensor:
    """Index array -> int64 tensor on `device`."""
    return torch.tensor(indices, device=device)
