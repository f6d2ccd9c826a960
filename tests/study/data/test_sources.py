"""The data sets as they are found, in folders and archives, and the cache of their decoded images."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets as torchvision_datasets

from study.data import cache as data_cache
from study.data import decoding, sources, splits
from study.data.decoding import decode
from study.data.splits import load, overview

COLOURS = {"blue": (0, 0, 200), "green": (0, 150, 0), "red": (100, 0, 0)}


def fill(folder: Path, count: int, names: Any = tuple(COLOURS), size: Any = (8, 8)) -> None:
    """`count` PNGs a class, each of its class's colour and, in the first pixel, its number."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new("RGB", size, COLOURS[name])
            image.putpixel((0, 0), (number, number, number))
            image.save(folder / name / f"{number:03}.png")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "images" / "train", 20)
    fill(tmp_path / "images" / "test", 4)
    return tmp_path / "images"


def read(folder: Path, **kwargs: Any) -> splits.Data:
    return load("imagefolder", data_dir=folder, **{"image_size": 8, **kwargs})


def kept_in(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if not path.name.startswith(".")]


# --- data sets


def test_digits_are_scikit_learns_in_256_steps(cache: Any) -> None:
    from sklearn.datasets import load_digits

    digits, data = load_digits(), load("digits")
    assert (data.images.shape, data.images.dtype) == ((1797, 8, 8, 1), np.dtype(np.uint8))
    assert data.in_shape == (1, 8, 8)
    assert np.abs(data.images[..., 0] / 255 - digits.images / 16).max() <= 0.5 / 255 + 1e-12
    assert np.array_equal(data.labels, digits.target)
    assert data.class_names == tuple("0123456789")
    assert overview("digits")[:5] == ((1, 8, 8), 10, 1294, 144, 359)
    assert (len(data.train) + len(data.validation), len(data.test)) == (1438, 359)


def test_a_folder_is_read_as_it_lies(cache: Any, folder: Any) -> None:
    (folder / "train" / "red" / "notes.txt").write_text("not an image")
    (folder / "train" / ".thumbnails").mkdir()
    (folder / "train" / "red" / "._000.png").write_bytes(b"what a Mac leaves behind")
    (folder / "train" / "red" / "more").mkdir()
    (folder / "train" / "red" / "000.png").rename(folder / "train" / "red" / "more" / "000.PNG")
    data = read(folder)
    assert data.class_names == ("blue", "green", "red")
    assert data.images.shape == (72, 8, 8, 3)
    colours = np.array([COLOURS[name] for name in data.class_names])
    assert np.array_equal(data.images[:, 4, 4], colours[data.labels])
    assert np.array_equal(np.bincount(data.labels[data.test]), [4, 4, 4])
    assert sorted(data.images[data.test][:, 0, 0, 0]) == sorted([0, 1, 2, 3] * 3)
    assert overview("imagefolder", data_dir=folder, image_size=8)[:5] == ((3, 8, 8), 3, 54, 6, 12)


def test_a_missing_test_folder_is_cut_from_train_whatever_the_seed(cache: Any, tmp_path: Path) -> None:
    fill(tmp_path / "images" / "train", 10)
    one, two = read(tmp_path / "images"), read(tmp_path / "images", seed=7)
    assert np.array_equal(np.bincount(one.labels[one.test]), [2, 2, 2])
    assert np.array_equal(one.test, two.test)
    assert not np.array_equal(one.validation, two.validation)
    assert overview("imagefolder", data_dir=tmp_path / "images", image_size=8)[:5] == ((3, 8, 8), 3, 22, 2, 6)


