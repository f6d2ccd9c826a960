"""Decoded images, kept on disk so that they open in milliseconds."""

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

FORMAT = 1  # to be raised when what is kept changes its form or meaning
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


def _alone(folder: Path) -> AbstractContextManager[object]:
    """Waits until this process is the only one to build `folder`, and is so until the context ends."""
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        return FileLock(lock, fallback_to_soft=False).acquire()  # which would take the file itself for a lock
    except OSError as error:
        raise ValueError(f"{lock.parent}: cannot be written ({error.strerror}); set STUDY_CACHE") from error


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
