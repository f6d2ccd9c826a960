"""Train on a set of images larger than the memory that training may take, against the same network on a set in memory.

    python -m benchmarks.large_images --folder /tmp/large --images 100000 --size 224

Makes an image folder (1,000 JPEGs of noise and slopes, each under many names), decodes it into the cache as a study
does, and trains in turn on batches read from the cache's file and on the same number of images held in memory. Before
every round the system is told to forget the file, so that it is read from the disk. Prints images per second of both,
their ratio, and the largest memory that the process took (resident set), decoding included.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import models
from study.data import splits
from study.data.splits import Data
from study.data.stored import DiskImages
from study.data.transforms import Augmentation
from study.training import device_data, loop, optimisers, precision

DISTINCT = 1000


def make_folder(folder: Path, images: int, size: int) -> None:
    """An image folder of two classes and test images, in which DISTINCT files have many names."""
    if folder.exists():
        return
    draw = np.random.default_rng(0)
    sources = folder.with_name(f".{folder.name}.sources")
    sources.mkdir(parents=True)
    for number in range(DISTINCT):
        noise = Image.fromarray(draw.integers(256, size=(28, 28, 3), dtype=np.uint8))
        noise.resize((size + 32, size), Image.Resampling.BICUBIC).save(sources / f"{number}.jpg", quality=85)
    for number in range(images):
        place = folder / ("test" if number % 50 == 0 else "train") / "ab"[number // 2 % 2]
        place.mkdir(parents=True, exist_ok=True)
        os.link(sources / f"{number % DISTINCT}.jpg", place / f"{number:07}.jpg")


def in_memory(data: Data, images: int) -> Data:
    """A data set of as many of its training images, held in memory."""
    assert isinstance(data.images, DiskImages)
    rows = data.train[:: max(1, len(data.train) // images)][:images]
    every = np.arange(len(rows))
    return replace(data, images=data.images.read(rows), labels=data.labels[rows], train=every, validation=every)


def trainer(data: Data, model: str, batch_size: int) -> Callable[[int], float]:
    """A function that trains for some steps and returns images per second."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    placed = device_data.place(data, device)
    network = precision.placed(models.build(model, len(data.class_names), data.in_shape), device)
    optimizer = optimisers.sgd(network.parameters(), 0.01, 5e-4)
    batches = device_data.endless_batches(placed.images, placed.train, batch_size, 0)

    def run(steps: int) -> float:
        started = time.perf_counter()
        loop.train(network, batches, optimizer, [0.01] * steps)
        return steps * batch_size / (time.perf_counter() - started)

    return run


def forget(images: DiskImages) -> None:
    """Tell the system to keep nothing of the file in memory, where it can be told."""
    if hasattr(os, "posix_fadvise"):
        with open(images.path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    """Run the benchmark; returns 1 if the ratio is below 0.8 or the memory above `--memory`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the images are made; kept")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--model", default="mobilenet_v3_small")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--store", choices=["decoded", "jpeg"], default="decoded")
    parser.add_argument("--memory", type=float, default=4.0, help="GB that the process may take")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_folder(args.folder, args.images, args.size)
    started = time.perf_counter()
    data = splits.load(
        "imagefolder", data_dir=args.folder, image_size=args.size, resize="crop", store=args.store, say=print
    )
    if not isinstance(data.images, DiskImages):
        print("these images fit in memory; take more", file=sys.stderr)
        return 2
    on_disk = Path(data.images.path).stat().st_size
    print(f"ready after {time.perf_counter() - started:.0f} s: {data.images.nbytes / 1e9:.1f} GB of pixels", end=", ")
    print(f"{on_disk / 1e9:.1f} GB on disk; peak memory {_peak():.2f} GB", flush=True)
    images = data.images
    data = replace(data, augmentation=Augmentation(pad_crop=True, flip=True))
    large, small = (trainer(d, args.model, args.batch_size) for d in (data, in_memory(data, 20 * args.batch_size)))
    rates: list[tuple[float, float]] = []
    for run in range(args.rounds + 1):
        forget(images)
        found = large(args.steps), small(args.steps)
        if run:  # the first is to warm up
            rates.append(found)
            print(f"round {run}: {found[0]:.1f} images/s from disk, {found[1]:.1f} from memory", flush=True)
    ratio = statistics.median(one / other for one, other in rates)
    print(f"{args.model}, batch {args.batch_size}: {ratio:.2f} of the speed from memory; peak memory {_peak():.2f} GB")
    return int(ratio < 0.8 or _peak() > args.memory)


def _peak() -> float:
    """The largest resident set of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


if __name__ == "__main__":
    sys.exit(main())
