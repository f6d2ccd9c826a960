"""Data sets by name.

To add one: write a function (data_dir, image_size, cache) -> Source and add it to DATASETS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from study.data import imagefolder
from study.data.cache import Source, cache_dir

DIGITS_IMAGES = 1797
CIFAR_IMAGES = (50_000, 10_000)  # train, test


def find(dataset: str, data_dir: str | Path | None, image_size: int | None, cache: str | Path | None = None) -> Source:
    """The `Source` of a data set; lists files but reads no image.

    Args:
      dataset: a name in DATASETS.
      data_dir: folder of the images; required by imagefolder.
      image_size: pixels; required by imagefolder, fixed for the others.
      cache: cache folder, see `cache_dir`.

    Raises:
      ValueError: unknown data set, or arguments that do not fit it.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset {dataset!r} is unknown; choose from {', '.join(DATASETS)}")
    folder = Path(data_dir).expanduser().resolve() if data_dir is not None else None
    return DATASETS[dataset](folder, image_size, cache_dir(cache))


def _digits(data_dir: Path | None, image_size: int | None, cache: Path) -> Source:
    """Handwritten digits bundled with scikit-learn: 1,797 images of 8x8x1 (Alpaydin and Kaynak 1998)."""
    _fixed_size("digits", 8, image_size)
    if data_dir is not None:
        raise ValueError(f"digits come with scikit-learn, not from {data_dir}; to read images there use imagefolder")

    def read(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        images[..., 0] = np.rint(digits.images * (255 / 16))
        return digits.target, [str(name) for name in digits.target_names]

    return Source((8, 8, 1), 10, DIGITS_IMAGES, 0, {"dataset": "digits"}, read)


def _cifar(name: str, classes: int, data_dir: Path | None, image_size: int | None, cache: Path) -> Source:
    """CIFAR-10 or -100 from torchvision, stored in `data_dir` (default: the cache); downloaded if missing."""
    _fixed_size(name, 32, image_size)
    root = data_dir or cache

    def read(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
        from torchvision import datasets

        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        try:
            train, test = (kind(root, train=train, download=True) for train in (True, False))
        except Exception as error:  # network, archive or disk
            raise ValueError(
                f"{name} could not be downloaded to {root} ({type(error).__name__}: {error}). "
                f"Without network: --data-dir DIR with {kind.base_folder} in DIR; or images of your own, "
                "DIR/train/<class>/*.jpg, with dataset: imagefolder and --data-dir DIR"
            ) from error
        np.concatenate([train.data, test.data], out=images)
        return np.array(train.targets + test.targets), list(train.classes)

    return Source((32, 32, 3), classes, *CIFAR_IMAGES, {"dataset": name}, read)


def _imagefolder(data_dir: Path | None, image_size: int | None, cache: Path) -> Source:
    """data_dir/train/<class>/* and data_dir/test/<class>/*; without test/, test images are split off from train."""
    if data_dir is None:
        raise ValueError("imagefolder needs --data-dir DIR, with images as DIR/train/<class>/<name>.jpg")
    if not str(data_dir).isprintable():  # it is written to study.yaml
        raise ValueError(f"--data-dir {str(data_dir)!r}: its name is no text; rename the folder")
    if image_size is None or image_size < 1:
        raise ValueError(f"imagefolder needs image_size, the pixels to which images are resized; got {image_size}")
    train = imagefolder.list_classes(data_dir / "train")
    test = imagefolder.list_classes(data_dir / "test") if (data_dir / "test").exists() else {}
    if test and (unmatched := sorted(set(train) ^ set(test))):
        raise ValueError(
            f"{data_dir}: train and test differ in their classes: {', '.join(unmatched)} is in only one of them"
        )
    parts = [list(chain.from_iterable(part.values())) for part in (train, test)]
    files = parts[0] + parts[1]

    def read(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
        imagefolder.decode_all([file.path for file in files], images)
        labels = [np.repeat(np.arange(len(part)), [len(f) for f in part.values()]) for part in (train, test) if part]
        return np.concatenate(labels), list(train)

    key = {"dataset": "imagefolder", "image_size": image_size, "folder": str(data_dir), "files": files}
    return Source((image_size, image_size, 3), len(train), len(parts[0]), len(parts[1]), key, read)


def _fixed_size(dataset: str, size: int, image_size: int | None) -> None:
    if image_size not in (None, size):
        raise ValueError(
            f"{dataset} has images of {size} pixels, not image_size {image_size}; only imagefolder resizes"
        )


DATASETS: dict[str, Callable[[Path | None, int | None, Path], Source]] = {
    "digits": _digits,
    "cifar10": partial(_cifar, "cifar10", 10),
    "cifar100": partial(_cifar, "cifar100", 100),
    "imagefolder": _imagefolder,
}
