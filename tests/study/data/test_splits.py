"""Splits are exact, stratified and repeatable; batches are augmented and normalised as image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from study.data.splits import calibration, load, stratified
from study.data.transforms import Augmentation, cut_out, normalise, pad_crop, resized_crop


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- splits


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_a_stratified_draw_is_exact_in_total_and_to_one_in_each_class(labels: Any, share: Any, seed: Any) -> None:
    count = round(share * len(labels))
    drawn = stratified(labels, count, seed)
    assert len(drawn) == count
    assert (np.diff(drawn) > 0).all()  # sorted, none twice
    for c in range(5):
        fair = count * (labels == c).sum() / len(labels)
        assert abs((labels[drawn] == c).sum() - fair) < 1
    assert np.array_equal(drawn, stratified(labels, count, seed))


def test_largest_remainders_are_served_first_and_ties_go_to_the_lower_class() -> None:
    def quotas(sizes: list[int], count: int) -> list[int]:
        labels = np.repeat(np.arange(len(sizes)), sizes)
        return np.bincount(labels[stratified(labels, count, 0)], minlength=len(sizes)).tolist()

    assert quotas([50, 30, 20], 10) == [5, 3, 2]
    assert quotas([5, 3, 2], 4) == [2, 1, 1]  # fair: 2.0, 1.2, 0.8
    assert quotas([5, 5, 5], 4) == [2, 1, 1]
    assert quotas([1, 1, 8], 3) == [0, 0, 3]  # fair: 0.3, 0.3, 2.4
    assert quotas([3, 4], 0) == [0, 0]
    assert quotas([3, 4], 7) == [3, 4]


def test_every_image_of_a_class_is_as_likely_to_be_drawn() -> None:
    labels = np.repeat([0, 1], [5, 10])
    times = sum(np.bincount(stratified(labels, 6, seed), minlength=15) for seed in range(500))
    assert np.abs(times - 200).max() < 5 * (500 * 0.4 * 0.6) ** 0.5


@pytest.mark.parametrize("count", [-1, 4])
def test_more_than_there_are_cannot_be_drawn(count: Any) -> None:
    with pytest.raises(ValueError, match=f"{count} samples from 3"):
        stratified(np.zeros(3, int), count, 0)


def test_splits_are_disjoint_whole_stratified_and_repeatable() -> None:
    data, again, other = load("digits"), load("digits"), load("digits", seed=1)
    parts = [data.train, data.validation, data.test]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
    assert [len(p) for p in parts] == [1294, 144, 359]
    overall = np.bincount(data.labels) / 1797
    for part in parts:
        assert part.dtype == np.int64
        assert np.abs(np.bincount(data.labels[part]) - overall * len(part)).max() < 2
    assert all(np.array_equal(getattr(data, k), getattr(again, k)) for k in ("train", "validation", "test"))
    assert not np.array_equal(data.train, other.train)
    assert np.array_equal(data.test, other.test)


def test_train_samples_shrink_train_alone() -> None:
    whole, some = load("digits"), load("digits", train_samples=200)
    assert len(some.train) == 200
    assert np.isin(some.train, whole.train).all()
    assert np.bincount(whole.labels[some.train]).min() >= 19
    assert np.array_equal(whole.validation, some.validation)
    assert np.array_equal(load("digits", train_samples=1294).train, whole.train)
    for count in (0, 1295):
        with pytest.raises(ValueError, match=f"train_samples {count}: digits has 1294"):
            load("digits", train_samples=count)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, 0.0001, 0.9999, float("nan")])
def test_a_validation_share_that_leaves_a_side_empty_is_refused(share: Any) -> None:
    with pytest.raises(ValueError, match="validation"):
        load("digits", validation=share)


def test_calibration_is_a_stratified_part_of_train() -> None:
    data = load("digits")
    drawn = calibration(data, 100, seed=3)
    assert len(np.unique(drawn)) == 100
    assert np.isin(drawn, data.train).all()
    assert np.bincount(data.labels[drawn], minlength=10).min() >= 9
    assert np.array_equal(drawn, calibration(data, 100, seed=3))
    assert not np.array_equal(drawn, calibration(data, 100, seed=4))
    for samples in (0, 1295):
        with pytest.raises(ValueError, match=f"calibration_samples {samples}: there are 1294"):
            calibration(data, samples, 0)


def coloured_folder(root: Path, channels: np.ndarray) -> Path:
    """Images of one colour each, of `channels` (N, 3), in two classes, as train/<class>/<number>.png."""
    for name in ("a", "b"):
        (root / "train" / name).mkdir(parents=True)
        for number, colour in enumerate(channels.tolist()):
            Image.new("RGB", (4, 4), tuple(colour)).save(root / "train" / name / f"{number:03}.png")
    return root


def test_mean_and_std_are_those_of_the_train_images(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(256, size=(70, 3))
    folder = coloured_folder(tmp_path, colours)
    for data in (load("imagefolder", data_dir=folder, image_size=4, train_samples=20), load("digits")):
        pixels = data.images[data.train].astype(np.float64) / 255
        np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-6)
        assert data.mean.dtype == data.std.dtype == np.float32


def test_a_constant_channel_is_not_divided_by_zero(tmp_path: Path) -> None:
    folder = coloured_folder(tmp_path, np.array([(number, 51, 0) for number in range(10)]))
    data = load("imagefolder", data_dir=folder, image_size=4)
    assert data.std[0] > 0
    assert data.std[1:].tolist() == [1, 1]
    assert data.mean[1:] == pytest.approx([0.2, 0])


# --- batches


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_batches_have_mean_0_and_std_1_in_channels_last(device: torch.device, channels: Any) -> None:
    torch.manual_seed(0)
    images = torch.randint(256, (50, 6, 7, channels), dtype=torch.uint8)
    scaled = images.double() / 255
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2), correction=0)
    batch = normalise(images.to(device), mean.float().to(device), std.float().to(device))
    assert (batch.shape, batch.dtype, batch.device.type) == ((50, channels, 6, 7), torch.float32, device.type)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(batch.cpu().mean((0, 2, 3)), torch.zeros(channels), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.cpu().std((0, 2, 3), correction=0), torch.ones(channels))
    by_hand = (images[3, 4, 5, 0].item() / 255 - mean[0].item()) / std[0].item()
    assert batch[3, 0, 4, 5].item() == pytest.approx(by_hand, abs=1e-5)


def test_normalised_in_bf16_is_the_rounded_fp32_and_takes_lists_and_arrays() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    exact = normalise(images, [0.47], np.array([0.25], np.float32))
    assert torch.equal(normalise(images, [0.47], [0.25], torch.bfloat16), exact.bfloat16())


def one_by_one(images: torch.Tensor, seed: int, pad: int, device: str) -> torch.Tensor:
    """What `pad_crop` says it does, image by image: np.pad, a slice, a flip."""
    generator = torch.Generator(device).manual_seed(seed)
    shifts = torch.randint(2 * pad + 1, (2, len(images)), generator=generator, device=device).cpu()
    flips = torch.randint(2, (len(images),), generator=generator, device=device).cpu()
    height, width = images.shape[1:3]
    result = []
    for image, top, left, flip in zip(images.numpy(), *shifts.tolist(), flips.tolist(), strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        crop = padded[top : top + height, left : left + width]
        result.append(crop[:, ::-1] if flip else crop)
    return torch.from_numpy(np.array(result))


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    pad=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_augment_is_pad_crop_and_flip_image_by_image(device: torch.device, shape: Any, pad: Any, seed: Any) -> None:
    images = torch.randint(1, 256, shape, dtype=torch.uint8)
    result = pad_crop(images.to(device), torch.Generator(device).manual_seed(seed), pad)
    assert (result.dtype, result.device.type) == (torch.uint8, device.type)
    assert torch.equal(result.cpu(), one_by_one(images, seed, pad, device))


@pytest.mark.parametrize(("size", "pad"), [(32, 4), (8, 1), (4, 1), (64, 8), (65, 8)])
def test_by_default_the_pad_is_an_eighth(size: Any, pad: Any) -> None:
    images = torch.randint(256, (5, size, size, 3), dtype=torch.uint8)
    assert torch.equal(pad_crop(images, torch.Generator().manual_seed(1)), one_by_one(images, 1, pad, "cpu"))


def test_every_shift_is_as_likely_and_half_are_flipped() -> None:
    image = torch.zeros(5000, 8, 8, 1, dtype=torch.uint8)
    image[:, 3, 2] = 1  # one pixel, off centre: where it lands tells shift and flip
    landed = pad_crop(image, torch.Generator().manual_seed(0), 1).flatten(1).argmax(1)
    rows, columns = landed // 8, landed % 8
    counts = torch.bincount(rows * 8 + columns, minlength=64).view(8, 8)
    assert counts.sum() == 5000
    assert counts.count_nonzero() == 18  # 3 rows, and 3 columns on either side
    assert (counts[2:5, [1, 2, 3, 4, 5, 6]] - 5000 / 18).abs().max() < 5 * (5000 / 18) ** 0.5


def test_nothing_is_mirrored_unless_asked() -> None:
    """An image of which the left half is white: mirrored, it is white on the right."""
    images = torch.zeros(64, 16, 16, 1, dtype=torch.uint8)
    images[:, :, :8] = 255

    def white_on_the_right(**how: bool) -> float:
        found = Augmentation(**how)(images, torch.Generator().manual_seed(0))
        assert found.shape == images.shape
        return float((found[:, 6:10, 12].float() > 127).any(1).float().mean())

    assert white_on_the_right() == white_on_the_right(pad_crop=True) == 0
    cut = Augmentation(resized_crop=True)(images, torch.Generator().manual_seed(0))
    assert (cut.diff(dim=2) < 1).all()  # white, if any, stays on the left
    for other in ({}, {"pad_crop": True}, {"resized_crop": True}):
        assert 0.3 < white_on_the_right(flip=True, **other) < 0.7
    unchanged = torch.Generator().manual_seed(5)
    assert Augmentation()(images, unchanged) is images
    assert torch.equal(unchanged.get_state(), torch.Generator().manual_seed(5).get_state())  # and nothing is drawn


@settings(deadline=None, max_examples=40)
@given(
    size=st.integers(8, 24), left=st.floats(0, 0.5), top=st.floats(0, 0.5), width=st.floats(0.25, 0.5),
    height=st.floats(0.25, 0.5), flipped=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_box_is_cut_out_as_pillow_cuts_it(
    size: int, left: float, top: float, width: float, height: float, flipped: bool, seed: int
) -> None:
    """Pillow's `resize` with a box, which enlarges bilinearly; images of slopes, as the two differ at edges."""
    start, across, down = np.random.default_rng(seed).uniform(0, 80, 3)
    steps = np.arange(size) / size
    image = (start + across * steps[None, :] + down * steps[:, None]).astype(np.float32)
    box = (left * size, top * size, (left + width) * size, (top + height) * size)
    expected = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box))
    given_boxes = torch.tensor([[left, top, width, height]])
    found = cut_out(torch.tensor(image)[None, :, :, None], given_boxes, torch.tensor([flipped]))[0, :, :, 0].numpy()
    margin = slice(size // 4, -(size // 4))
    assert np.abs((found[:, ::-1] if flipped else found) - expected)[margin, margin].max() < 1


def test_parts_cut_out_at_random_are_of_all_sizes_and_lie_within_the_image() -> None:
    """Of an image whose two channels are the places in it, corners tell the box."""
    place = (torch.arange(64) + 0.5) * 4 - 0.5
    image = torch.stack([place[None, :].expand(64, 64), place[:, None].expand(64, 64)], dim=2)
    found = resized_crop(image.expand(400, 64, 64, 2), torch.Generator().manual_seed(0), flip=False)
    width, height = ((found[:, -1, -1, k] - found[:, 0, 0, k]) / 252 for k in (0, 1))
    area, ratio = width * height, width / height
    assert 0.23 <= area.min() < 0.3
    assert 0.9 < area.max() <= 1.01
    assert 0.72 <= ratio.min() < 0.8
    assert 1.25 < ratio.max() <= 1.36
    assert found.min() >= 0
    assert found.max() <= 255.5
