"""On-disk cache of decoded images, which open in milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from study.data.stored import DiskImages, ImageWriter, bytes_on_disk, open_images

FORMAT = 1  # increase when the format or meaning of cached files changes
LOAD_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError)  # raised for missing, truncated or foreign files


Write = Callable[[int, np.ndarray], None]  # first row, images uint8 (B, H, W, C)


class Source(NamedTuple):
    """Description of a data set before any image is read: sizes, cache key and reader."""

    shape: tuple[int, int, int]  # height, width, channels of an image
    classes: int
    train: int  # number of training images, stored first
    test: int  # number of test images, stored last; 0: split off from train
    key: dict[str, Any]  # JSON; identifies the images
    read: Callable[[Write], tuple[np.ndarray, list[str]]]  # writes all images -> labels (N,), class names
    validation: int = 0  # number of validation images, stored after those of train; 0: split off from train
    jpeg: bool = False  # whether the cache keeps the images as JPEG
    notes: tuple[str, ...] = ()  # lines about what was found, for people

    @property
    def images(self) -> tuple[int, int, int, int]:
        """Shape of all images, (N, H, W, C)."""
        return (self.train + self.validation + self.test, *self.shape)


class Arrays(NamedTuple):
    """A cached data set: read-only memory-mapped arrays, shared by all processes of a machine."""

    images: np.ndarray | DiskImages  # uint8 (N, H, W, C)
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
    text = json.dumps({"format": FORMAT, **source.key, **({"jpeg": True} if source.jpeg else {})}, sort_keys=True)
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
    labels, moments = (np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("labels", "moments"))
    total, channels = source.images[0], source.shape[2]
    if labels.shape != (total,) or moments.shape != (total, 2, channels) or len(about["class_names"]) != source.classes:
        raise ValueError(f"{folder}: shapes or class names differ from its data set")
    images = open_images(folder, source.images, source.jpeg)
    return Arrays(images, labels, moments, tuple(about["class_names"]), fingerprint)


def _build(folder: Path, source: Source) -> None:
    """Fill `folder` atomically: write to a sibling folder, then rename. Call under `_build_lock`."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left over from a killed process
    part.mkdir()
    needed, free = bytes_on_disk(source.images, source.jpeg), shutil.disk_usage(part).free
    try:
        if needed > free:
            smaller = "" if source.jpeg else " (baseline.store=jpeg takes a fifth at most)"
            raise ValueError(
                f"{folder.parent}: {needed:,} bytes of images do not fit in {free:,}{smaller}; set STUDY_CACHE"
            )
        writer = ImageWriter(part, source.images, source.jpeg)
        try:
            labels, class_names = source.read(writer.write)
        finally:
            writer.close()
        np.save(part / "labels.npy", labels.astype(np.int64))
        about = {"class_names": class_names, **{k: v for k, v in source.key.items() if k != "files"}}
        (part / "about.json").write_text(json.dumps(about))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
