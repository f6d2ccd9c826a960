"""The data sets by name, and their decoded images, kept on disk so that they open in milliseconds.

Adding one: write a function (data_dir, image_size) -> Source and name it in DATASETS.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from study import imagefolder

FORMAT = 1  # to be raised when what is kept changes its form or meaning
DIGITS_IMAGES = 1797
CIFAR_IMAGES = (50_000, 10_000)  # train, test
DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError)  # raised by files missing, truncated or foreign


class Source(NamedTuple):
    """A data set before anything is read: its sizes, what determines it, and how to read it."""

    shape: tuple[int, int, int]  # of an image: height, width, channels
    classes: int
    train: int  # number of images, which come before those of test
    test: int  # 0: to be cut from train
    key: dict[str, Any]  # JSON; a change of it means other images
    read: Callable[[np.ndarray], tuple[np.ndarray, list[str]]]  # fills images (N, H, W, C); labels (N,), class names


class Arrays(NamedTuple):
    """A data set as it is kept: read-only and mapped into memory, which all processes of a machine share."""

    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,)
    moments: np.ndarray  # int64 (N, 2, C): per image, the sums of its pixel values and of their squares
    class_names: tuple[str, ...]
    fingerprint: str  # hash of what determines the above


def cache_dir(cache: str | Path | None = None) -> Path:
    """The folder of everything kept between studies: `cache`, or $STUDY_CACHE, or ~/.cache/pruning-study."""
    return Path(cache or os.environ.get("STUDY_CACHE") or "~/.cache/pruning-study").expanduser().absolute()


def find(dataset: str, data_dir: str | Path | None, image_size: int | None, cache: str | Path | None = None) -> Source:
    """The Source called `dataset`; only names of files are read. ValueError for what does not fit it."""
    if dataset not in DATASETS:
        raise ValueError(f"dataset {dataset!r} is unknown; choose from {', '.join(DATASETS)}")
    folder = Path(data_dir).expanduser().resolve() if data_dir is not None else None
    return DATASETS[dataset](folder, image_size, cache_dir(cache))


def open_arrays(source: Source, cache: str | Path | None = None) -> Arrays:
    """The arrays of `source` from the cache; read and kept there first if they are missing or damaged."""
    root = cache_dir(cache)
    text = json.dumps({"format": FORMAT, **source.key}, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = root / f"{source.key['dataset']}-{source.shape[0]}-{fingerprint}"
    with suppress(*DAMAGED):
        return _opened(folder, source, fingerprint)
    with _alone(folder):
        with suppress(*DAMAGED):  # another process may have built it while this one waited
            return _opened(folder, source, fingerprint)
        _build(folder, source)
        return _opened(folder, source, fingerprint)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time build `folder`."""
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise ValueError(f"{lock.parent}: cannot be written ({error.strerror}); set STUDY_CACHE") from error
    with open(lock, "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _opened(folder: Path, source: Source, fingerprint: str) -> Arrays:
    about = json.loads((folder / "about.json").read_text())
    # asarray: a plain array over the same mapping, which Ray hands out without a copy.
    arrays = [np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("images", "labels", "moments")]
    total, channels = source.train + source.test, source.shape[2]
    expected = [(total, *source.shape), (total,), (total, 2, channels)]
    if [a.shape for a in arrays] != expected or len(about["class_names"]) != source.classes:
        raise ValueError(f"{folder}: does not hold what it is named for")
    images, labels, moments = arrays
    return Arrays(images, labels, moments, tuple(about["class_names"]), fingerprint)


def _build(folder: Path, source: Source) -> None:
    """Fill `folder` whole or not at all: beside it first, then by rename. To be called alone."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
    part.mkdir()
    shape = (source.train + source.test, *source.shape)
    needed, free = math.prod(shape), shutil.disk_usage(part).free
    try:
        if needed > free:  # writing to a mapped file on a full disk would kill the process
            raise ValueError(f"{folder.parent}: {needed:,} bytes of images do not fit in {free:,}; set STUDY_CACHE")
        images = np.lib.format.open_memmap(part / "images.npy", "w+", np.uint8, shape)
        labels, class_names = source.read(images)
        images.flush()
        np.save(part / "labels.npy", labels.astype(np.int64))
        np.save(part / "moments.npy", _moments(images))
        about = {"class_names": class_names, **{k: v for k, v in source.key.items() if k != "files"}}
        (part / "about.json").write_text(json.dumps(about))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _moments(images: np.ndarray) -> np.ndarray:
    """int64 (N, 2, C): sums of pixel values and of their squares, for the exact mean and std of any split."""
    count, height, width, channels = images.shape
    result = np.empty((count, 2, channels), np.int64)
    for start in range(0, count, 64):  # a few images at a time: squares take four times the memory
        pixels = images[start : start + 64].reshape(-1, height * width, channels)
        planes = pixels.transpose(0, 2, 1).copy()  # sums run ten times as fast along contiguous pixels
        result[start : start + 64, 0] = planes.sum(2, dtype=np.int64)
        result[start : start + 64, 1] = np.square(planes, dtype=np.uint32).sum(2, dtype=np.int64)
    return result


def _digits(data_dir: Path | None, image_size: int | None, cache: Path) -> Source:
    """scikit-learn's handwritten digits: 1,797 images of 8x8x1, in the package (Alpaydin and Kaynak 1998)."""
    _fixed_size("digits", 8, image_size)
    if data_dir is not None:
        raise ValueError(f"digits are part of scikit-learn and not read from {data_dir}; for images there: imagefolder")

    def read(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
        from sklearn.datasets import load_digits  # takes a second to import

        digits = load_digits()
        images[..., 0] = np.rint(digits.images * (255 / 16))
        return digits.target, [str(name) for name in digits.target_names]

    return Source((8, 8, 1), 10, DIGITS_IMAGES, 0, {"dataset": "digits"}, read)


def _cifar(name: str, classes: int, data_dir: Path | None, image_size: int | None, cache: Path) -> Source:
    """CIFAR-10 or -100 by torchvision, from `data_dir` (else the cache), downloaded into it if missing."""
    _fixed_size(name, 32, image_size)
    root = data_dir or cache

    def read(images: np.ndarray) -> tuple[np.ndarray, list[str]]:
        from torchvision import datasets

        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        try:
            train, test = (kind(root, train=train, download=True) for train in (True, False))
        except Exception as error:  # of network, archive or disk
            raise ValueError(
                f"{name} could not be downloaded to {root} ({type(error).__name__}: {error}). "
                f"Without network: --data-dir DIR with {kind.base_folder} in DIR; or images of your own, "
                "DIR/train/<class>/*.jpg, with dataset: imagefolder and --data-dir DIR"
            ) from error
        np.concatenate([train.data, test.data], out=images)
        return np.array(train.targets + test.targets), list(train.classes)

    return Source((32, 32, 3), classes, *CIFAR_IMAGES, {"dataset": name}, read)


def _imagefolder(data_dir: Path | None, image_size: int | None, cache: Path) -> Source:
    """data_dir/train/<class>/* and data_dir/test/<class>/*; a missing test is cut from train."""
    if data_dir is None:
        raise ValueError("imagefolder needs --data-dir DIR, with images as DIR/train/<class>/<name>.jpg")
    if image_size is None or image_size < 1:
        raise ValueError(f"imagefolder needs image_size, the pixels to which images are resized; got {image_size}")
    train = imagefolder.list_classes(data_dir / "train")
    test = imagefolder.list_classes(data_dir / "test") if (data_dir / "test").exists() else {}
    if test and (odd := sorted(set(train) ^ set(test))):
        raise ValueError(f"{data_dir}: train and test differ in their classes: {', '.join(odd)} is in one of them only")
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
            f"{dataset} has images of {size} pixels, not image_size {image_size}; resized is imagefolder only"
        )


DATASETS: dict[str, Callable[[Path | None, int | None, Path], Source]] = {
    "digits": _digits,
    "cifar10": partial(_cifar, "cifar10", 10),
    "cifar100": partial(_cifar, "cifar100", 100),
    "imagefolder": _imagefolder,
}