def test_images_of_any_kind_become_upright_rgb_of_one_size(tmp_path: Path) -> None:
    def kept(image: Image.Image, suffix: str = ".png", **kwargs: Any) -> np.ndarray:
        image.save(tmp_path / f"x{suffix}", **kwargs)
        return decode(str(tmp_path / f"x{suffix}"), 8)

    left_red = Image.new("RGB", (40, 20))
    left_red.paste((255, 0, 0), (0, 0, 20, 20))
    assert np.array_equal(kept(left_red)[4, :, 0] > 127, [True] * 4 + [False] * 4)  # squeezed, not cropped
    orientation = Image.Exif()
    orientation[274] = 6  # to be turned by a quarter, clockwise: left becomes top
    turned = kept(left_red, ".jpg", exif=orientation)
    assert np.array_equal(turned[:, 4, 0] > 127, [True] * 4 + [False] * 4)
    sixteen_bits = kept(Image.fromarray(np.full((8, 8), 0x4012, np.uint16)))
    assert np.array_equal(sixteen_bits, np.full((8, 8, 3), 0x40))
    for mode, colour, expected in [("L", 9, 9), ("1", 1, 255), ("LA", (7, 255), 7), ("RGBA", (5, 5, 5, 0), 5)]:
        assert np.array_equal(kept(Image.new(mode, (8, 8), colour)), np.full((8, 8, 3), expected))
    assert np.array_equal(kept(left_red.quantize(4)), kept(left_red))
    slope = np.linspace(0, 255, 24).astype(np.uint8)
    large = Image.fromarray(slope[None, :].repeat(24, 0))
    # A JPEG, scaled down as it is decoded, is what the image is when it is resized from all its pixels.
    assert np.abs(kept(large, ".jpg", quality=100).astype(int) - kept(large).astype(int)).max() <= 3


def test_images_that_cannot_be_decoded_are_counted_and_five_are_named(cache: Any, folder: Any) -> None:
    for number in range(7):
        path = folder / "train" / "green" / f"{number:03}.png"
        path.write_bytes(path.read_bytes()[:-20] if number else b"")
    (folder / "test" / "red" / "lost.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"8 of 73 images cannot be decoded: .*000\.png .* and 3 more") as raised:
        read(folder)
    assert "004.png" in str(raised.value)
    assert "005.png" not in str(raised.value)
    assert not kept_in(cache)
    assert not list(cache.glob(".*.part"))  # nothing half-built is left


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: (f / "train").rename(f / "learn"), r"images/train: no such folder"),
        (lambda f: [(f / "train" / c).rename(f / c) for c in COLOURS], r"images/train: holds no class"),
        (lambda f: [(f / "train" / c).rename(f / c) for c in ("red", "blue")], r"one class only \(green\)"),
        (lambda f: (f / "test" / "red").rename(f / "red"), r"differ in their classes: red"),
        (lambda f: (f / "test" / "red").rename(f / "test" / "pink"), r"differ in their classes: pink, red"),
        (lambda f: (f / "train" / "grey").mkdir(), r"images/train: no image in grey"),
    ],
)
def test_a_folder_that_is_no_data_set_is_named(cache: Any, folder: Any, spoil: Any, reason: Any) -> None:
    spoil(folder)
    for ask in (lambda: read(folder), lambda: overview("imagefolder", data_dir=folder, image_size=8)):
        with pytest.raises(ValueError, match=reason):
            ask()


@pytest.mark.parametrize(
    ("dataset", "arguments", "reason"),
    [
        ("mnist", {}, r"'mnist' is unknown; choose from digits, cifar10, cifar100, imagefolder"),
        ("imagefolder", {"image_size": 8}, "--data-dir"),
        ("imagefolder", {"data_dir": "/nowhere"}, "image_size"),
        ("imagefolder", {"data_dir": "/nowhere", "image_size": 0}, "image_size"),
        ("imagefolder", {"data_dir": "/nowhere", "image_size": 8}, "/nowhere/train: no such folder"),
        ("digits", {"image_size": 32}, "8 pixels"),
        ("cifar10", {"image_size": 64}, "32 pixels"),
        ("digits", {"data_dir": "/nowhere"}, "imagefolder"),
    ],
)
def test_arguments_that_do_not_fit_the_data_set_are_refused(
    cache: Any, dataset: Any, arguments: Any, reason: Any
) -> None:
    for ask in (load, overview):
        with pytest.raises(ValueError, match=reason):
            ask(dataset, **arguments)


def test_cifars_shape_is_known_without_a_download(cache: Any) -> None:
    assert overview("cifar10")[:5] == ((3, 32, 32), 10, 45_000, 5_000, 10_000)
    assert overview("cifar100")[:5] == ((3, 32, 32), 100, 45_000, 5_000, 10_000)
    assert not cache.exists()


def test_cifar_that_cannot_be_downloaded_points_to_local_images(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: Any, **_kwargs: Any) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for name in ("cifar10", "cifar100"):
        with pytest.raises(ValueError, match=rf"(?s){name} .*resolution.*--data-dir.*imagefolder"):
            load(name)


