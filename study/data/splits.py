"""The images of a study: loaded once and split into train, validation and test by a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from study.data.cache import Arrays, Source, open_arrays
from study.data.sources import ImageOptions, find
from study.data.stored import DiskImages, bytes_on_disk
from study.data.transforms import Augmentation

TEST_SHARE = 0.2  # split off from train if a data set has no test images
_TEST_SEED = 0  # fixed, so that the test images do not depend on the study's seed
_VALIDATION, _SAMPLES, _CALIBRATION = 1, 2, 3  # independent random streams of one seed


@dataclass(frozen=True, eq=False)
class Data:
    """A split data set. Images and labels are read-only; train, validation and test are disjoint.

    images: uint8 (N, H, W, C), in memory or read from disk when they are needed.
    labels: int64 (N,).
    train, validation, test: sorted indices into images and labels.
    mean, std: float32 (C,), of the train images' pixels, in [0, 1] units; the std of a constant channel is 1.
    """

    images: np.ndarray | DiskImages
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    fingerprint: str  # hash of the images' fingerprint and the split's parameters
    augmentation: Augmentation = Augmentation()
    given_validation: bool = False  # whether the data set comes with validation images, so that none are cut from train

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Input shape of a network: (channels, height, width)."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width


class Overview(NamedTuple):
    """What is known of a data set before any image is read.

    Attributes:
      in_shape: (channels, height, width) of an image.
      classes: number of classes.
      train: number of training images, without those for validation.
      validation: number of validation images.
      test: number of test images.
      given: which parts the data set comes with; others are cut from the training images.
      nbytes: about how many bytes the cache takes.
      notes: lines about what was found.
    """

    in_shape: tuple[int, int, int]
    classes: int
    train: int
    validation: int
    test: int
    given: frozenset[str]
    nbytes: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        cut = {part: "" if part in self.given else " cut from train" for part in ("validation", "test")}
        channels, height, width = self.in_shape
        counted = (
            f"images: {self.train:,} to train on, {self.validation:,} for validation{cut['validation']}, "
            f"{self.test:,} for test{cut['test']}; {self.classes:,} classes; {height}x{width}x{channels} pixels"
        )
        return "\n".join([*(f"note: {note}" for note in self.notes), counted])


def load(
    dataset: str,
    *,
    train_samples: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Data:
    """Load and split a data set; images are decoded on the first call and cached.

    Args:
      dataset: a name in DATASETS, or a user's function.
      train_samples: number of training images to use, stratified, after the validation split; default: all.
      validation: share of the training images held out for validation, in (0, 1), stratified; not used if the data
        set comes with validation images.
      seed: of the validation split and of train_samples; the test images are always the same.
      say: is told what the data set holds (an `Overview`, as text) before images are decoded.
      **options: of `ImageOptions`.

    Raises:
      ValueError: unusable images, folder or numbers.
    """
    source = find(dataset, ImageOptions(**options))
    say(str(_overview(source, train_samples, validation)))
    arrays = open_arrays(source, options.get("cache"))
    train, held_out, test = _split(arrays.labels, source, validation, seed)
    if train_samples is not None:
        if not 1 <= train_samples <= len(train):
            raise ValueError(f"train_samples {train_samples}: {dataset} has {len(train)} after the validation split")
        train = train[stratified(arrays.labels[train], train_samples, [seed, _SAMPLES])]
    mean, std = _mean_std(arrays, train)
    drawn = json.dumps([arrays.fingerprint, train_samples, validation, seed])
    fingerprint = hashlib.sha256(drawn.encode()).hexdigest()[:16]
    return Data(
        arrays.images, arrays.labels, train, held_out, test, arrays.class_names, mean, std, fingerprint,
        given_validation=bool(source.validation),
    )  # fmt: skip


def overview(dataset: str, *, train_samples: int | None = None, validation: float = 0.1, **options: Any) -> Overview:
    """What a data set holds; no image is read. Arguments and errors as those of `load`."""
    return _overview(find(dataset, ImageOptions(**options)), train_samples, validation)


def _overview(source: Source, train_samples: int | None, validation: float) -> Overview:
    height, width, channels = source.shape
    test = _test_count(source)
    left = source.train if source.test else source.train - test
    held_out = source.validation or _validation_count(left, validation)
    train = left if source.validation else left - held_out
    given = frozenset(part for part in ("validation", "test") if getattr(source, part))
    nbytes = bytes_on_disk(source.images, source.jpeg)
    return Overview(
        (channels, height, width), source.classes, min(train, train_samples or train), held_out, test, given, nbytes,
        source.notes,
    )  # fmt: skip


def stratified(labels: np.ndarray, count: int, seed: int | Sequence[int]) -> np.ndarray:
    """Sorted positions of `count` samples drawn from `labels` (N,) without replacement, stratified by class.

    Class sizes are rounded by largest remainder (ties: lower class first), so that they add up to `count`. With the
    same seed, a larger sample contains nearly all of a smaller one. Raises ValueError unless 0 <= count <= N.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"cannot draw {count} samples from {len(labels)}")
    classes, sizes = np.unique(labels, return_counts=True)
    quotas, remainders = np.divmod(count * sizes, max(1, len(labels)))
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(labels == c))[:quota] for c, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def calibration(data: Data, samples: int, seed: int) -> np.ndarray:
    """Sorted indices into `data.images` of `samples` train images, stratified. Raises ValueError if too many."""
    if not 1 <= samples <= len(data.train):
        raise ValueError(f"calibration_samples {samples}: there are {len(data.train)} train images")
    return np.asarray(data.train[stratified(data.labels[data.train], samples, [seed, _CALIBRATION])])


def _split(labels: np.ndarray, source: Source, share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, for validation and for test."""
    train, test = np.arange(source.train), source.train + source.validation + np.arange(source.test)
    if not source.test:
        test = stratified(labels[: source.train], _test_count(source), _TEST_SEED)
        train = np.setdiff1d(train, test)
    if source.validation:
        return train, source.train + np.arange(source.validation), test
    held_out = train[stratified(labels[train], _validation_count(len(train), share), [seed, _VALIDATION])]
    return np.setdiff1d(train, held_out), held_out, test


def _test_count(source: Source) -> int:
    count = source.test or round(TEST_SHARE * source.train)
    if not count:
        raise ValueError(f"{source.key['dataset']}: {source.train} images are too few to split off a test set")
    return count


def _validation_count(train: int, share: float) -> int:
    count = round(share * train) if 0 < share < 1 else 0
    if not 0 < count < train:
        raise ValueError(f"validation {share}: must be in (0, 1) and split {train} images into two non-empty parts")
    return count


def _mean_std(arrays: Arrays, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = len(rows) * arrays.images.shape[1] * arrays.images.shape[2]
    mean, square = arrays.moments[rows].sum(0) / (pixels * np.array([[255.0], [255.0**2]]))
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
