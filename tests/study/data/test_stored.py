"""Images are read from files as they were written, whole or by rows, from any thread."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.data import sources, stored
from study.data.splits import load
from study.data.stored import DiskImages, ImageWriter, open_images
from study.data.transforms import Augmentation
from study.training import device_data, evaluation


def smooth(count: int, size: int, channels: int, seed: int) -> np.ndarray:
    """Random images that a JPEG keeps nearly unchanged: slopes."""
    generator = np.random.default_rng(seed)
    start, slope = generator.uniform(0, 100, (2, count, 1, 1, channels))
    return (start + slope * np.arange(size)[None, :, None, None] / size + np.zeros((1, 1, size, 1))).astype(np.uint8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    count=st.integers(1, 12), size=st.integers(2, 9), channels=st.sampled_from([1, 3]), jpeg=st.booleans(),
    seed=st.integers(0, 999), blocks=st.integers(1, 5),
)  # fmt: skip
def test_what_is_written_in_any_order_is_read_by_any_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, size: int, channels: int, jpeg: bool, seed: int,
    blocks: int,
) -> None:  # fmt: skip
    images, draw = smooth(count, size, channels, seed), np.random.default_rng(seed)
    writer = ImageWriter(tmp_path, images.shape, jpeg)
    for start in draw.permutation(np.arange(0, count, blocks)):
        writer.write(int(start), images[start : start + blocks])
    writer.close()
    expected = images.astype(np.int64)
    sums = np.stack([expected.sum((1, 2)), (expected**2).sum((1, 2))], axis=1)
    assert np.array_equal(np.load(tmp_path / "moments.npy"), sums)
    whole = open_images(tmp_path, images.shape, jpeg)
    if not jpeg:
        assert np.array_equal(np.asarray(whole), images)
    monkeypatch.setattr(stored, "IN_MEMORY", -1)
    disk = pickle.loads(pickle.dumps(open_images(tmp_path, images.shape, jpeg)))
    monkeypatch.undo()
    assert isinstance(disk, DiskImages)
    assert (len(disk), disk.shape, disk.nbytes) == (count, images.shape, images.nbytes)
    rows = draw.integers(count, size=7)
    assert np.abs(disk.read(rows).astype(int) - images[rows]).max() <= (
        8 if jpeg else 0
    )  # of 2x2 pixels of noise, more than of a photo
    assert disk.read(rows[:0]).shape == (0, *images.shape[1:])


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_file_that_was_cut_short_is_no_data_set(tmp_path: Path, jpeg: bool) -> None:
    images = smooth(5, 8, 3, 0)
    writer = ImageWriter(tmp_path, images.shape, jpeg)
    writer.write(0, images)
    writer.close()
    path = next(path for path in tmp_path.iterdir() if path.name.startswith("images"))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="greater than file size|of another size"):
        open_images(tmp_path, images.shape, jpeg)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The digits in memory, and as a set too large for it."""
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    small = load("digits")
    monkeypatch.setattr(stored, "IN_MEMORY", 1000)
    large = load("digits")
    assert isinstance(small.images, np.ndarray)
    assert isinstance(large.images, DiskImages)
    assert small.fingerprint == large.fingerprint
    assert np.array_equal(small.mean, large.mean)
    return small, large


def test_batches_from_disk_are_those_from_memory(both: Any, device: torch.device) -> None:
    how = Augmentation(pad_crop=True, flip=True)
    drawn = []
    for data in both:
        placed = device_data.place(data, device)
        images = placed.images._replace(augmentation=how)
        stream = device_data.endless_batches(images, placed.train[:100], 16, seed=3)
        drawn.append([batch for batch, _ in zip(stream, range(20), strict=False)])
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_accuracy_and_statistics_from_disk_are_those_from_memory(both: Any, device: torch.device) -> None:
    torch.manual_seed(0)
    found = []
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)).to(device)
    for data in both:
        placed = device_data.place(data, device)
        evaluation.recalibrate(network, placed.images, placed.train)
        statistics = network.state_dict()["0.running_mean"].clone()
        found.append((evaluation.evaluate(network, placed.images, placed.test), float(statistics)))
    assert found[0] == found[1]


def test_a_process_reads_no_more_than_a_few_batches_ahead(both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, read = threading.Lock(), DiskImages.read
    begun = 0

    def counted(images: DiskImages, rows: np.ndarray) -> np.ndarray:
        nonlocal begun
        with lock:
            begun += 1
        return read(images, rows)

    monkeypatch.setattr(DiskImages, "read", counted)
    placed = device_data.place(both[1], torch.device("cpu"))
    stream = placed.images.stream(placed.train.split(10))
    for used in range(1, 6):
        next(stream)
        assert begun <= used + device_data.READ_AHEAD


def test_an_error_in_reading_reaches_whoever_trains(both: Any) -> None:
    placed = device_data.place(both[1], torch.device("cpu"))
    Path(both[1].images.path).write_bytes(b"short")
    with pytest.raises(OSError, match="ends early"):
        list(placed.images.stream(placed.train.split(10)))


def test_fewer_large_images_are_evaluated_at_once(both: Any) -> None:
    images = device_data.on_device(both[0], torch.device("cpu"))

    def at_once(size: int) -> int:
        return images._replace(images=torch.empty(1, size, size, 3, dtype=torch.uint8)).evaluated_at_once

    assert [at_once(size) for size in (8, 32, 64, 128, 224, 1024)] == [500, 500, 500, 125, 40, 8]


def test_large_sets_and_those_that_ask_are_kept_as_jpegs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path))
    pixels, asked = load("digits"), load("digits", store="jpeg")
    monkeypatch.setattr(sources, "DECODED", 1000)
    large, unwilling = load("digits"), load("digits", store="decoded")
    assert isinstance(pixels.images, np.ndarray)
    assert isinstance(unwilling.images, np.ndarray)
    for data in (asked, large):
        assert isinstance(data.images, DiskImages)
        assert data.images.jpeg
        every = data.images.read(np.arange(len(data.images))).astype(int)
        assert np.abs(every - pixels.images).mean() < 3
        assert np.array_equal(data.labels, pixels.labels)
    assert asked.fingerprint == large.fingerprint != pixels.fingerprint