def test_cifar_is_read_from_the_archives_own_files(cache: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, generator = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    base.mkdir()

    def write(name: str, content: dict) -> str:
        (base / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((base / name).read_bytes()).hexdigest()

    planes = generator.integers(256, size=(60, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(10, size=60)
    batches = [
        [name, write(name, {"data": planes[i : i + 10].reshape(10, -1), "labels": labels[i : i + 10].tolist()})]
        for i, name in zip(range(0, 60, 10), [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], strict=True)
    ]
    kind = torchvision_datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", batches[:5])
    monkeypatch.setattr(kind, "test_list", batches[5:])
    md5 = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    monkeypatch.setattr(sources, "CIFAR_IMAGES", (50, 10))
    data = load("cifar10", data_dir=tmp_path)
    assert np.array_equal(data.images.transpose(0, 3, 1, 2), planes)
    assert np.array_equal(data.labels, labels)
    assert np.array_equal(data.test, np.arange(50, 60))
    assert data.class_names == tuple("abcdefghij")


# --- the cache


def test_a_second_load_decodes_nothing_and_maps_the_file(
    cache: Any, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(folder)
    monkeypatch.setattr(decoding, "decode_files", lambda *_: pytest.fail("decoded again"))
    second = read(folder)
    assert np.array_equal(first.images, second.images)
    assert isinstance(second.images.base, np.memmap)
    assert not second.images.flags.writeable
    assert first.fingerprint == second.fingerprint
    (kept,) = kept_in(cache)
    assert kept.name.startswith("imagefolder-8-")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "moments.npy", "about.json"])
@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda b: b"", lambda b: b"\0" * len(b), None])
def test_a_damaged_cache_is_built_again(cache: Any, folder: Any, name: Any, damage: Any) -> None:
    first = read(folder)
    images = np.array(first.images)
    path = kept_in(cache)[0] / name
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))
    second = read(folder)
    assert np.array_equal(images, second.images)
    assert np.array_equal(first.labels, second.labels)
    assert path.read_bytes() == content
    assert len(kept_in(cache)) == 1


def test_a_changed_file_a_new_file_and_another_size_are_other_data(cache: Any, folder: Any) -> None:
    seen = [read(folder).fingerprint, read(folder, image_size=4).fingerprint]
    path = folder / "train" / "red" / "000.png"
    os.utime(path, ns=(0, 0))
    seen.append(read(folder).fingerprint)
    Image.new("RGB", (8, 8)).save(folder / "train" / "red" / "new.png")
    seen.append(read(folder).fingerprint)
    assert len(set(seen)) == 4
    assert len(kept_in(cache)) == 4


def test_the_fingerprint_tells_splits_apart(cache: Any, folder: Any) -> None:
    seen = [read(folder, **k) for k in ({}, {"seed": 1}, {"validation": 0.2}, {"train_samples": 6})]
    assert len({data.fingerprint for data in seen}) == 4


def test_two_that_want_the_same_images_at_once_decode_them_once(
    cache: Any, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier, build_lock, decode_all = threading.Barrier(2), data_cache._build_lock, decoding.decode_files
    results, decoded = [], []

    def together(built: Path) -> Any:
        barrier.wait(5)  # both have found nothing
        return build_lock(built)

    def counted(*args: Any) -> None:
        decoded.append(args)
        decode_all(*args)

    monkeypatch.setattr(data_cache, "_build_lock", together)
    monkeypatch.setattr(decoding, "decode_files", counted)
    threads = [threading.Thread(target=lambda: results.append(read(folder).images.sum())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0] == results[1]
    assert len(decoded) == len(kept_in(cache)) == 1


def test_what_a_killed_process_left_is_cleared_away(cache: Any, folder: Any) -> None:
    images = read(folder).images
    kept = kept_in(cache)[0]
    kept.rename(kept.with_name(f".{kept.name}.part"))
    assert np.array_equal(read(folder).images, images)
    assert kept_in(cache) == [kept]
    assert not list(cache.glob(".*.part"))


def test_images_that_do_not_fit_the_disk_are_refused_before_they_are_decoded(cache: Any, folder: Any) -> None:
    with pytest.raises(ValueError, match=r"bytes of images do not fit"):
        read(folder, image_size=10_000_000)
    assert not kept_in(cache)


def test_the_cache_is_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "of_all"))
    assert data_cache.cache_dir() == tmp_path / "of_all"
    assert data_cache.cache_dir(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.delenv("STUDY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_cache.cache_dir() == tmp_path / ".cache" / "pruning-study"
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="STUDY_CACHE"):
        load("digits", cache=tmp_path / "file")
