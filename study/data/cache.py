"""On-disk cache of decoded images, memory-mapped so that they open in milliseconds."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

FORMAT = 1  # increase when the format or meaning of cached files changes
LOAD_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError)  # raised for missing, truncated or foreign files


class Source(NamedTuple):
    """Description of a data set before any image is read: sizes, cache key and reader."""

    shape: tuple[int, int, int]  # height, width, channels of an image
    classes: int
    train: int  # number of training images, stored before the test images
    test: int  # number of test images; 0: split off from train
    key: dict[str, Any]  # JSON; identifies the images
    read: Callable[[np.ndarray], tuple[np.ndarray, list[str]]]  # images (N, H, W, C) to fill -> labels (N,), classes


class Arrays(NamedTuple):
    """A cached data set: read-only memory-mapped arrays, shared by all processes of a machine."""

    images: np.ndarray  # uint8 (N, H, W, C)
    labels: np.ndarray  # int64 (N,)
    moments: np.ndarray  # int64 (N, 2, C): per image, sums of pixel values and of their squares
    class_names: tuple[str, ...]
    fingerprint: str  # hash of `Source.key` and the format


def cache_dir(cache: str | Path | None = None) -> Path:
    """The cache folder shared by all studies: `cache`, or $STUDY_CACHE, or ~/.cache/pruning-study."""
    return Path(cache or os.environ.get("STUDY_CACHE") or "~/.cache/pruning-study").expanduser().absolute()


def open_arrays(source: Source, cache: str | Path | None = None) -> Arrays:
    """The arrays of `source` from the cache, which is built first if missing or damaged."""
    root = cache_dir(cache)
    text = json.dumps({"format": FORMAT, **source.key}, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = root / f"{source.key['dataset']}-{source.shape[0]}-{fingerprint}"
    with suppress(*LOAD_ERRORS):
        return _open(folder, source, fingerprint)
    with _build_lock(folder):
        with suppress(*LOAD_ERRORS):  # another process may have built it while this one waited
            return _open(folder, source, fingerprint)
        _build(folder, source)
        return _open(folder, source, fingerprint)


def _build_lock(folder: Path) -> AbstractContextManager[object]:
    """Exclusive lock between processes for building `folder`; waits for it."""
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        return FileLock(lock, fallback_to_soft=False).acquire()  # a soft lock would count the existing file as locked
    except OSError as error:
        raise ValueError(f"{lock.parent}: cannot be written ({error.strerror}); set STUDY_CACHE") from error


def _open(folder: Path, source: Source, fingerprint: str) -> Arrays:
    about = json.loads((folder / "about.json").read_text())
    # asarray: a plain ndarray view of the memory map, which Ray shares without a copy.
    arrays = [np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("images", "labels", "moments")]
    total, channels = source.train + source.test, source.shape[2]
    expected = [(total, *source.shape), (total,), (total, 2, channels)]
    if [a.shape for a in arrays] != expected or len(about["class_names"]) != source.classes:
        raise ValueError(f"{folder}: shapes or class names differ from its data set")
    images, labels, moments = arrays
    return Arrays(images, labels, moments, tuple(about["class_names"]), fingerprint)


def _build(folder: Path, source: Source) -> None:
    """Fill `folder` atomically: write to a sibling folder, then rename. Call under `_build_lock`."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left over from a killed process
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
        del images  # Windows renames no folder with an open file
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _moments(images: np.ndarray) -> np.ndarray:
    """int64 (N, 2, C): sums of pixel values and of their squares, to compute exact mean and std of any split."""
    count, height, width, channels = images.shape
    result = np.empty((count, 2, channels), np.int64)
    for start in range(0, count, 64):  # in chunks: squares take four times the memory
        pixels = images[start : start + 64].reshape(-1, height * width, channels)
        planes = pixels.transpose(0, 2, 1).copy()  # summing contiguous pixels is ten times as fast
        result[start : start + 64, 0] = planes.sum(2, dtype=np.int64)
        result[start : start + 64, 1] = np.square(planes, dtype=np.uint32).sum(2, dtype=np.int64)
    return result
