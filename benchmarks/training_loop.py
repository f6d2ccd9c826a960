"""Images per second in training: the study's loop against a plain fp32 loop over a DataLoader with PIL transforms.

    python -m benchmarks.training_loop --model resnet18 --batch-size 128 --rounds 3

Both train the same network on the same 32x32 images with the same optimiser, batch size and threads, in turn in one
process; the ratio is of the medians. The study's loop uses bf16 and channels last (only with bf16 in hardware), and
augments whole batches at once.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import models
from study.data.transforms import Augmentation
from study.training import device_data, loop, optimisers, precision


class PilImages(Dataset[tuple[torch.Tensor, int]]):
    """Like torchvision's CIFAR10: a PIL image per item, with the usual transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[row])), int(self.labels[row])


def plain(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int) -> Callable[[int], None]:
    """A typical training loop, as a function of the number of steps.

    Args:
      model: on its device.
      images: uint8 (n, 32, 32, 3).
      labels: int (n,).
      batch_size: images per step.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(PilImages(images, labels), batch_size, shuffle=True, drop_last=True)
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = itertools.chain.from_iterable(itertools.repeat(loader))

    def run(steps: int) -> None:
        model.train()
        for inputs, targets in itertools.islice(batches, steps):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs.to(device)), targets.to(device)).backward()
            optimizer.step()

    return run


def ours(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray, batch_size: int) -> Callable[[int], None]:
    """The study's training loop, as a function of the number of steps.

    Args:
      model: on its device.
      images: uint8 (n, 32, 32, 3).
      labels: int (n,).
      batch_size: images per step.
    """
    device = next(model.parameters()).device
    precision.placed(model, device)
    mean, std = torch.tensor([0.49, 0.48, 0.45], device=device), torch.tensor([0.25] * 3, device=device)
    pixels, classes = torch.tensor(images, device=device), torch.tensor(labels, device=device)
    held = device_data.Images(pixels, classes, mean, std, Augmentation(pad_crop=True, flip=True))
    optimizer = optimisers.sgd(model.parameters(), 0.01, 5e-4)
    batches = device_data.endless_batches(held, torch.arange(len(labels), device=device), batch_size, 0)

    def run(steps: int) -> None:
        loop.train(model, batches, optimizer, [0.01] * steps)

    return run


def main() -> None:
    """Print images per second of both loops, and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4 * args.batch_size, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, len(images))
    loops = {
        loop.__name__: loop(models.build(args.model, 10).to(device), images, labels, args.batch_size)
        for loop in (plain, ours)
    }
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(args.rounds + 1):  # the first round warms up
        for name, run in loops.items():
            started = time.perf_counter()
            run(args.steps)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                speeds[name].append(args.steps * args.batch_size / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    bf16 = "bf16" if precision.gains_by_bf16(device) else "fp32 (no bf16 in hardware)"
    print(f"{args.model}, batch {args.batch_size}, {args.threads} thread(s), {device.type}; ours in {bf16}")
    print(f"plain loop {medians['plain']:8.1f} images/s\nthis study {medians['ours']:8.1f} images/s")
    print(f"ratio      {medians['ours'] / medians['plain']:8.2f}")


if __name__ == "__main__":
    main()
