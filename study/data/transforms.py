"""Augment and normalise batches of images on their device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn


def normalise(
    images: Tensor,
    mean: Tensor | np.ndarray | Sequence[float],
    std: Tensor | np.ndarray | Sequence[float],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Normalise a batch: (images / 255 - mean) / std, (B, C, H, W) in channels_last memory.

    Args:
      images: (B, H, W, C), from 0 to 255.
      mean: (C,) in [0, 1] units; pass tensors on the images' device to avoid copies in a loop.
      std: (C,), as mean.
      dtype: of the result.
    """
    mean, std = (torch.as_tensor(v, dtype=torch.float32, device=images.device) for v in (mean, std))
    return torch.addcmul(-mean / std, images.float(), 1 / (255 * std)).to(dtype).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random about the images of a training batch.

    pad_crop: pad with zeros, an eighth of the height on each side, and cut out the old size (4 pixels at 32, as in He
      et al. 2016, arXiv:1512.03385, section 4.2).
    resized_crop: cut out 25 to 100 % of the area, of proportions from 3:4 to 4:3, and resize that to the old size
      (after Szegedy et al. 2015, arXiv:1409.4842, section 6; they take 8 % and more).
    flip: mirror every second image, left to right.
    """

    pad_crop: bool = False
    flip: bool = False
    resized_crop: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A batch, uint8 (B, H, W, C), augmented; uint8 or (resized) float32 of the same shape and range."""
        if self.resized_crop:
            return resized_crop(images, generator, self.flip)
        if self.pad_crop:
            return pad_crop(images, generator, flip=self.flip)
        return pad_crop(images, generator, 0, flip=True) if self.flip else images


def pad_crop(images: Tensor, generator: torch.Generator, pad: int | None = None, flip: bool = True) -> Tensor:
    """Zero-pad, randomly crop and (if told) randomly flip each image of a batch, uint8 (B, H, W, C).

    pad: pixels on each side, by default an eighth of the height, at least 1. Draws, in order: top (B,), left (B,) in
    [0, 2 * pad], flip (B,) in {0, 1}.
    """
    batch, height, width, channels = images.shape
    pad = max(1, height // 8) if pad is None else pad
    draw = partial(torch.randint, generator=generator, device=generator.device)
    top, left = draw(2 * pad + 1, (2, batch, 1)).to(images.device)
    padded = nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    rows = top + torch.arange(height, device=images.device)  # (B, H)
    across = torch.arange(width, device=images.device)
    if flip:
        across = torch.where(draw(2, (batch, 1)).to(images.device) > 0, across.flip(0), across)
    cols = left + across  # (B, W)
    first = torch.arange(batch, device=images.device)[:, None] * (height + 2 * pad)
    # One index_select of whole pixels is three times as fast as indexing with three tensors.
    pixels = (first + rows)[:, :, None] * (width + 2 * pad) + cols[:, None, :]  # (B, H, W)
    return padded.view(-1, channels).index_select(0, pixels.view(-1)).view(images.shape)


def resized_crop(images: Tensor, generator: torch.Generator, flip: bool) -> Tensor:
    """Cut a random part out of each image of a batch, uint8 (B, H, W, C), and resize it: float32 of the same shape.

    Draws four numbers in [0, 1) an image: area, proportions, top and left; and with `flip` a fifth.
    """
    draws = torch.rand(5 if flip else 4, len(images), generator=generator, device=generator.device).to(images.device)
    area, log_ratio = 0.25 + 0.75 * draws[0], math.log(4 / 3) * (2 * draws[1] - 1)
    width, height = ((area * ratio).sqrt().clamp(max=1) for ratio in (log_ratio.exp(), (-log_ratio).exp()))
    left, top = draws[3] * (1 - width), draws[2] * (1 - height)
    boxes = torch.stack([left, top, width, height], dim=1)
    return cut_out(images, boxes, draws[4] < 0.5 if flip else torch.zeros_like(left, dtype=torch.bool))


def cut_out(images: Tensor, boxes: Tensor, flipped: Tensor) -> Tensor:
    """The boxes of images (B, H, W, C), each resized (bilinear) to H x W: float32 (B, H, W, C).

    Args:
      images: of any type.
      boxes: (B, 4): left, top, width and height as shares of the image.
      flipped: bool (B,): which are mirrored, left to right.
    """
    left, top, width, height = boxes.unbind(1)
    zero = torch.zeros_like(left)
    across = torch.stack([torch.where(flipped, -width, width), zero, 2 * left + width - 1], dim=1)
    down = torch.stack([zero, height, 2 * top + height - 1], dim=1)
    planes = images.permute(0, 3, 1, 2).float()
    grid = nn.functional.affine_grid(torch.stack([across, down], dim=1), list(planes.shape), align_corners=False)
    cut = nn.functional.grid_sample(planes, grid, padding_mode="border", align_corners=False)
    return cut.permute(0, 2, 3, 1)
