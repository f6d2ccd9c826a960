"""The images of a study: loaded once and split into train, validation and test by a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.data.cache import Arrays, Source, open_arrays
from study.data.sources import find

TEST_SHARE = 0.2  # split off from train if a data set has no test images
_TEST_SEED = 0  # fixed, so that the test images do not depend on the study's seed
_VALIDATION, _SAMPLES, _CALIBRATION = 1, 2, 3  # independent random streams of one seed


@dataclass(frozen=True, eq=False)
class Data:
    """A split data set. Images and labels are read-only; train, validation and test are disjoint.

    images: uint8 (N, H, W, C); a batch permuted to NCHW is channels_last without a copy.
    labels: int64 (N,).
    train, validation, test: sorted indices into images and labels.
    mean, std: float32 (C,), of the train images' pixels, in [0, 1] units; the std of a constant channel is 1.
    """

    images: np.ndarray
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    fingerprint: str  # hash of the images' fingerprint and the split's parameters

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Input shape of a network: (channels, height, width)."""
        height, width, channels = self.images.shape[1:]
        return channels, height, width


def load(
    dataset: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    train_samples: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Data:
    """Load and split a data set; images are decoded on the first call and cached.

    Args:
      dataset: a name in DATASETS.
      data_dir: folder of the images; required by imagefolder.
      image_size: pixels; required by imagefolder.
      train_samples: number of training images to use, stratified, after the validation split; default: all.
      validation: share of the training images held out for validation, in (0, 1); stratified.
      seed: of the validation split and of train_samples; the test images are always the same.
      cache: cache folder, see `cache_dir`.

    Raises:
      ValueError: unusable images, folder or numbers.
    """
    source = find(dataset, data_dir, image_size, cache)
    arrays = open_arrays(source, cache)
    train, test = _split_test(arrays.labels, source)
    train, held_out = _split_validation(arrays.labels, train, validation, seed)
    if train_samples is not None:
        if not 1 <= train_samples <= len(train):
            raise ValueError(f"train_samples {train_samples}: {dataset} has {len(train)} after the validation split")
        train = train[stratified(arrays.labels[train], train_samples, [seed, _SAMPLES])]
    mean, std = _mean_std(arrays, train)
    drawn = json.dumps([arrays.fingerprint, train_samples, validation, seed])
    fingerprint = hashlib.sha256(drawn.encode()).hexdigest()[:16]
    return Data(arrays.images, arrays.labels, train, held_out, test, arrays.class_names, mean, std, fingerprint)


def shape_of(
    dataset: str, data_dir: str | Path | None = None, image_size: int | None = None
) -> tuple[tuple[int, int, int], int, int, int]:
    """((channels, height, width), classes, training images, test images) of a data set; no image is read.

    The number of training images includes validation. Raises ValueError as `load` does.
    """
    source = find(dataset, data_dir, image_size)
    height, width, channels = source.shape
    test = _test_count(source)
    return (channels, height, width), source.classes, source.train + source.test - test, test


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


def _split_test(labels: np.ndarray, source: Source) -> tuple[np.ndarray, np.ndarray]:
    given = np.arange(source.train)
    if source.test:
        return given, source.train + np.arange(source.test)
    test = stratified(labels, _test_count(source), _TEST_SEED)
    return np.setdiff1d(given, test), test


def _test_count(source: Source) -> int:
    count = source.test or round(TEST_SHARE * source.train)
    if not count:
        raise ValueError(f"{source.key['dataset']}: {source.train} images are too few to split off a test set")
    return count


def _split_validation(labels: np.ndarray, train: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    count = round(share * len(train)) if 0 < share < 1 else 0
    if not 0 < count < len(train):
        raise ValueError(
            f"validation {share}: must be in (0, 1) and split {len(train)} images into two non-empty parts"
        )
    held_out = train[stratified(labels[train], count, [seed, _VALIDATION])]
    return np.setdiff1d(train, held_out), held_out


def _mean_std(arrays: Arrays, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pixels = len(rows) * arrays.images.shape[1] * arrays.images.shape[2]
    mean, square = arrays.moments[rows].sum(0) / (pixels * np.array([[255.0], [255.0**2]]))
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
