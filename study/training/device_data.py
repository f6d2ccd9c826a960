"""A data set on a device, and batches from it."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from study.data.splits import Data
from study.data.stored import DiskImages
from study.data.transforms import Augmentation, normalise
from study.training.precision import memory_format

Batch = tuple[Tensor, Tensor]
READ_AHEAD = 4  # batches, each by a thread
DEVICE_SHARE = 0.1  # of a GPU's memory that images may take, since several trials may share the GPU


class Images(NamedTuple):
    """A data set as a device uses it: images uint8 (N, H, W, C), on the device unless they take too much of its memory.

    labels int64 (N,), mean and std (C,) are on the device. `augmentation`: of training batches.
    """

    images: Tensor | DiskImages
    labels: Tensor
    mean: Tensor
    std: Tensor
    augmentation: Augmentation = Augmentation()

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.labels.device

    @property
    def evaluated_at_once(self) -> int:
        """Images of a batch in evaluation: 500, fewer of more than 64 pixels, since activations grow with the area."""
        return max(8, min(500, 500 * 64 * 64 // (self.images.shape[1] * self.images.shape[2])))

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Normalised images (B, C, H, W) and labels (B,) of `rows`; augmented if a `generator` is given."""
        return self._prepared(self._pixels(rows), rows, generator)

    def stream(self, chunks: Iterable[Tensor], generator: torch.Generator | None = None) -> Iterator[Batch]:
        """A batch for each of these rows, as `batch` gives them; images that lie elsewhere are read ahead."""
        if isinstance(self.images, Tensor) and self.images.device == self.device:
            for rows in chunks:
                yield self.batch(rows, generator)
            return
        reading: deque[tuple[Tensor, Future[Tensor]]] = deque()
        for rows in chunks:
            reading.append((rows, _readers().submit(self._pixels, rows)))
            if len(reading) > READ_AHEAD:
                rows, pixels = reading.popleft()
                yield self._prepared(pixels.result(), rows, generator)
        for rows, pixels in reading:
            yield self._prepared(pixels.result(), rows, generator)

    def batches(self, rows: Tensor, size: int = 128) -> list[Batch]:
        """Batches of at most `size` images of `rows`, in order and not augmented."""
        return list(self.stream(rows.split(size)))

    def _pixels(self, rows: Tensor) -> Tensor:
        """uint8 (B, H, W, C) on the device."""
        if isinstance(self.images, Tensor):
            return self.images[rows.to(self.images.device)].to(self.device)
        return torch.from_numpy(self.images.read(rows.cpu().numpy())).to(self.device)

    def _prepared(self, images: Tensor, rows: Tensor, generator: torch.Generator | None) -> Batch:
        if generator is not None:
            images = self.augmentation(images, generator)
        inputs = normalise(images, self.mean, self.std)
        if (layout := memory_format(inputs.device)) is torch.contiguous_format:
            # Single-channel images count as contiguous in both formats, and convolutions would treat these strides as
            # channels last: only a copy gets the strides of `memory_format`.
            return inputs.clone(memory_format=layout), self.labels[rows]
        return inputs.contiguous(memory_format=layout), self.labels[rows]


@cache
def _readers() -> ThreadPoolExecutor:
    """Threads of this process that read images."""
    return ThreadPoolExecutor(READ_AHEAD, "images")


def on_device(data: Data, device: torch.device) -> Images:
    """Move `data` to `device`: no copy on a CPU; on a GPU the images too, unless they take over DEVICE_SHARE of it."""
    images: Tensor | DiskImages = _tensor(data.images) if isinstance(data.images, np.ndarray) else data.images
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    if data.images.nbytes <= DEVICE_SHARE * total:
        if isinstance(images, DiskImages):
            images = torch.from_numpy(images.read(np.arange(len(images))))
        images = images.to(device)
    labels, mean, std = (_tensor(array).to(device) for array in (data.labels, data.mean, data.std))
    return Images(images, labels, mean, std, data.augmentation)


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # from_numpy warns about the read-only arrays that workers share; nothing here writes to them.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


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


def endless_batches(images: Images, rows: Tensor, batch_size: int, seed: int) -> Iterator[Batch]:
    """Endless augmented batches of `rows`, reshuffled every epoch.

    Args:
      images: the data set.
      rows: int64 (n,) indices into `images`.
      batch_size: images per batch; the last partial batch of an epoch is dropped.
      seed: of shuffling and augmentation.
    """
    generator = torch.Generator(rows.device).manual_seed(seed)
    while True:
        shuffled = rows[torch.randperm(len(rows), generator=generator, device=rows.device)]
        yield from images.stream(shuffled.split(batch_size)[: steps_per_epoch(len(rows), batch_size)], generator)


def rows_of(indices: np.ndarray, device: torch.device) -> Tensor:
    """Index array -> int64 tensor on `device`."""
    return torch.tensor(indices, device=device)
